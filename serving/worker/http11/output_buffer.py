"""Bytes that are written on a connection, and whether its client reads them."""

from math import inf
from typing import Any

from serving.predict.load_shedding import AdmissionControl, MemoryReservation, unacknowledged

OUTPUT_HIGH_WATER = 16 << 10
"""Bytes of unread responses, beyond which they are counted and the client's next request is not read."""


class OutputBuffer:
    """The responses of one connection. `len` returns the number of bytes that the socket has not taken yet."""

    def __init__(self, admission: AdmissionControl) -> None:
        self._reservation = MemoryReservation(admission)
        self._transport: Any = None
        self.full = False
        """Whether more than `OUTPUT_HIGH_WATER` bytes wait."""
        self._waiting_since = inf  # when bytes began to wait, or the client last acknowledged some
        self._written = self._taken = 0  # bytes, in all

    def __len__(self) -> int:
        return self._transport.get_write_buffer_size()  # type: ignore[no-any-return]

    def begin(self, transport: Any, client: str) -> None:
        """Set asyncio's transport, and the client to whose share of the memory the bytes count."""
        self._transport, self._reservation.client = transport, client
        transport.set_write_buffer_limits(OUTPUT_HIGH_WATER)

    def write(self, data: bytes) -> None:
        """Send bytes, or buffer those that the socket does not take."""
        self._written += len(data)
        self._transport.write(data)

    def pause(self) -> None:
        """Count the bytes that wait, as they exceed `OUTPUT_HIGH_WATER`.

        Raises:
            OverloadedError: there is no memory for it.
        """
        self.full = True
        self._reservation.resize(len(self))

    def resume(self) -> None:
        """Stop counting, as the client has read enough or has gone."""
        self.full = False
        self._reservation.resize(0)

    def stalled(self, now: float) -> float:
        """Return for how many seconds bytes have waited and the client has acknowledged none; negative if none wait.

        Progress is what the client acknowledges, not what the socket takes: the socket's buffer takes megabytes at
        once, and then nothing for as long as a slow client needs to read them.

        Args:
            now: the loop's time.
        """
        if not (waiting := len(self)):
            self._waiting_since = inf
        else:
            socket = self._transport.get_extra_info("socket")
            taken = self._written - waiting - unacknowledged(socket.fileno())
            if self._waiting_since == inf or taken > self._taken:
                self._waiting_since, self._taken = now, taken
        return now - self._waiting_since
