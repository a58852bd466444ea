"""HTTP downloads that are bounded in time and size, and that tell no secret of their URLs."""

import base64
import http.client
import queue
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import IO
from urllib.parse import unquote, urlsplit, urlunsplit

from common.errors import one_line

TIMEOUT_SECONDS = 30.0
"""Timeout of the connection, and of each read."""
CHUNK_BYTES = 1 << 20
READ_AHEAD = 4
"""Chunks that are received before the first of them is asked for."""
_CREDENTIALS = re.compile(r"(?<=://).*@", re.DOTALL)
"""Up to the last @: a password that is not encoded may hold an @, a slash or a question mark."""
_SECRETS = re.compile(r"(?<=://)[^\s'\"]*@|\?[^\s'\"]*")
"""User name and password, and the query, of a URL in a text."""


class DownloadError(Exception):
    """A file could not be downloaded; the message is one line, without user names, passwords and queries."""


class NotThereError(DownloadError):
    """The server answered that there is no such file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Download:
    """A response whose body is being received."""

    length: int | None
    """Bytes of the body, if the server states them."""
    chunks: Iterator[bytes]
    """The body; it raises `DownloadError`."""


def shown_url(url: str) -> str:
    """Return a URL as messages show it: without user name, password, query and fragment."""
    return _CREDENTIALS.sub("", url).partition("?")[0].partition("#")[0]


def without_secrets(text: object) -> str:
    """Return a text with the user names, passwords and queries of the URLs in it removed."""
    return _SECRETS.sub("", str(text))


def below(url: str, name: str) -> str:
    """Return the URL of `name` below a directory's URL, whose query it keeps: signed URLs have their token there."""
    address = urlsplit(url)
    return urlunsplit(address._replace(path=f"{address.path.rstrip('/')}/{name}"))


def download(url: str, *, limit: int, deadline: float) -> Download:
    """Ask for an HTTP URL, and return its body as it arrives.

    A redirect is followed within its scheme alone: https would otherwise become http, or a file of this machine. User
    name and password of the URL are sent as basic authentication (RFC 7617), not to where a redirect leads.

    A thread receives, because no timeout of a socket bounds a server that sends a byte now and then, in the head or
    the body, nor the look-up of a name. At the deadline it is left behind.

    Args:
        url: of a file.
        limit: most bytes of the body.
        deadline: by `time.monotonic()`.

    Raises:
        DownloadError: the server does not answer with the file; the redirect leads to another scheme; or the deadline
            is over.
    """
    arrived: queue.Queue[int | bytes | Exception | None] = queue.Queue(READ_AHEAD)
    shown = shown_url(url)
    late = f"{shown} cannot be fetched: it did not arrive in time"

    def left() -> float:
        return max(0.0, deadline - time.monotonic())

    def receive() -> None:
        with suppress(queue.Full):  # nobody waits any more
            try:
                for part in _receive(url, limit):
                    arrived.put(part, timeout=left())
            except Exception as error:  # noqa: BLE001 - raised in the thread that waits
                arrived.put(error, timeout=left())

    def take() -> int | bytes | None:
        try:
            part = arrived.get(timeout=left()) if left() else DownloadError(late)
        except queue.Empty:
            raise DownloadError(late) from None
        if isinstance(part, Exception):
            raise _said(part, shown) from None
        return part

    def chunks() -> Iterator[bytes]:
        while isinstance(part := take(), bytes) and part:
            yield part

    threading.Thread(target=receive, name="download", daemon=True).start()
    length = take()
    return Download(length=length if isinstance(length, int) else None, chunks=chunks())


def _receive(url: str, limit: int) -> Iterator[int | bytes | None]:
    """Yield the body's length, if stated, then its chunks, and an empty one at the end."""
    opener = urllib.request.build_opener(_SameScheme)
    with opener.open(_request(url), timeout=TIMEOUT_SECONDS) as response:
        expected, received = response.length, 0
        yield expected
        while chunk := response.read(CHUNK_BYTES):
            received += len(chunk)
            if received > limit:
                raise DownloadError(f"{shown_url(url)} has more than {limit} bytes")
            yield chunk
        if expected is not None and received != expected:
            raise DownloadError(f"{shown_url(url)} ended after {received} of {expected} bytes")
    yield b""


def _request(url: str) -> urllib.request.Request:
    if not url.isprintable() or " " in url:
        raise ValueError("the URL has a space or a control character")
    address = urlsplit(url)
    credentials, _, host = address.netloc.rpartition("@")
    if address.scheme not in ("http", "https"):
        raise ValueError("only http and https are fetched")
    plain = urlunsplit(address._replace(netloc=host))
    request = urllib.request.Request(plain, headers={"User-Agent": "glyph"})  # noqa: S310 - checked above
    if credentials:
        encoded = base64.b64encode(unquote(credentials).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {encoded}")
    return request


class _SameScheme(urllib.request.HTTPRedirectHandler):
    """Follows redirects within a scheme."""

    def http_error_302(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
    ) -> object:
        """Follow a redirect, unless it leads to another scheme."""
        target = headers.get("location") or headers.get("uri") or ""
        scheme = urlsplit(target).scheme or req.type
        if scheme != req.type:
            fp.close()
            raise DownloadError(
                f"{shown_url(req.full_url)} redirects to {one_line(shown_url(target))}, and a redirect "
                "to another scheme is not followed: give that URL itself if you trust it"
            )
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _said(error: Exception, url: str) -> Exception:
    """Return the HTTP client's exception as a `DownloadError`, and any other as it is."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        kind = NotThereError if error.code in (404, 410) else DownloadError
        return kind(f"{url} returned {error.code} {one_line(without_secrets(error.reason))}")
    # URLError and time-outs are OSErrors; an address that is not ASCII is a ValueError.
    if isinstance(error, (OSError, http.client.HTTPException, ValueError)):
        reason = one_line(without_secrets(getattr(error, "reason", None) or error))
        return DownloadError(f"{url} cannot be fetched: {reason}")
    return error
