"""The bytes of a response, as Flask and Gunicorn would have written them."""

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
    """The value of the Date field (RFC 9110, section 6.6.1), formatted once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def now(self) -> str:
        """Return the value for this second."""
        second = int(time.time())
        if second != self._second:
            self._second, self._text = second, util.http_date(second)
        return self._text


def status_line(status: HTTPStatus) -> str:
    """Return status code and reason phrase, as WSGI has them."""
    return _STATUS_LINES[status]


def render(response: Response, version: tuple[int, int], date: str, *, keep_alive: bool) -> bytes:
    """Return the bytes of a response.

    Args:
        response: the response.
        version: of HTTP, as the request has it.
        date: the value of the Date field.
        keep_alive: whether the connection stays open.

    Raises:
        ValueError: the name or value of a field is malformed, and would split the response.
    """
    headers = response.headers
    fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if fields:
        # One check of all values together: each of its conditions is about single characters.
        values = "".join(headers.values())
        plain = values.isascii() and values.isprintable()
        if not (_are_names(tuple(headers)) and (plain or HEADER_VALUE_RE.fullmatch(values))):
            raise ValueError(f"a response field cannot be written: {headers}")
    start = _start(int(response.status), version, date, keep_alive)
    head = (
        f"{start}{fields}Content-Type: {response.media_type}\r\nContent-Length: {len(response.body)}\r\n\r\n"
    )
    return head.encode("latin-1") + response.body


@lru_cache(maxsize=64)
def _start(status: int, version: tuple[int, int], date: str, keep_alive: bool) -> str:
    """Return status line and first fields, which are the same in most responses of a second."""
    return (
        f"HTTP/{version[0]}.{version[1]} {_STATUS_LINES[HTTPStatus(status)]}\r\n"
        f"Server: {SERVER}\r\nDate: {date}\r\nConnection: {'keep-alive' if keep_alive else 'close'}\r\n"
    )


@lru_cache(maxsize=64)
def _are_names(names: tuple[str, ...]) -> bool:
    """Return whether all are field names (RFC 9110, section 5.1); few combinations occur."""
    return all(TOKEN_RE.fullmatch(name) for name in names)
