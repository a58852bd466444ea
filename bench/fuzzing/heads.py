"""Requests on a connection: the fast-path parser and Gunicorn's parser agree for every segmentation."""

from gunicorn.config import Config
from gunicorn.http.errors import ParseException

from bench.fuzzing.cuts import cuttings
from bench.fuzzing.pieces import HEAD_PIECES, ORDINARY_HEAD, PEER
from bench.fuzzing.words import by_words
from serving.predict.exchange import Target
from serving.worker.http11 import input_buffer as inputs
from serving.worker.http11 import request_head as heads
from serving.worker.http11.chunked import ChunkedBody
from serving.worker.http11.input_buffer import InputBuffer
from serving.worker.http11.request_body import Body, LengthBody
from serving.worker.http11.request_head import Parser, RequestHead

LIMIT = 300
"""Bytes of a request line and of a field."""
heads.FAST_BYTES = LIMIT
heads.target_of = lambda *_, **__: Target("/")  # type: ignore[attr-defined]  # every request is a prediction's
inputs.MAX_HEAD = 3 * LIMIT

CONFIGURATION = Config()
CONFIGURATION.set("limit_request_line", LIMIT)
CONFIGURATION.set("limit_request_field_size", LIMIT)
CONFIGURATION.set("limit_request_fields", heads.FAST_FIELDS)

CHUNKED = b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
SEEDS = [
    ORDINARY_HEAD + b"123456789012" + ORDINARY_HEAD,
    CHUNKED + b"5;a=b\r\nhello\r\n0\r\nX: a\r\n\r\n" + ORDINARY_HEAD,
    b"\r\n" + ORDINARY_HEAD.replace(b"Content-Length: 12", b"Content-Length: 0"),
    *[ORDINARY_HEAD.replace(b"\r\n\r\n", b"\r\n" + piece + b"\r\n\r\n") for piece in HEAD_PIECES],
    *[ORDINARY_HEAD.replace(b"POST /predict?top=3 ", piece) for piece in HEAD_PIECES],
    b"GET /" + b"a" * (LIMIT - 16) + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * heads.FAST_FIELDS + b"\r\n",
]

mutate = by_words([*HEAD_PIECES, *ORDINARY_HEAD.splitlines(keepends=True), b"\r\n\r\n", b"\xa0", b"\x85"])


def feed(data: bytes) -> None:
    """Parse a connection's bytes with both parsers in all segmentations."""
    read = [[outcome(pieces, fast=fast) for fast in (True, False)] for pieces in cuttings(data)]
    for by_both in read:
        assert by_both[0] == by_both[1], f"the fast path reads {by_both[0]}, Gunicorn's parser {by_both[1]}"
    whole = without_messages(read[0][0])
    for by_both in read[1:]:
        cut = without_messages(by_both[0])
        assert cut == whole, f"in pieces it is {cut}, and whole {whole}"


def outcome(pieces: list[bytes], *, fast: bool) -> list[object]:
    """Return each request's head and body, and what comes last: "waits", or the name of the parser's exception.

    It goes on as `serving.worker.connection.Connection` does.
    """
    waiting = InputBuffer(Parser(CONFIGURATION, fast=fast))
    found: list[object] = []
    body: Body | None = None
    for piece in pieces:
        waiting.add(piece)
        try:
            while True:
                if body is None:
                    if (head := waiting.head(PEER)) is None:
                        break
                    found.append(said(head))
                    if head.length is not None and head.length <= len(waiting):
                        found.append(waiting.take(head.length))
                        continue
                    body = ChunkedBody(head.original) if head.length is None else LengthBody(head.length)
                if len(waiting):
                    body.feed(waiting.take())
                if not body.done:
                    break
                found.append(bytes(body.data))
                waiting.put(body.rest)
                body = None
        except ParseException as error:
            return [*found, type(error).__name__]
    return [*found, "waits"]


def said(head: RequestHead) -> tuple[object, ...]:
    """Return the content of a request head, without its parser."""
    framing = head.length, head.keep_alive, head.expects_continue, head.size
    return head.method, head.path, head.query, dict(head.headers), head.version, *framing


def without_messages(found: list[object]) -> list[object]:
    """Return an outcome with one word for all errors: of two faults either may be found first."""
    return [*found[:-1], found[-1] == "waits"]
