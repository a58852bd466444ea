"""The connections of a process: how many may be open, and which idle one is closed for a new one."""

from collections.abc import Callable
from typing import Any, Protocol

from serving.worker.connection import Connection
from serving.worker.dispatcher import Dispatcher

WARNING_SECONDS = 60.0
"""Least time between two warnings that the limit of connections is reached."""


class AnyConnection(Protocol):
    """What is asked of a connection, whatever it speaks; `serving.worker.connection` says what each means."""

    number: int
    deadline: float

    @property
    def established(self) -> bool:
        """Whether there was a transport."""
        ...

    @property
    def idle(self) -> bool:
        """Whether it may be closed for a new one."""
        ...

    @property
    def readable(self) -> bool:
        """Whether its socket has unread bytes."""
        ...

    def tick(self, now: float) -> None:
        """End what has timed out."""
        ...

    def drain(self) -> None:
        """End soon."""
        ...

    def close(self) -> None:
        """Close when all that was written has been sent."""
        ...


class Connections:
    """The connections that are open or being established. All methods are called on the event loop."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.open: set[AnyConnection] = set()
        self.connecting = 0
        """Accepted connections that have no transport yet; with TLS, until the handshake is over."""
        self._number = 0
        self._idle: list[tuple[float, int, AnyConnection]] = []  # the longest idle comes last
        self._sorted = False  # whether `_idle` was made since the last tick
        self._next_warning = 0.0

    @property
    def has_room(self) -> bool:
        """Whether another connection may be accepted."""
        limit: int = self._dispatcher.settings.connections
        return len(self.open) + self.connecting < limit

    def connect(self, kind: Callable[..., Any] = Connection) -> Any:
        """Return the protocol of a new connection, which counts from now on.

        Args:
            kind: its class, with the arguments of `Connection`.
        """
        self.connecting += 1
        self._number += 1
        return kind(self._dispatcher, self._number, self._on_open, self.open.discard)

    def _on_open(self, connection: AnyConnection) -> None:
        self.connecting -= 1
        self.open.add(connection)

    def longest_idle(self) -> AnyConnection | None:
        """Return the connection that has been idle for longest; None if none is idle."""
        dispatcher, now = self._dispatcher, self._dispatcher.loop.time()
        if now >= self._next_warning:
            self._next_warning = now + WARNING_SECONDS
            dispatcher.log.warning(
                "all %d connections of this process are open (GLYPH_CONNECTIONS): the longest idle are closed for "
                "new ones, which wait while none is idle",
                dispatcher.settings.connections,
            )
        if not self._idle and not self._sorted:
            # Once a tick: sorting all connections for each new one would cost more than serving it.
            self._sorted = True
            found = [(each.deadline, each.number, each) for each in self.open if each.idle]
            self._idle = sorted(found, reverse=True)
        while self._idle:
            deadline, _, connection = self._idle[-1]
            if connection.deadline == deadline and connection.idle and not connection.readable:
                return connection
            self._idle.pop()
        return None

    def evict(self, connection: AnyConnection) -> None:
        """Close an idle connection to make room for a new one."""
        connection.close()
        self.open.discard(connection)
        self._dispatcher.metrics.evicted()

    def tick(self) -> None:
        """Close the connections that have timed out."""
        now = self._dispatcher.loop.time()
        self._idle, self._sorted = [], False
        self._dispatcher.metrics.connections(len(self.open))
        for connection in list(self.open):
            connection.tick(now)

    def drain(self) -> None:
        """Let idle connections close soon, because the process ends."""
        for connection in list(self.open):
            connection.drain()
