"""A request's body on its way, framed by its length; `chunked.py` has the other kind."""

from typing import Protocol


class Body(Protocol):
    """What both kinds have. After `feed` has set `done`, `rest` is what follows on the connection."""

    data: bytearray
    """In one piece: a list of a million small pieces would take many times their bytes."""
    size: int
    """Bytes of data so far, those that were forgotten too."""
    done: bool
    rest: bytes

    @property
    def announced(self) -> int:
        """Bytes of data that there are at least."""
        ...

    @property
    def held(self) -> int:
        """Bytes that are kept, of data and of framing that is not whole yet."""
        ...

    def feed(self, data: bytes) -> None:
        """Take what has arrived.

        Raises:
            ParseException: the framing is broken.
        """
        ...

    def discard_data(self) -> None:
        """Keep no data from now on: it is only read to find its end."""
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
        """Bytes of data."""
        return self.size + self._left

    @property
    def held(self) -> int:
        """Bytes that are kept."""
        return len(self.data)

    def feed(self, data: bytes) -> None:
        """Take what has arrived."""
        taken = data if len(data) <= self._left else data[: self._left]
        self._left -= len(taken)
        self.size += len(taken)
        if not self._discarding:
            self.data += taken
        if not self._left:
            self.done, self.rest = True, data[len(taken) :]

    def discard_data(self) -> None:
        """Keep no data from now on."""
        self.data = bytearray()
        self._discarding = True
