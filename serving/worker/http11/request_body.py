"""A body that arrives in pieces, framed by its Content-Length; `chunked.py` has the other kind."""

from typing import Protocol


class Body(Protocol):
    """What both kinds have. Once `feed` has set `done`, `rest` holds the bytes that follow the body."""

    data: bytearray
    """A bytearray, because a list of a million small pieces would take many times their bytes."""
    size: int
    """Bytes of data so far, including discarded ones."""
    done: bool
    rest: bytes

    @property
    def announced(self) -> int:
        """Least number of bytes of the data, as far as it is known."""
        ...

    @property
    def held(self) -> int:
        """Bytes in memory, of data and of framing that is not whole yet."""
        ...

    def feed(self, data: bytes) -> None:
        """Read bytes that have arrived.

        Raises:
            ParseException: the framing is broken.
        """
        ...

    def discard_data(self) -> None:
        """Keep no data from now on; the body is only read to find its end."""
        ...


class LengthBody:
    """A body of `length` bytes (RFC 9112, section 6.2)."""

    def __init__(self, length: int) -> None:
        self.data = bytearray()
        self.size = 0
        self.done = length == 0
        self.rest = b""
        self._left = length
        self._discarding = False

    @property
    def announced(self) -> int:
        """The length."""
        return self.size + self._left

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return len(self.data)

    def feed(self, data: bytes) -> None:
        """Read bytes that have arrived."""
        taken = data if len(data) <= self._left else data[: self._left]
        self._left -= len(taken)
        self.size += len(taken)
        if not self._discarding:
            self.data += taken
        if not self._left:
            self.done, self.rest = True, data[len(taken) :]

    def discard_data(self) -> None:
        """Keep no data from now on; the body is only read to find its end."""
        self.data = bytearray()
        self._discarding = True
