"""What happens when more is asked than can be answered: a bounded queue, its drain rate, and deadlines.

Each process has an `AdmissionControl`. A request that it admits is answered; every other is shed at once, with 503,
because an answer that comes after the client has given up costs as much as one that is read.
"""

import fcntl
import math
import select
import struct
import termios
import threading
import time

from serving.errors import BadTimeoutError, DeadlineExceededError, OverloadedError, RequestTimeoutError

TIMEOUT_FIELD = "x-request-timeout-ms"
RATE_WINDOW_SECONDS = 0.25
RATE_SMOOTHING = 0.3
MAX_RETRY_AFTER_SECONDS = 60
UNCOUNTED_BYTES = 8 << 10
"""What a connection may hold without being counted against the memory for requests, so that small ones cost nothing."""
MAX_DISCARDED_BYTES = 64 << 20
"""Most that is read of a refused body, so that the client, which is still sending, gets to read why."""
LINGER_SECONDS = 2.0
"""How long a closed connection goes on reading: a reset would take the answer from a client that still sends."""
THROTTLE_SECONDS = 0.1
"""For how long, at least, a connection is left alone after it was refused for overload."""
REFUSALS_A_SECOND = 200
"""How many refused connections are read again in a second: a client that does not heed Retry-After must not
take the time in which others are answered. At some 50 us each, their refusals stay below 1% of a core."""


class AdmissionControl:
    """Counts the requests of one process between arrival and answer, and the bytes of their bodies.

    Safe to use from several threads.
    """

    def __init__(self, limit: int, limit_bytes: int, share_bytes: int | None = None) -> None:
        """Begin.

        Args:
            limit: most requests that wait.
            limit_bytes: most bytes that are held.
            share_bytes: most of them for one client's address; by default all.
        """
        self.limit = limit
        self.limit_bytes = limit_bytes
        self.share_bytes = limit_bytes if share_bytes is None else share_bytes
        self.waiting = 0
        """Requests that have entered and not left."""
        self.reserved_bytes = 0
        """Bytes that have arrived and are not answered yet, and answers that clients have not taken."""
        self._reserved_by: dict[str, int] = {}  # by the client's address
        self._lock = threading.Lock()
        self._rate = 0.0
        self._left = 0
        self._window = time.monotonic()

    def enter(self) -> None:
        """Take a place in the queue.

        Raises:
            OverloadedError: there is none left.
        """
        with self._lock:
            if self.waiting < self.limit:
                if self.waiting == 0:  # an idle time says nothing of how fast a queue drains
                    self._window, self._left = time.monotonic(), 0
                self.waiting += 1
                return
        raise self.overloaded(f"{self.limit} requests wait already, and no more may")

    def leave(self) -> None:
        """Give the place back, and measure how fast that happens."""
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
        """Tell whether so many bytes could be held now; nothing is set aside for what is only announced.

        Args:
            size: bytes.
            client: the address that sends them; without one they count for no client.

        Raises:
            OverloadedError: other requests have taken the memory, or this client has had its share.
        """
        if self.reserved_bytes + size > self.limit_bytes:
            raise self.overloaded(
                f"the bodies of other requests take {self.reserved_bytes} bytes, and no more may"
            )
        if client and self._reserved_by.get(client, 0) + size > self.share_bytes:
            raise self.overloaded(
                f"the requests from this address take {self._reserved_by.get(client, 0)} bytes, and no more may"
            )

    def reserve(self, size: int, client: str = "") -> None:
        """Count bytes that have arrived.

        Raises:
            OverloadedError: as `check`; nothing is counted then.
        """
        with self._lock:
            self.check(size, client)
            self.reserved_bytes += size
            if client:
                self._reserved_by[client] = self._reserved_by.get(client, 0) + size

    def release(self, size: int, client: str = "") -> None:
        """Give memory back, under the address under which it was held."""
        with self._lock:
            self.reserved_bytes -= size
            if client:
                left = self._reserved_by[client] - size
                if left:
                    self._reserved_by[client] = left
                else:
                    del self._reserved_by[client]  # addresses come and go without end

    def retry_after(self) -> int:
        """Return the seconds in which what waits now will have been answered, at the rate measured."""
        if not self._rate:
            return 1
        return max(1, min(MAX_RETRY_AFTER_SECONDS, math.ceil(self.waiting / self._rate)))

    def overloaded(self, why: str) -> OverloadedError:
        """Return the refusal, with the time after which asking again makes sense."""
        seconds = self.retry_after()
        return OverloadedError(
            f"the service has more requests than it can answer: {why}",
            remedy=f"Ask again after {seconds} s, and then with growing pauses; or run more workers.",
            retry_after=seconds,
        )


