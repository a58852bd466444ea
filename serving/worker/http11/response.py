"""From an answer to the bytes on the wire: those that Flask and Gunicorn would have written."""

import time
from functools import lru_cache
from http import HTTPStatus

from gunicorn import SERVER, util
from gunicorn.http.wsgi import HEADER_VALUE_RE, TOKEN_RE
from werkzeug.http import HTTP_STATUS_CODES

from serving.predict.exchange import Response

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_STATUS_LINES = {
    status: f"{status.value} {HTTP_STATUS_CODES.get(status, status.phrase).upper()}" for status in HTTPStatus
}
"""As Werkzeug writes them."""


class Dates:
    """The Date field (RFC 9110, section 6.6.1), written anew once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def now(self) -> str:
        """Return the field's value."""
        second = int(time.time())
        if second != self._second:
            self._second, self._text = second, util.http_date(second)
        return self._text


def status_line(status: HTTPStatus) -> str:
    """Return code and reason, as WSGI has them."""
    return _STATUS_LINES[status]


def render(answer: Response, version: tuple[int, int], date: str, *, keep_alive: bool) -> bytes:
    """Return a response, whole.

    Raises:
        ValueError: a field has a name or a value that would be read as something else.
    """
    headers = answer.headers
    fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if fields:
        # What holds for each character of all of them together holds for each of them.
        values = "".join(headers.values())
        plain = values.isascii() and values.isprintable()
        if not (_are_names(tuple(headers)) and (plain or HEADER_VALUE_RE.fullmatch(values))):
            raise ValueError(f"a response field cannot be written: {headers}")
    start = _start(int(answer.status), version, date, keep_alive)
    head = f"{start}{fields}Content-Type: {answer.media_type}\r\nContent-Length: {len(answer.body)}\r\n\r\n"
    return head.encode("latin-1") + answer.body


@lru_cache(maxsize=64)
def _start(status: int, version: tuple[int, int], date: str, keep_alive: bool) -> str:
    """Return what a response begins with: for a second it is the same in most of them."""
    return (
        f"HTTP/{version[0]}.{version[1]} {_STATUS_LINES[HTTPStatus(status)]}\r\n"
        f"Server: {SERVER}\r\nDate: {date}\r\nConnection: {'keep-alive' if keep_alive else 'close'}\r\n"
    )


@lru_cache(maxsize=64)
def _are_names(names: tuple[str, ...]) -> bool:
    """Tell whether all may be names of fields (RFC 9110, section 5.1); there are few."""
    return all(TOKEN_RE.fullmatch(name) for name in names)
