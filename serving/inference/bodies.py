"""A request's body on its way, framed by its length; `chunked.py` has the other kind."""

from typing import Protocol


class Body(Protocol):
    """What both kinds have. After `feed` has set `done`, `rest` is what follows on the connection."""

    pieces: list[bytes]
    size: int
    """Bytes of data so far."""
    done: bool
    rest: bytes

    def feed(self, data: bytes) -> None:
        """Take what has arrived.

        Raises:
            ParseException: the framing is broken.
        """
        ...

    def forget(self) -> None:
        """Keep no data from now on: it is only read to find its end."""
        ...


class LengthBody:
    """A body of `length` bytes (RFC 9112, section 6.2)."""

    def __init__(self, length: int) -> None:
        self.pieces: list[bytes] = []
        self.size = 0
        self.done = length == 0
        self.rest = b""
        self._left = length
        self._forgotten = False

    def feed(self, data: bytes) -> None:
        """Take what has arrived."""
        taken = data if len(data) <= self._left else data[: self._left]
        self._left -= len(taken)
        self.size += len(taken)
        if not self._forgotten:
            self.pieces.append(bytes(taken))
        if not self._left:
            self.done, self.rest = True, data[len(taken) :]

    def forget(self) -> None:
        """Keep no data from now on."""
        self.pieces.clear()
        self._forgotten = True
