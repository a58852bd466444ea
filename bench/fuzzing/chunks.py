"""Chunked bodies: the same result for every segmentation of the bytes, and as the reference decoder's."""

import re

from gunicorn.config import Config
from gunicorn.http.errors import ParseException
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader

from bench.fuzzing.cuts import cuttings
from bench.fuzzing.pieces import CHUNK_PIECES, CHUNKED_HEAD, NEXT, PEER
from bench.fuzzing.words import by_words
from serving.worker.http11 import chunked
from serving.worker.http11.chunked import ChunkedBody

LINE = 64
chunked.MAX_TRAILERS = TRAILERS = 80
chunked.MAX_OVERHEAD = OVERHEAD = 100
CONFIGURATION = Config()
CONFIGURATION.set("limit_request_field_size", LINE)

SEEDS = [
    b"0\r\n\r\n" + NEXT,
    b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n" + NEXT,
    b'5 ; a = b;c="d;\\"e"\r\nhello\r\n0\r\nX-Checksum: 1\r\nY: 2\r\n\r\n' + NEXT,
    b"1;" + b"x" * 30 + b"\r\na\r\n" + b"1;x=" + b"y" * 40 + b"\r\na\r\n0\r\n\r\n",
    b"000a\r\n0123456789\r\n0\r\nX: " + b"a" * 50 + b"\r\n\r\n",
    *[b"1;" + b"x" * (LINE - 2 + more) + b"\r\na\r\n0\r\n\r\n" for more in (0, 1)],
    *[b"0\r\nX:" + b"x" * (TRAILERS - 2 + more) + b"\r\n\r\n" for more in (0, 1)],
    *[b"5\r\nhello\r\n" + piece + b"\r\n0\r\n" + piece + b"\r\n\r\n" for piece in CHUNK_PIECES],
]
mutate = by_words([*CHUNK_PIECES, b"\r\n\r\n"])

TOKEN = rb"[!#$%&'*+\-.^`|~0-9A-Za-z_]+"
QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
CHUNK_LINE = re.compile(
    rb"([0-9A-Fa-f]+)[ \t]*((?:[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?)*)[ \t]*" % (TOKEN, TOKEN, QUOTED)
)
"""A chunk's size and extensions (RFC 9112, section 7.1.1, including the bad whitespace that recipients accept)."""

Found = tuple[bytes, bytes] | None
"""A body and the bytes after it; None if it is incomplete."""


def feed(data: bytes) -> None:
    """Decode all segmentations, and compare with the reference."""
    found = [here(pieces) for pieces in cuttings(data)]
    assert all(each == found[0] for each in found), f"it depends on the packets: {found}"
    if not isinstance(found[0], str):
        assert found[0] == reference(data), f"{found[0]} is {reference(data)} by the reference"


def here(pieces: list[bytes]) -> tuple[bytes, bytes] | str:
    """Return the body and the bytes after it; "waits" if it is incomplete, "refused" if invalid."""
    body = ChunkedBody(Request(CONFIGURATION, IterUnreader([CHUNKED_HEAD]), PEER))
    most = 0
    try:
        for number, piece in enumerate(pieces):
            body.feed(piece)
            most += len(piece)
            assert len(body.data) == body.size <= body.held <= most, "it holds more than has arrived"
            if not body.done:
                framing = body.held - body.size
                assert framing <= max(LINE, TRAILERS + len(b"\r\n\r\n")) + 2, f"{framing} bytes of framing"
                continue
            return bytes(body.data), body.rest + b"".join(pieces[number + 1 :])
    except ParseException:
        return "refused"
    return "waits"


def reference(data: bytes) -> Found:
    """Decode a complete body after RFC 9112, section 7.1, and the limits."""
    body, overhead, at = b"", 0, 0
    while True:
        line, end, _ = data[at:].partition(b"\r\n")
        parts = CHUNK_LINE.fullmatch(line)
        if not end or parts is None or len(line) > LINE:
            return None
        size = int(parts[1], 16)
        overhead = max(0, overhead + len(line) - 16 - 2 * size)
        at += len(line) + 2
        if overhead > OVERHEAD:
            return None
        if not size:
            break
        if data[at + size : at + size + 2] != b"\r\n":
            return None
        body += data[at : at + size]
        at += size + 2
    if data.startswith(b"\r\n", at):
        return body, data[at + 2 :]
    trailers, end, rest = data[at:].partition(b"\r\n\r\n")
    fields = trailers.split(b"\r\n")
    sound = all(re.fullmatch(TOKEN + rb":[^\r\n\0]*", field) for field in fields)
    return (body, rest) if end and sound and len(trailers) <= TRAILERS else None
