"""Read a request's body from WSGI: whole, within its limit, chunked or not."""

import contextlib
import logging
from typing import Any

from werkzeug.wsgi import get_content_length, get_input_stream

from serving.errors import OverloadedError
from serving.predict.load_shedding import MAX_DISCARDED_BYTES, Account
from serving.predict.pipeline import too_large, unreadable
from serving.telemetry.logs import redacted

log = logging.getLogger("glyph.serving")

STEP_BYTES = 1 << 16


def read(environ: dict[str, Any], limit: int, account: Account) -> bytes:
    """Return a request's body; never more than the limit is read.

    Raises:
        BodyTooLargeError: there is more.
        OverloadedError: there is no memory for it.
        MalformedBodyError: the framing is broken, or the body ends early.
    """
    announced = get_content_length(environ)
    if announced is None or announced <= limit:
        try:
            body = _read(environ, announced, limit + 1, account)
        except (OverloadedError, MemoryError):  # no fault of the body's
            raise
        # What a server raises for broken framing is its own class, and another with each server.
        except Exception as error:
            log.info("a request's body could not be read: %s", redacted(error))
            raise unreadable() from error
        if len(body) <= limit:
            return body
    raise too_large(limit)


def discard(environ: dict[str, Any]) -> None:
    """Read what is left of a refused request's body and forget it, up to a bound.

    Gunicorn closes a connection on which much is unread, and the reset that follows takes the
    answer from a client that is still sending. Beyond the bound that is the lesser evil.
    """
    if not environ.get("wsgi.input_terminated"):
        return  # such a server's stream has no end, and reading on would wait for ever
    if (get_content_length(environ) or 0) > MAX_DISCARDED_BYTES:
        return
    stream, left = environ["wsgi.input"], MAX_DISCARDED_BYTES
    with contextlib.suppress(Exception):  # a body that was broken already stays broken
        while left > 0 and (chunk := stream.read(min(left, STEP_BYTES))):
            left -= len(chunk)


def _read(environ: dict[str, Any], announced: int | None, most: int, account: Account) -> bytes:
    """Read the body, `most` bytes at most.

    Not by Flask's `get_data()`: it cuts a chunked body at MAX_CONTENT_LENGTH and says nothing.
    """
    # Without `wsgi.input_terminated` a server has no chunked bodies, and Werkzeug ends the stream at the length.
    terminated = environ.get("wsgi.input_terminated")
    stream = environ["wsgi.input"] if terminated else get_input_stream(environ)
    body = bytearray()
    while len(body) < most and (piece := stream.read(min(STEP_BYTES, most - len(body)))):
        body += piece
        account.hold(len(body))
    if announced is not None and len(body) < announced:
        raise EOFError("the client closed the connection")
    return bytes(body)
