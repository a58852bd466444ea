"""Decodes the chunked transfer coding (RFC 9112, section 7.1) of a body that arrives in pieces.

The rules are those of `gunicorn.http.body.ChunkedReader`, which can only read from a blocking socket: the same
expression for extensions, the same forbidden trailers, the same exceptions. Limits hold wherever the bytes are cut into
packets, and a line that arrives byte by byte is searched once.
"""

import re

from gunicorn.http.body import CHUNK_EXT_RE
from gunicorn.http.errors import (
    ChunkMissingTerminator,
    InvalidChunkExtension,
    InvalidChunkSize,
    InvalidHeader,
    LimitRequestHeaders,
)
from gunicorn.http.message import Request

_HEXADECIMAL = re.compile(rb"[0-9A-Fa-f]{1,16}")  # 64 bits, as `request_head.LENGTH_BITS`
MAX_OVERHEAD = 64 << 10
"""Most bytes of framing in one body, beyond `FREE_OVERHEAD` for each chunk and twice its data."""
FREE_OVERHEAD = 16
"""Bytes of framing of a chunk that are not counted."""
MAX_TRAILERS = 8 << 10
"""Most bytes of the trailer section, which is parsed and not used."""


def has_bare_lf(data: bytes | bytearray, start: int, first: int = 0) -> bool:
    """Return whether an LF without a CR before it stands at `start` or later; `first` is where the data begins."""
    if start > first and data[start - 1] == ord("\r"):
        start -= 1
    return data.count(b"\n", start) != data.count(b"\r\n", start)


class ChunkedBody:
    """A chunked body. Once `feed` has set `done`, `rest` holds the bytes that follow it."""

    def __init__(self, request: Request) -> None:
        self.data = bytearray()
        self.size = 0
        self.done = False
        self.rest = b""
        self._request = request
        self._discarding = False
        self._overhead = 0
        self._buffer = bytearray()
        self._searched = 0  # up to here the buffer has no end of the line, or of the trailers
        self._left = 0  # bytes that are missing of the chunk that is being read
        self._terminator = False  # whether the line end after a chunk's data comes next
        self._trailers = False  # whether the trailer section is being read

    @property
    def held(self) -> int:
        """Bytes in memory, of data and of framing that is not whole yet."""
        return len(self.data) + len(self._buffer)

    @property
    def announced(self) -> int:
        """Least number of bytes of the data: those of all chunks up to the one that is being read."""
        return self.size + self._left

    def feed(self, data: bytes) -> None:
        """Read bytes that have arrived.

        Raises:
            ParseException: the framing is broken, so that the start of the next request is unknown.
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
                    # Counted from `at`, up to which the buffer is deleted below.
                    self._searched = len(buffer) - at
                    break
                self._searched = 0
                self._start_chunk(bytes(buffer[at:end]))
                at = end + 2
        del buffer[:at]

    def discard_data(self) -> None:
        """Keep no data from now on; the body is only read to find its end."""
        self.data = bytearray()
        self._discarding = True

    def _take(self, buffer: bytearray, at: int) -> int:
        """Take the data of the current chunk, and return the number of its bytes."""
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
        # By sending more framing than data a client keeps a server busy at little cost (CVE-2023-39326, in Go).
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
