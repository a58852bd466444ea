"""Reads the body of a WSGI request within its limit, chunked or not."""

import contextlib
import logging
from typing import Any

from werkzeug.wsgi import get_content_length, get_input_stream

from serving.errors import OverloadedError
from serving.predict.load_shedding import MAX_DISCARDED_BYTES, MemoryReservation
from serving.predict.pipeline import body_too_large, malformed_framing
from serving.telemetry.logs import redacted

log = logging.getLogger("glyph.serving")

STEP_BYTES = 1 << 16


def read(environ: dict[str, Any], limit: int, reservation: MemoryReservation) -> bytes:
    """Return the body of a request; at most `limit` + 1 bytes are read.

    Raises:
        BodyTooLargeError: it is larger than `limit`.
        OverloadedError: the memory for requests is in use.
        MalformedBodyError: the framing is broken, or the body ends early.
    """
    announced = get_content_length(environ)
    if announced is None or announced <= limit:
        try:
            body = _read(environ, announced, limit + 1, reservation)
        except (OverloadedError, MemoryError):  # not the client's fault
            raise
        # Each WSGI server has exceptions of its own for broken framing.
        except Exception as error:
            log.info("a request's body could not be read: %s", redacted(error))
            raise malformed_framing() from error
        if len(body) <= limit:
            return body
    raise body_too_large(limit)


def discard(environ: dict[str, Any]) -> None:
    """Read and discard the rest of a rejected request's body, up to `MAX_DISCARDED_BYTES`.

    Gunicorn closes a connection with much unread data, and the TCP reset that follows discards the response of a
    client that is still sending. For larger bodies that is accepted.
    """
    if not environ.get("wsgi.input_terminated"):
        return  # the stream may have no end, and reading on would block forever
    if (get_content_length(environ) or 0) > MAX_DISCARDED_BYTES:
        return
    stream, left = environ["wsgi.input"], MAX_DISCARDED_BYTES
    with contextlib.suppress(Exception):  # the body may be malformed
        while left > 0 and (chunk := stream.read(min(left, STEP_BYTES))):
            left -= len(chunk)


def _read(environ: dict[str, Any], announced: int | None, most: int, reservation: MemoryReservation) -> bytes:
    """Read at most `most` bytes of the body.

    Flask's `get_data()` would silently truncate a chunked body at MAX_CONTENT_LENGTH.
    """
    # Without `wsgi.input_terminated` there are no chunked bodies, and Werkzeug ends the stream at Content-Length.
    terminated = environ.get("wsgi.input_terminated")
    stream = environ["wsgi.input"] if terminated else get_input_stream(environ)
    body = bytearray()
    while len(body) < most and (piece := stream.read(min(STEP_BYTES, most - len(body)))):
        body += piece
        reservation.resize(len(body))
    if announced is not None and len(body) < announced:
        raise EOFError("the client closed the connection")
    return bytes(body)
