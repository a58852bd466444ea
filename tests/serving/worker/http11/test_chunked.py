"""The chunked coding, undone as bytes arrive: what Gunicorn's reader takes and refuses, this takes and refuses."""

import itertools

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.fuzzing.pieces import CHUNK_PIECES, CHUNKED_HEAD, NEXT, PEER
from serving.worker.http11.chunked import MAX_OVERHEAD, ChunkedBody

CONFIGURATION = Config()


def by_gunicorn(data: bytes) -> bytes | str:
    """Return the body as Gunicorn's reader has it, or the name of what it raises."""
    request = Request(CONFIGURATION, IterUnreader([CHUNKED_HEAD + data]), PEER)
    try:
        body: bytes = request.body.read()
    except (ParseException, NoMoreData) as error:
        return type(error).__name__
    return body


def here(*pieces: bytes) -> tuple[bytes | str, bytes]:
    """Return the body, or the name of what is raised, and what follows the body."""
    body = ChunkedBody(Request(CONFIGURATION, IterUnreader([CHUNKED_HEAD]), PEER))
    try:
        for number, piece in enumerate(pieces):
            body.feed(piece)
            if body.done:
                return bytes(body.data), body.rest + b"".join(pieces[number + 1 :])
    except ParseException as error:
        return type(error).__name__, b""
    return "NoMoreData", b""


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"0\r\n\r\n", b""),
        (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"hello world"),
        (b"A\r\n0123456789\r\n00\r\n\r\n", b"0123456789"),
        (b'5 ; a = b;c="d;e"\r\nhello\r\n0\r\nX-Checksum: 1\r\n\r\n', b"hello"),
        (b"5\r\nhel", "NoMoreData"),
        (b"5\nhello\r\n0\r\n\r\n", "InvalidChunkSize"),
        (b"5\r\nhello0\r\n\r\n", "ChunkMissingTerminator"),
        (b"+5\r\nhello\r\n0\r\n\r\n", "InvalidChunkSize"),
        (b"0x5\r\nhello\r\n0\r\n\r\n", "InvalidChunkSize"),
        (b"5;\r\nhello\r\n0\r\n\r\n", "InvalidChunkExtension"),
        (b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n", "InvalidHeaderName"),
        (b"5\r\nhello\r\n0\r\nHost: a\r\n\r\n", "InvalidHeaderName"),
        (b"5\r\nhello\r\n0\r\nX: a\n\r\n", "InvalidHeader"),
    ],
)
def test_bodies_good_and_bad(data: bytes, expected: bytes | str) -> None:
    """Each is read or refused as RFC 9112, section 7.1, has it, at once and byte by byte."""
    assert by_gunicorn(data) == expected
    found, rest = here(data + NEXT) if isinstance(expected, bytes) else here(data)
    assert found == expected
    assert rest == (NEXT if isinstance(expected, bytes) else b"")
    assert here(*[bytes([byte]) for byte in data])[0] == expected


@settings(max_examples=1500, deadline=None)
@given(
    st.lists(st.sampled_from(CHUNK_PIECES), max_size=12).map(b"".join),
    st.lists(st.integers(0, 80), max_size=4),
)
def test_any_body_is_read_or_refused_as_by_gunicorn(data: bytes, cuts: list[int]) -> None:
    """Made of pieces at random and cut at random places; the same bytes, or a refusal where Gunicorn refuses."""
    places = [0, *sorted(cuts), len(data)]
    parts = [data[start:stop] for start, stop in itertools.pairwise(places)]
    theirs, ours = by_gunicorn(data), here(*parts)[0]
    if isinstance(theirs, bytes):
        assert ours == theirs
    else:
        assert isinstance(ours, str)


def test_more_framing_than_data_is_refused() -> None:
    """A client cannot keep a server busy with extensions that it forgets."""
    chunk = b"1;" + b"x" * 2000 + b"\r\na\r\n"
    assert here(chunk * (2 + MAX_OVERHEAD // 2000))[0] == "InvalidChunkExtension"
    assert here(b"1\r\na\r\n" * 50_000 + b"0\r\n\r\n")[0] == b"a" * 50_000


def test_a_forgotten_body_is_still_read_to_its_end() -> None:
    """Nothing is kept of what was refused, and the next request is found."""
    body = ChunkedBody(Request(CONFIGURATION, IterUnreader([CHUNKED_HEAD]), PEER))
    body.feed(b"5\r\nhel")
    body.discard_data()
    body.feed(b"lo\r\n0\r\n\r\n" + NEXT)
    assert body.done
    assert (bytes(body.data), body.size, body.rest) == (b"", 5, NEXT)
