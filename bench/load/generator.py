"""The load generator: one process with raw sockets, in a closed loop or an open loop at a constant rate.

    python -m bench.load.generator < SPECIFICATION

Closed loop: each connection sends its next request after a response; latency is measured from sending to the
response's last byte. Open loop: requests are due at constant intervals, independent of responses; latency is measured
from the time at which a request was *due*, so that a stall of the server delays every request of that time (no
coordinated omission; G. Tene, "How NOT to Measure Latency", 2015). A due request waits if no connection is free, and
the wait counts.

The specification and the result are JSON; `Specification` and `Result` have the fields. The generator busy-waits, so it
needs a core of its own; `Result.busy` is the share of it that was used.
"""

import gc
import json
import re
import select
import socket
import sys
import time
from array import array
from base64 import b64decode, b64encode
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RECEIVE_BYTES = 1 << 18
WARM_SECONDS = 0.3
SILENCE_SECONDS = 10.0
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)", re.IGNORECASE)
CHUNKED_END = b"0\r\n\r\n"


@dataclass(kw_only=True, slots=True)
class Specification:
    """The requests, and the server's port."""

    port: int
    requests: list[str]
    """Base64 of complete requests, which are sent in turns."""
    connections: int
    seconds: float
    """Duration of the measurement, after `warm_seconds` of warm-up."""
    warm_seconds: float = WARM_SECONDS
    rate: float | None = None
    """Requests/s of an open loop; None is a closed loop."""
    samples: int = 20
    """Number of complete responses that are returned for checking."""
    latencies: str = ""
    """File for the latencies, `float64` seconds in native byte order."""


@dataclass(kw_only=True, slots=True)
class Result:
    """The result of a measurement."""

    answers: int = 0
    """Responses with status 200 within the measurement; in an open loop, to requests due within it."""
    completed: int = 0
    """Responses with status 200 within the measurement, whenever due; past saturation, fewer than were due."""
    all_answers: int = 0
    """Including the warm-up."""
    seconds: float = 0.0
    """Duration of the measurement."""
    all_seconds: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)
    """By status, `connection` for a closed connection, or `unanswered` at the end."""
    busy: float = 0.0
    """Share of the time in which this process was not waiting."""
    late: float = 0.0
    """Open loop: the longest delay of a due request although a connection was free, in seconds."""
    samples: list[tuple[int, str]] = field(default_factory=list)
    """Index of the request and base64 of the complete response."""


class Connection:
    """A connection and its request in flight."""

    __slots__ = ("answer", "place", "rest", "sent", "socket", "total")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.socket.setblocking(False)
        self.answer = b""
        self.rest = b""
        """The part of the request that has not been sent."""
        self.total = 0
        """Size of the response once its head is known; 0 before, -1 if it is chunked."""
        self.sent = 0.0
        self.place = 0

    def send(self, request: bytes) -> bool:
        """Send, and return whether the whole request was sent."""
        self.answer, self.total = b"", 0
        taken = self.socket.send(request)
        self.rest = request[taken:]
        return not self.rest

    def complete(self, data: bytes) -> bool:
        """Add bytes of the response, and return whether it is complete."""
        self.answer = data = self.answer + data if self.answer else data
        if not self.total:
            head = data.find(b"\r\n\r\n")
            if head < 0:
                return False
            length = LENGTH.search(data, 0, head)
            self.total = head + 4 + int(length[1]) if length else -1
        return data.endswith(CHUNKED_END) if self.total < 0 else len(data) >= self.total


