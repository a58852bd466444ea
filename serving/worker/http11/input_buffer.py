"""Bytes that have arrived on a connection and are not parsed yet, and the request heads in them.

Requests are parsed in place, and only bytes that arrive while older ones are unread are copied. So a client that
pipelines many requests costs no more than many clients. A head that arrives byte by byte is searched once, and its
limits hold wherever it is cut into packets.
"""

from typing import Any

from gunicorn.http.errors import (
    InvalidHeader,
    InvalidRequestLine,
    LimitRequestHeaders,
)

from serving.worker.http11.chunked import has_bare_lf
from serving.worker.http11.request_head import Parser, RequestHead, over_limit

MAX_HEAD = 32 << 10
"""Most bytes of a request head, whatever it consists of."""


class InputBuffer:
    """The unread bytes of one connection. `len` returns their number."""

    def __init__(self, parser: Parser) -> None:
        self._parser = parser
        self._data: bytes | bytearray = b""
        self._at = 0  # where the unread bytes begin
        self._searched = 0  # up to here there is no end of a head
        self._line_read = False  # whether the request line is whole and valid
        self.begun = False
        """Whether a head has begun to arrive and is not whole."""

    def __len__(self) -> int:
        return len(self._data) - self._at

    @property
    def held(self) -> int:
        """Bytes in memory, including those of the last packet that are read already."""
        return len(self._data)

    def add(self, data: bytes) -> None:
        """Append bytes that have arrived."""
        if self._at >= len(self._data):
            self._data, self._at = data, 0
            return
        if self._at or not isinstance(self._data, bytearray):
            self._data = bytearray(memoryview(self._data)[self._at :])
            self._searched = max(0, self._searched - self._at)
            self._at = 0
        self._data += data

    def put(self, data: bytes) -> None:
        """Replace all unread bytes."""
        self._data, self._at = data, 0
        self._searched, self._line_read = 0, False

    def take(self, length: int | None = None) -> bytes:
        """Read and return `length` bytes, by default all."""
        data, start = self._data, self._at
        end = len(data) if length is None else start + length
        if end >= len(data):
            self._data, self._at = b"", 0
        else:
            self._at = end
        return bytes(data[start:end])

    def head(self, client: Any) -> RequestHead | None:
        """Read and return a request head; None if it is not whole.

        Args:
            client: the client's address, as the socket has it.

        Raises:
            ParseException: the head is malformed or too long, as soon as the bytes so far show it.
        """
        data, at = self._data, self._at
        if at >= len(data):
            return None
        end = data.find(b"\r\n\r\n", max(at, self._searched - 3))
        if end == at:  # one empty line may precede a request (RFC 9112, section 2.2)
            end = data.find(b"\r\n\r\n", at + 2)
        if end < 0:
            self._check_partial(data, at, client)
            return None
        if end + 4 - at > MAX_HEAD:  # rejected for the same reason as if it had come in pieces
            self._check_partial(data[: at + MAX_HEAD], at, client)
        parsed = self._parser.read(bytes(data[at : end + 4]), client)
        if parsed is None:  # Gunicorn takes it for half a head
            self._searched = len(data)
            return None
        self._at = end + 4
        self._searched, self._line_read, self.begun = 0, False, False
        return parsed

    def _check_partial(self, data: bytes | bytearray, at: int, client: Any) -> None:
        """Reject a head before it is whole: for its request line, a bare LF, or its size."""
        fresh, self._searched = max(at, self._searched), len(data)
        self.begun = True
        if not self._line_read:
            start = at + 2 if data.startswith(b"\r\n", at) else at
            end = data.find(b"\r\n", max(start, fresh - 1))
            limit = self._parser.configuration.limit_request_line
            if end < 0 and len(data) - start - 2 > limit > 0:
                raise over_limit(bytes(data[start:]), limit)
            if end < 0 and has_bare_lf(data, fresh, at):
                raise InvalidRequestLine("bare LF as line terminator")
            if end >= 0:
                self._parser.check_line(bytes(data[at : end + 2]), client)
                self._line_read = True
        if has_bare_lf(data, fresh, at):
            raise InvalidHeader("bare LF as line terminator")
        if len(data) - at >= MAX_HEAD:
            raise LimitRequestHeaders("limit request head size")
