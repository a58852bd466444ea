"""How the thread worker keeps its connections. The arbiter imports this module: no ONNX Runtime here."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Served:
    """What is to become of connections, once a turn is over."""

    kept: list[Any] = field(default_factory=list)
    """They wait for their next request, or for their first."""
    refused: list[Any] = field(default_factory=list)
    """Refused for overload: they are left alone for a while."""
    closed: list[Any] = field(default_factory=list)
    extraordinary: list[Any] = field(default_factory=list)
    """Not looked at any further: Gunicorn's parser decides."""
    later: list[Any] = field(default_factory=list)
    """Hung up while others waited."""
    unwritten: list[tuple[Any, bytes, bool]] = field(default_factory=list)
    """The client has not taken its whole answer: what is left of it, and whether the connection is kept."""


class Kept:
    """Idle connections in the order in which they became so, for Gunicorn, which keeps them in a deque.

    To take one out of a deque all before it are looked at: of thousands that are idle, for each request.
    """

    def __init__(self) -> None:
        self._connections: OrderedDict[Any, None] = OrderedDict()

    def append(self, conn: Any) -> None:
        """Add one, as the last."""
        self._connections[conn] = None

    def remove(self, conn: Any) -> None:
        """Take one out, wherever it is."""
        del self._connections[conn]

    def popleft(self) -> Any:
        """Take the first out, and return it."""
        return self._connections.popitem(last=False)[0]

    def __getitem__(self, place: int) -> Any:
        if place != 0 or not self._connections:
            raise IndexError(place)
        return next(iter(self._connections))

    def __len__(self) -> int:
        return len(self._connections)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._connections)
