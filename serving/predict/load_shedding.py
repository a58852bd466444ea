"""Admission control, load shedding and deadlines: how a process behaves under more load than its capacity.

`AdmissionControl` bounds the queue and the memory for requests. It sheds what exceeds them at once, with 503, because
a response that arrives after the client has given up costs as much as one that is read.
"""

import fcntl
import math
import os
import select
import socket
import struct
import sys
import termios
import threading
import time

from serving.errors import BadTimeoutError, DeadlineExceededError, OverloadedError, RequestTimeoutError

TIMEOUT_FIELD = "x-request-timeout-ms"
RATE_WINDOW_SECONDS = 0.25
RATE_SMOOTHING = 0.3
MAX_RETRY_AFTER_SECONDS = 60
UNCOUNTED_BYTES = 8 << 10
"""Bytes of a connection that are not counted against the memory for requests, so that small ones cost no lock."""
MAX_DISCARDED_BYTES = 64 << 20
"""Limit on what is read of a rejected body: a client that is still sending reads the response only afterwards."""
LINGER_SECONDS = 2.0
"""How long a connection reads on after its last response (lingering close): a reset would discard the response."""
THROTTLE_SECONDS = 0.1
"""The shortest time for which a connection is not read after one of its requests was shed."""
SHED_PER_SECOND = 200
"""How many of those connections are read again in a second, so that clients that ignore Retry-After take no capacity
from the others: at about 50 us each, shedding stays below 1% of a core."""

SO_NWRITE = 0x1024
"""Socket option of macOS (sys/socket.h): the bytes in the send buffer."""


class AdmissionControl:
    """Bounds the requests of one process that wait or run, and the bytes that they hold. Thread-safe."""

    def __init__(self, limit: int, limit_bytes: int, share_bytes: int | None = None) -> None:
        """Begin.

        Args:
            limit: maximum of requests.
            limit_bytes: maximum of reserved bytes.
            share_bytes: maximum of reserved bytes for one client address; by default all.
        """
        self.limit = limit
        self.limit_bytes = limit_bytes
        self.share_bytes = limit_bytes if share_bytes is None else share_bytes
        self.waiting = 0
        """Requests that have entered and not left."""
        self.reserved_bytes = 0
        """Bytes of requests that are not answered yet, and of responses that clients have not received."""
        self._reserved_by: dict[str, int] = {}  # by client address
        self._lock = threading.Lock()
        self._rate = 0.0
        self._left = 0
        self._window = time.monotonic()

    def enter(self) -> None:
        """Admit a request.

        Raises:
            OverloadedError: the queue is full.
        """
        with self._lock:
            if self.waiting < self.limit:
                if self.waiting == 0:  # idle time must not count in the drain rate
                    self._window, self._left = time.monotonic(), 0
                self.waiting += 1
                return
        raise self.overloaded(f"{self.limit} requests are queued, and the queue is full")

    def leave(self) -> None:
        """Release the place of a request, and update the rate at which the queue drains."""
        with self._lock:
            self.waiting -= 1
            self._left += 1
            elapsed = time.monotonic() - self._window
            if elapsed >= RATE_WINDOW_SECONDS:
                rate = self._left / elapsed
                self._rate += (rate - self._rate) * (RATE_SMOOTHING if self._rate else 1.0)
                self._window += elapsed
                self._left = 0

    def check(self, size: int, client: str = "") -> None:
        """Check whether `reserve` would succeed now; nothing is reserved for bytes that are only announced.

        Args:
            size: bytes.
            client: the address that sends them; without one, no client's share is checked.

        Raises:
            OverloadedError: the memory for requests, or this client's share of it, would be exceeded.
        """
        if self.reserved_bytes + size > self.limit_bytes:
            raise self.overloaded(
                f"{size} more bytes would exceed the memory for requests, of which {self.reserved_bytes} of "
                f"{self.limit_bytes} bytes are in use"
            )
        if client and self._reserved_by.get(client, 0) + size > self.share_bytes:
            raise self.overloaded(
                f"{size} more bytes would exceed this address's share of the memory for requests, of which "
                f"{self._reserved_by.get(client, 0)} of {self.share_bytes} bytes are in use"
            )

    def reserve(self, size: int, client: str = "") -> None:
        """Reserve memory for bytes that have arrived.

        Raises:
            OverloadedError: as `check`; then nothing is reserved.
        """
        with self._lock:
            self.check(size, client)
            self.reserved_bytes += size
            if client:
                self._reserved_by[client] = self._reserved_by.get(client, 0) + size

    def release(self, size: int, client: str = "") -> None:
        """Release reserved bytes; `client` must be the one that reserved them."""
        with self._lock:
            self.reserved_bytes -= size
            if client:
                left = self._reserved_by[client] - size
                if left:
                    self._reserved_by[client] = left
                else:
                    del self._reserved_by[client]  # else the dictionary would grow with every address

    def retry_after(self) -> int:
        """Return the seconds in which the current queue drains, at the measured rate."""
        if not self._rate:
            return 1
        return max(1, min(MAX_RETRY_AFTER_SECONDS, math.ceil(self.waiting / self._rate)))

    def overloaded(self, why: str) -> OverloadedError:
        """Return the error for a request that is shed, with Retry-After."""
        seconds = self.retry_after()
        return OverloadedError(
            f"the service is overloaded: {why}",
            remedy=f"Retry after {seconds} s, then with exponential backoff; the operator can run more workers.",
            retry_after=seconds,
        )


