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
    headers, body = response.headers, response.body
    values = headers.values()
    template = _template(int(response.status), version, date, keep_alive, response.media_type, tuple(headers))
    # One check of all values together: each of its conditions is about single characters.
    joined = "".join(values)
    plain = joined.isascii() and joined.isprintable()
    if template is None or not (plain or HEADER_VALUE_RE.fullmatch(joined)):
        raise ValueError(f"a response field cannot be written: {headers}")
    return (template % (*values, len(body))).encode("latin-1") + body


@lru_cache(maxsize=64)
def _template(
    status: int,
    version: tuple[int, int],
    date: str,
    keep_alive: bool,
    media_type: str,
    names: tuple[str, ...],
) -> str | None:
    """Return a response's head, with `%s` for the value of each named field and `%d` for the length of the body.

    Most responses of a second have the same one. It is None if one of the names is not a field name (RFC 9110,
    section 5.1).
    """
    if not all(TOKEN_RE.fullmatch(name) for name in names):
        return None
    start = (
        f"HTTP/{version[0]}.{version[1]} {_STATUS_LINES[HTTPStatus(status)]}\r\n"
        f"Server: {SERVER}\r\nDate: {date}\r\nConnection: {'keep-alive' if keep_alive else 'close'}\r\n"
    )
    fields = "".join([f"{name.replace('%', '%%')}: %s\r\n" for name in names])
    media_type = media_type.replace("%", "%%")
    return f"{start}{fields}Content-Type: {media_type}\r\nContent-Length: %d\r\n\r\n"