class MemoryReservation:
    """What one client's connection or request holds, as a gate counts it."""

    __slots__ = ("_admission", "client", "size")

    def __init__(self, admission: AdmissionControl, client: str = "") -> None:
        """Begin with nothing.

        Args:
            admission: what counts.
            client: the address whose share of the memory it is, if it is anybody's.
        """
        self._admission = admission
        self.client = client
        self.size = 0
        """Bytes that are counted; what is no more than `UNCOUNTED_BYTES` is not."""

    def resize(self, size: int) -> None:
        """Hold so many bytes from now on, instead of what was held before.

        Raises:
            OverloadedError: it is more than before, and more than may be; what was counted before stays so.
        """
        if size <= UNCOUNTED_BYTES:
            size = 0
        if size > self.size:
            self._admission.reserve(size - self.size, self.client)
        elif size < self.size:
            self._admission.release(self.size - size, self.client)
        self.size = size


class Throttle:
    """Says when a connection that was refused for overload is read again."""

    def __init__(self) -> None:
        self._last = 0.0

    def until(self, now: float) -> float:
        """Return the moment; for each connection a later one."""
        self._last = max(now + THROTTLE_SECONDS, self._last + 1 / REFUSALS_A_SECOND)
        return self._last


def is_readable(descriptor: int) -> bool:
    """Tell whether something has arrived on a socket that is not read yet, if only its end."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def unacknowledged(descriptor: int) -> int:
    """Return how many bytes of what was written to a socket the other side has not taken yet (tcp(7), SIOCOUTQ)."""
    try:
        return int(struct.unpack("=i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))[0])
    except OSError:  # some kinds of socket do not tell
        return 0


def deadline(value: str | None, arrived: float, ceiling_seconds: float) -> float:
    """Return when a request need not be answered any more, on the clock of `arrived`.

    Args:
        value: of the field X-Request-Timeout-Ms, None where there is none.
        arrived: when the request arrived, in seconds.
        ceiling_seconds: the longest that any request waits, asked for or not.

    Raises:
        BadTimeoutError: the value is no number of milliseconds.
    """
    if value is None:
        return arrived + ceiling_seconds
    if not (value.isascii() and value.isdigit() and int(value[:12]) > 0):
        raise BadTimeoutError(
            f"X-Request-Timeout-Ms is {value[:40]!r}, which is no time",
            remedy="Send a whole number of milliseconds, 1 or more, or leave the field out.",
        )
    return arrived + min(int(value[:12]) / 1000, ceiling_seconds)


def check_deadline(moment: float, now: float | None = None) -> None:
    """Return if there is still time, by `time.perf_counter()` where `now` is not given.

    Raises:
        DeadlineExceededError: the moment has passed, and nothing should be computed any more.
    """
    if (time.perf_counter() if now is None else now) > moment:
        raise DeadlineExceededError(
            "the request's time was over before its turn came, and it was not computed",
            remedy="Allow more with X-Request-Timeout-Ms (the service has a ceiling of its own), or ask again "
            "when there is less to do.",
        )


def head_timeout(seconds: float) -> RequestTimeoutError:
    """Return the refusal of a client whose request has begun and not gone on."""
    return _late(f"the head of the request was not there within {seconds:g} s")


def body_timeout(seconds: float) -> RequestTimeoutError:
    """Return the refusal of a client whose body does not end."""
    return _late(f"the body was not there within {seconds:g} s")


def _late(detail: str) -> RequestTimeoutError:
    return RequestTimeoutError(
        detail,
        remedy="Send the request in one go; over a slow line, send smaller files, or raise "
        "GLYPH_HEADER_TIMEOUT_SECONDS or GLYPH_BODY_TIMEOUT_SECONDS.",
    )