class MemoryReservation:
    """The bytes that one connection or request has reserved."""

    __slots__ = ("_admission", "client", "size")

    def __init__(self, admission: AdmissionControl, client: str = "") -> None:
        """Begin with nothing.

        Args:
            admission: of the process.
            client: the address whose share is charged; empty for none.
        """
        self._admission = admission
        self.client = client
        self.size = 0
        """Reserved bytes: 0, or more than `UNCOUNTED_BYTES`."""

    def resize(self, size: int) -> None:
        """Grow or shrink to `size` bytes; 0 releases all.

        Raises:
            OverloadedError: there is no memory to grow; the reservation stays as it was.
        """
        if size <= UNCOUNTED_BYTES:
            size = 0
        if size > self.size:
            self._admission.reserve(size - self.size, self.client)
        elif size < self.size:
            self._admission.release(self.size - size, self.client)
        self.size = size


class Throttle:
    """Backpressure: delays the next read of a connection whose request was shed."""

    def __init__(self) -> None:
        self._last = 0.0

    def until(self, now: float) -> float:
        """Return the time of the next read, later for each connection."""
        self._last = max(now + THROTTLE_SECONDS, self._last + 1 / SHED_PER_SECOND)
        return self._last


def is_readable(descriptor: int) -> bool:
    """Tell whether a socket has unread data, or has reached its end."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def unacknowledged(descriptor: int) -> int:
    """Return the bytes written to a socket that the peer has not acknowledged (tcp(7), SIOCOUTQ; macOS' SO_NWRITE)."""
    try:
        if sys.platform == "darwin":
            with socket.socket(fileno=os.dup(descriptor)) as copy:
                return copy.getsockopt(socket.SOL_SOCKET, SO_NWRITE)
        return int(struct.unpack("=i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))[0])
    except OSError:  # not every kind of socket supports it
        return 0


def deadline(value: str | None, arrived: float, ceiling_seconds: float) -> float:
    """Return the deadline of a request, in seconds on the clock of `arrived`.

    Args:
        value: of the field X-Request-Timeout-Ms; None if the request has none.
        arrived: when the request arrived, in seconds.
        ceiling_seconds: the longest timeout, and the default.

    Raises:
        BadTimeoutError: the value is not a number of milliseconds.
    """
    if value is None:
        return arrived + ceiling_seconds
    if not (value.isascii() and value.isdigit() and int(value[:12]) > 0):
        raise BadTimeoutError(
            f"X-Request-Timeout-Ms is {value[:40]!r}, which is not a number of milliseconds"
        )
    return arrived + min(int(value[:12]) / 1000, ceiling_seconds)


def check_deadline(deadline: float, now: float | None = None) -> None:
    """Return if the deadline is not over; `now` defaults to `time.perf_counter()`.

    Raises:
        DeadlineExceededError: it is over, so computing the request would be wasted.
    """
    if (time.perf_counter() if now is None else now) > deadline:
        raise DeadlineExceededError


def head_timeout(seconds: float) -> RequestTimeoutError:
    """Return the error for a request head that began to arrive and was not complete in time."""
    return RequestTimeoutError(f"the request head did not arrive within {seconds:g} s")


def body_timeout(seconds: float) -> RequestTimeoutError:
    """Return the error for a body that was not complete in time."""
    return RequestTimeoutError(f"the body did not arrive within {seconds:g} s")
