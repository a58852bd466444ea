"""The connections of a process: how many there may be, and which makes room for a new one."""

from serving.worker.connection import Connection
from serving.worker.dispatcher import Dispatcher

WARNING_SECONDS = 60.0
"""How often the log says that there is no place for more connections, at most."""


class Connections:
    """Those that are open or about to be. All its methods are called on the loop."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.open: set[Connection] = set()
        self.connecting = 0
        """How many have a place and no transport yet: with TLS, until the handshake is over."""
        self._number = 0
        self._idle: list[tuple[float, int, Connection]] = []  # those of late, the longest idle last
        self._sorted = False
        self._next_warning = 0.0

    @property
    def has_room(self) -> bool:
        """Whether there may be one more."""
        limit: int = self._dispatcher.settings.connections
        return len(self.open) + self.connecting < limit

    def connect(self) -> Connection:
        """Return the protocol of a new connection, which takes a place from now on."""
        self.connecting += 1
        self._number += 1
        return Connection(self._dispatcher, self._number, self._on_open, self.open.discard)

    def longest_idle(self) -> Connection | None:
        """Return the connection that has been idle for longest, for a new one that waits; None if none is idle."""
        dispatcher, now = self._dispatcher, self._dispatcher.loop.time()
        if now >= self._next_warning:
            self._next_warning = now + WARNING_SECONDS
            dispatcher.log.warning(
                "all %d connections of this process are open (GLYPH_CONNECTIONS): the longest idle are closed for "
                "new ones, which wait while none is idle",
                dispatcher.settings.connections,
            )
        if not self._idle and not self._sorted:
            # Once for each tick: to sort all for each newcomer would cost more than to serve it.
            self._sorted = True
            found = [(each.deadline, each.number, each) for each in self.open if each.idle]
            self._idle = sorted(found, reverse=True)
        while self._idle:
            deadline, _, connection = self._idle[-1]
            if connection.deadline == deadline and connection.idle and not connection.readable:
                return connection
            self._idle.pop()
        return None

    def evict(self, connection: Connection) -> None:
        """Close an idle connection for a new one."""
        connection.close()
        self.open.discard(connection)
        self._dispatcher.metrics.evicted()

    def tick(self) -> None:
        """Close the connections that have taken too long."""
        now = self._dispatcher.loop.time()
        self._idle, self._sorted = [], False
        self._dispatcher.metrics.connections(len(self.open))
        for connection in list(self.open):
            connection.tick(now)

    def drain(self) -> None:
        """Have those close soon that are idle: the process ends."""
        for connection in list(self.open):
            connection.drain()

    def _on_open(self, connection: Connection) -> None:
        self.connecting -= 1
        self.open.add(connection)
