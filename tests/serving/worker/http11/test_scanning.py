"""What a client sends byte by byte: each byte is looked at a few times, and no limit depends on the packets."""

from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import ParseException
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader

from serving.worker.http11 import chunked, input_buffer, request_head
from serving.worker.http11.chunked import MAX_TRAILERS, ChunkedBody
from serving.worker.http11.input_buffer import MAX_HEAD, InputBuffer
from serving.worker.http11.request_head import Parser

CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
LOOKS = 20
"""Most times that a byte is looked at: by each search, and with the few bytes before it."""


class Looks:
    """How many bytes were searched."""

    count = 0


class Counting(bytearray):
    """A buffer that counts the bytes that are searched, counted or copied out of it."""

    def find(self, sub: Any, start: Any = 0, end: Any = None) -> int:
        """Count and find."""
        Looks.count += max(0, (len(self) if end is None else end) - start)
        return super().find(sub, start)

    def count(self, sub: Any, start: Any = 0, end: Any = None) -> int:
        """Count and count."""
        Looks.count += max(0, (len(self) if end is None else end) - start)
        return super().count(sub, start)

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        Looks.count += len(found) if isinstance(found, bytearray) else 1
        return found


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> type[Looks]:
    """Return the counter of what is searched in the buffers of connections."""
    Looks.count = 0
    read_full = request_head.read_full

    def counted(pieces: list[bytes], *arguments: Any) -> Any:
        Looks.count += sum(map(len, pieces))
        return read_full(pieces, *arguments)

    monkeypatch.setattr(input_buffer, "bytearray", Counting, raising=False)
    monkeypatch.setattr(chunked, "bytearray", Counting, raising=False)
    monkeypatch.setattr(request_head, "read_full", counted)
    return Looks


def an_input() -> InputBuffer:
    """Return the input of a connection."""
    return InputBuffer(Parser(Config(), fast=True))


def a_body() -> ChunkedBody:
    """Return a body of which nothing has arrived."""
    return ChunkedBody(Request(Config(), IterUnreader([CHUNKED]), ("203.0.113.7", 1)))


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"a" * 4000 + b" HTTP/1.1\r\nHost: a\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 1200,
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 7000,
    ],
    ids=["request line", "many fields", "long field"],
)
def test_a_head_that_grows_byte_by_byte_is_searched_once(looks: type[Looks], data: bytes) -> None:
    """Not from its start for each packet."""
    waiting = an_input()
    for byte in data:
        waiting.add(bytes([byte]))
        assert waiting.head(("203.0.113.7", 1)) is None
    assert len(data) <= looks.count < LOOKS * len(data)


@pytest.mark.parametrize(
    "data",
    [b"5;a=" + b"b" * 7000, b"0\r\n" + b"X: a\r\n" * 1200, b"0\r\nX: " + b"a" * 7000],
    ids=["extension", "many trailers", "long trailer"],
)
def test_a_chunks_framing_that_grows_byte_by_byte_is_searched_once(looks: type[Looks], data: bytes) -> None:
    """Extensions and trailers."""
    body = a_body()
    for byte in data:
        body.feed(bytes([byte]))
        assert not body.done
    assert len(data) <= looks.count < LOOKS * len(data)


def head_of(size: int) -> bytes:
    """Return a head of so many bytes, in fields of a kilobyte."""
    start = b"GET / HTTP/1.1\r\nHost: a\r\n"
    whole, rest = divmod(size - len(start) - 2, 1024)
    return (
        start + (b"X: " + b"a" * 1019 + b"\r\n") * (whole - 1) + b"X: " + b"a" * (1019 + rest) + b"\r\n\r\n"
    )


def outcome_of_head(data: bytes, piece: int) -> str:
    """Return what comes of a head in pieces of so many bytes."""
    waiting = an_input()
    try:
        for at in range(0, len(data), piece):
            waiting.add(data[at : at + piece])
            if waiting.head(("203.0.113.7", 1)) is not None:
                return "read"
    except ParseException as error:
        return type(error).__name__
    return "waits"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (head_of(MAX_HEAD), "read"),
        (head_of(MAX_HEAD + 1), "LimitRequestHeaders"),
        (head_of(200_000), "LimitRequestHeaders"),
        (b"GET /" + b"a" * 4080 + b" HTTP/1.1\r\nHost: a\r\n\r\n", "read"),
        (b"GET /" + b"a" * 4081 + b" HTTP/1.1\r\nHost: a\r\n\r\n", "LimitRequestLine"),
        (b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", "InvalidHeader"),
        (b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "InvalidRequestLine"),
    ],
)
def test_a_heads_limits_do_not_depend_on_the_packets(data: bytes, expected: str) -> None:
    """In one piece, in pieces, and byte by byte."""
    assert {outcome_of_head(data, piece) for piece in (len(data), 3000, 64, 1)} == {expected}


def outcome_of_body(data: bytes, piece: int) -> str:
    """Return what comes of a chunked body in pieces of so many bytes."""
    body = a_body()
    try:
        for at in range(0, len(data), piece):
            body.feed(data[at : at + piece])
            if body.done:
                return "read"
    except ParseException as error:
        return type(error).__name__
    return "waits"


def trailers_of(size: int) -> bytes:
    """Return a body without data whose trailer section has so many bytes."""
    fields = (b"X: " + b"a" * 995 + b"\r\n") * (size // 1000 - 1)
    return b"0\r\n" + fields + b"X: " + b"a" * (size - len(fields) - 3) + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (trailers_of(MAX_TRAILERS), "read"),
        (trailers_of(MAX_TRAILERS + 1), "LimitRequestHeaders"),
        (trailers_of(40_000), "LimitRequestHeaders"),
        (b"1;" + b"a" * 8188 + b"\r\na\r\n0\r\n\r\n", "read"),
        (b"1;" + b"a" * 8189 + b"\r\na\r\n0\r\n\r\n", "InvalidChunkSize"),
        (b"0\r\nX: a\nY: b\r\n\r\n", "InvalidHeader"),
    ],
)
def test_a_chunks_limits_do_not_depend_on_the_packets(data: bytes, expected: str) -> None:
    """In one piece, in pieces, and byte by byte."""
    assert {outcome_of_body(data, piece) for piece in (len(data), 3000, 64, 1)} == {expected}
