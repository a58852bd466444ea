"""Undo the chunked transfer coding (RFC 9112, section 7.1) of bytes as they arrive.

The rules are those of `gunicorn.http.body.ChunkedReader`, which can only pull from a socket that blocks:
the same expression for extensions, the same forbidden trailers, the same exceptions. Its limits hold wherever
the bytes are cut into packets, and a line that grows byte by byte is searched once.
"""

import re
from typing import Any

from gunicorn.http.body import CHUNK_EXT_RE  # type: ignore[import-untyped]  # it ships no types
from gunicorn.http.errors import (  # type: ignore[import-untyped]
    ChunkMissingTerminator,
    InvalidChunkExtension,
    InvalidChunkSize,
    InvalidHeader,
    LimitRequestHeaders,
)

_HEXADECIMAL = re.compile(rb"[0-9A-Fa-f]{1,16}")  # 64 bits, as `head.LENGTH_BITS`
MAX_OVERHEAD = 64 << 10
"""Bytes of extensions and small chunks' framing, beyond what `FREE_OVERHEAD` allows, in one body."""
FREE_OVERHEAD = 16
"""Bytes of framing that each chunk has for nothing."""
MAX_TRAILERS = 8 << 10
"""Bytes of the trailer section; nobody here reads one."""


def has_bare_lf(data: bytes | bytearray, start: int, first: int = 0) -> bool:
    """Tell whether there is an LF without a CR before it from `start` on; from `first` to it was looked at already."""
    if start > first and data[start - 1] == ord("\r"):
        start -= 1
    return data.count(b"\n", start) != data.count(b"\r\n", start)


class ChunkedBody:
    """A body on its way. After `feed` has set `done`, `rest` is what follows it on the connection."""

    def __init__(self, request: Any) -> None:
        self.data = bytearray()
        self.size = 0
        self.done = False
        self.rest = b""
        self._request = request
        self._discarding = False
        self._overhead = 0
        self._buffer = bytearray()
        self._searched = 0  # as far as the buffer has no end of the line, or of the trailers
        self._left = 0  # of the chunk that is being read
        self._terminator = False  # the line end after a chunk's data comes next
        self._trailers = False

    @property
    def held(self) -> int:
        """Bytes that are kept, of data and of framing that is not whole yet."""
        return len(self.data) + len(self._buffer)

    @property
    def announced(self) -> int:
        """Bytes of data that there are at least, as the chunk says that is being read."""
        return self.size + self._left

    def feed(self, data: bytes) -> None:
        """Take what has arrived.

        Raises:
            ParseException: the framing is broken; where the next request starts cannot be known.
        """
        buffer = self._buffer
        buffer += data
        at = 0
        while True:
            if self._left:
                at += (taken := self._take(buffer, at))
                if self._left or not taken:
                    break
            elif self._terminator:
                if len(buffer) - at < 2:
                    break
                if buffer[at : at + 2] != b"\r\n":
                    raise ChunkMissingTerminator(bytes(buffer[at : at + 2]))
                at += 2
                self._terminator = False
            elif self._trailers:
                del buffer[:at]
                self._read_trailers()
                return
            else:
                end = buffer.find(b"\r\n", max(at, self._searched - 1))
                if (len(buffer) - 1 if end < 0 else end) - at > self._request.limit_request_field_size:
                    raise InvalidChunkSize(b"no end of the line")
                if end < 0:
                    self._searched = len(buffer) - at  # as it is counted once what is read has been cut off
                    break
                self._searched = 0
                self._start_chunk(bytes(buffer[at:end]))
                at = end + 2
        del buffer[:at]

    def discard_data(self) -> None:
        """Keep no data from now on: it is only read to find its end."""
        self.data = bytearray()
        self._discarding = True

    def _take(self, buffer: bytearray, at: int) -> int:
        """Keep data of the current chunk, and return how much there was."""
        taken = min(self._left, len(buffer) - at)
        if not self._discarding:
            with memoryview(buffer) as view:
                self.data += view[at : at + taken]
        self.size += taken
        self._left -= taken
        self._terminator = not self._left
        return taken

    def _start_chunk(self, line: bytes) -> None:
        size, semicolon, extension = line.partition(b";")
        if semicolon:
            if b"\r" in extension:
                raise InvalidChunkExtension("bare CR not allowed")
            size = size.rstrip(b" \t")
        if not _HEXADECIMAL.fullmatch(size):
            raise InvalidChunkSize(size)
        if semicolon and not CHUNK_EXT_RE.fullmatch(b";" + extension):
            raise InvalidChunkExtension("invalid chunk extension")
        self._left = int(size, 16)
        self._trailers = not self._left
        # More framing than data is how a client keeps a server busy for little (CVE-2023-39326 is Go's).
        self._overhead = max(0, self._overhead + len(line) - FREE_OVERHEAD - 2 * self._left)
        if self._overhead > MAX_OVERHEAD:
            raise InvalidChunkExtension("more framing than data")

    def _read_trailers(self) -> None:
        buffer = self._buffer
        if buffer[:2] == b"\r\n":
            self.done, self.rest = True, bytes(buffer[2:])
            return
        end = buffer.find(b"\r\n\r\n", max(0, self._searched - 3))
        if (len(buffer) - 3 if end < 0 else end) > MAX_TRAILERS:
            raise LimitRequestHeaders("limit request trailer section size")
        if end < 0:
            if has_bare_lf(buffer, self._searched):
                raise InvalidHeader("bare LF as line terminator")
            self._searched = len(buffer)
            return
        self._request.parse_headers(bytes(buffer[:end]), from_trailer=True)
        self.done, self.rest = True, bytes(buffer[end + 4 :])
