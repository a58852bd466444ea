"""What is written on a connection, and whether its client takes it."""

from math import inf
from typing import Any

from serving.predict.load_shedding import Account, AdmissionControl, unacknowledged

OUTPUT_HIGH_WATER = 16 << 10
"""Bytes of answers that a client has not taken, beyond which it gets no further ones, and they are counted."""


class OutputBuffer:
    """One connection's answers on their way out; its length is the number of bytes that are not in the socket yet."""

    def __init__(self, admission: AdmissionControl) -> None:
        self._account = Account(admission)
        self._transport: Any = None
        self.full = False
        """Whether the client does not take what is written."""
        self._waiting_since = inf  # since when the client has taken nothing of what it is to take
        self._written = self._taken = 0  # bytes, for comparisons

    def __len__(self) -> int:
        return self._transport.get_write_buffer_size()  # type: ignore[no-any-return]

    def begin(self, transport: Any, client: str) -> None:
        """Take asyncio's transport, and the address whose share of the memory it is."""
        self._transport, self._account.client = transport, client
        transport.set_write_buffer_limits(OUTPUT_HIGH_WATER)

    def write(self, data: bytes) -> None:
        """Send it, as far as the client takes it."""
        self._written += len(data)
        self._transport.write(data)

    def pause(self) -> None:
        """Note that the client takes nothing, and count what waits.

        Raises:
            OverloadedError: there is no memory for it.
        """
        self.full = True
        self._account.hold(len(self))

    def resume(self) -> None:
        """Note that the client has taken what waited, or will never."""
        self.full = False
        self._account.hold(0)

    def stalled(self, now: float) -> float:
        """Return for how many seconds the client has taken nothing; below 0 where nothing waits for it.

        The client takes what waits neither here nor in its socket: that buffer takes megabytes at once, and then
        nothing for as long as a slow client reads them.
        """
        if not (waiting := len(self)):
            self._waiting_since = inf
        else:
            socket = self._transport.get_extra_info("socket")
            taken = self._written - waiting - unacknowledged(socket.fileno())
            if self._waiting_since == inf or taken > self._taken:
                self._waiting_since, self._taken = now, taken
        return now - self._waiting_since