class Generator:
    """Loads one server, and counts its responses."""

    def __init__(self, specification: Specification) -> None:
        self.specification = specification
        self.requests = [b64decode(text) for text in specification.requests]
        self.result = Result()
        self.latencies = array("d")
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._free: deque[Connection] = deque()
        self._turn = 0
        for _ in range(specification.connections):
            self._connect()

    def run(self) -> Result:
        """Run the measurement, wait for requests in flight, and return the result."""
        specification, result = self.specification, self.result
        started = time.perf_counter()
        self._from = started + specification.warm_seconds
        self._until = self._from + specification.seconds
        cpu_started = time.process_time()
        if specification.rate is None:
            self._closed_loop()
        else:
            self._open_loop(started, specification.rate)
        ended = time.perf_counter()
        spent = time.process_time() - cpu_started
        for connection in self._connections.values():
            connection.socket.close()
        self._epoll.close()
        result.seconds = specification.seconds
        result.all_seconds = ended - started
        if specification.rate is None:
            result.busy = spent / result.all_seconds
        if specification.latencies:
            Path(specification.latencies).write_bytes(self.latencies.tobytes())
        return result

    def _closed_loop(self) -> None:
        while self._free:
            self._send(self._free.popleft(), time.perf_counter())
        last = time.perf_counter()
        while (now := time.perf_counter()) < self._until:
            for connection in self._answered(0.05):
                self._send(connection, time.perf_counter())
                last = now
            if now - last > SILENCE_SECONDS:
                break

    def _open_loop(self, started: float, rate: float) -> None:
        """Send due requests on free connections; busy-wait, because the timeout of epoll is coarse."""
        due, asked = started, 0
        while True:
            now = time.perf_counter()
            while due <= now and due < self._until and self._free:
                self.result.late = max(self.result.late, now - max(due, self._freed))
                self._send(self._free.popleft(), due)
                asked += 1
                due = started + asked / rate  # from the start, so that rounding errors do not accumulate
                now = time.perf_counter()
            self._free.extend(self._answered(0))
            if due >= self._until and len(self._free) == len(self._connections):
                return
            if now > self._until + SILENCE_SECONDS:
                left = len(self._connections) - len(self._free) + int((self._until - due) * rate)
                self._error("unanswered", max(left, 1))
                return

    def _answered(self, timeout: float) -> list[Connection]:
        """Return the connections whose responses are complete."""
        done = []
        for descriptor, event in self._epoll.poll(timeout):
            connection = self._connections[descriptor]
            if event & select.EPOLLOUT and connection.rest:
                self._go_on(connection)
                continue
            try:
                data = connection.socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                done.append(self._replace(connection))
            elif connection.complete(data):
                self._count(connection, time.perf_counter())
                done.append(connection)
        if done:
            self._freed = time.perf_counter()
        return done

    _freed = 0.0

    def _send(self, connection: Connection, since: float) -> None:
        place = self._turn = (self._turn + 1) % len(self.requests)
        connection.sent, connection.place = since, place
        try:
            whole = connection.send(self.requests[place])
        except OSError:
            whole = False
        if not whole:
            self._epoll.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT)

    def _go_on(self, connection: Connection) -> None:
        connection.rest = connection.rest[connection.socket.send(connection.rest) :]
        if not connection.rest:
            self._epoll.modify(connection.socket, select.EPOLLIN)

    def _count(self, connection: Connection, now: float) -> None:
        result, answer = self.result, connection.answer
        status = answer[9:12]
        if status != b"200":
            self._error(status.decode("latin-1"))
            return
        result.all_answers += 1
        if self._from <= now < self._until:
            result.completed += 1
        measured = connection.sent if self.specification.rate is not None else now
        if not self._from <= measured < self._until:
            return
        result.answers += 1
        self.latencies.append(now - connection.sent)
        if len(result.samples) < self.specification.samples and result.answers % 13 == 1:
            result.samples.append((connection.place, b64encode(answer).decode()))

    def _error(self, kind: str, count: int = 1) -> None:
        self.result.errors[kind] = self.result.errors.get(kind, 0) + count

    def _connect(self) -> Connection:
        connection = Connection(self.specification.port)
        descriptor = connection.socket.fileno()
        self._connections[descriptor] = connection
        self._free.append(connection)
        self._epoll.register(descriptor, select.EPOLLIN)
        return connection

    def _replace(self, connection: Connection) -> Connection:
        """Count a closed connection, and open another."""
        self._error("connection")
        del self._connections[connection.socket.fileno()]
        self._epoll.unregister(connection.socket)
        connection.socket.close()
        self._connect()
        return self._free.pop()


def main() -> int:
    """Read the specification, run the measurement, and print the result."""
    document: dict[str, Any] = json.load(sys.stdin)
    generator = Generator(Specification(**document))
    gc.disable()
    print(json.dumps(asdict(generator.run())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
