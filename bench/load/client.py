"""A load client for `POST /predict`: closed loop, or open loop at a constant rate.

    python -m bench.load.client --port 8080 --seconds 5                 closed loop: the capacity
    python -m bench.load.client --port 8080 --seconds 5 --rate 5000     open loop: 5,000 requests/s

Prints a line of JSON: requests sent, responses by status, and requests/s. An open loop keeps its rate even when
responses are late; requests are then pipelined on the existing connections.
"""

import argparse
import asyncio
import json
import re
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

TICK_SECONDS = 0.002
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
LONGEST_MATCH = 13


@dataclass(slots=True)
class Tally:
    """Counts of requests and responses."""

    sent: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    broken: int = 0
    """Connections that the service closed."""


class Connection(asyncio.Protocol):
    """A connection that counts its responses."""

    def __init__(self, request: bytes, tally: Tally, *, closed_loop: bool) -> None:
        self._request, self._tally, self._closed_loop = request, tally, closed_loop
        self._rest = b""
        self.transport: asyncio.Transport | None = None
        self.paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request of a closed loop."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  TCP has no other
        self.transport = transport
        if self._closed_loop:
            self.send()

    def send(self) -> None:
        """Send a request, unless the connection is closed or its buffer is full."""
        if self.transport is not None and not self.paused:
            self.transport.write(self._request)
            self._tally.sent += 1

    def data_received(self, data: bytes) -> None:
        """Count responses by their status lines; no response body contains one."""
        data = self._rest + data
        end = 0
        for found in STATUS.finditer(data):
            self._tally.answers[int(found[1])] += 1
            end = found.end()
            if self._closed_loop:
                self.send()
        self._rest = data[max(end, len(data) - LONGEST_MATCH) :]

    def pause_writing(self) -> None:
        """Stop sending while the buffer is full."""
        self.paused = True

    def resume_writing(self) -> None:
        """Resume sending."""
        self.paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a closed connection; `load` replaces it."""
        del exc
        self.transport = None
        self._tally.broken += 1


async def load(port: int, request: bytes, *, seconds: float, connections: int, rate: float | None) -> Tally:
    """Send requests for `seconds`, or until SIGTERM, and return the counts.

    Args:
        port: of the service.
        request: the bytes of a request.
        seconds: the duration.
        connections: concurrent connections.
        rate: requests/s over all connections; None is a closed loop.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    tally = Tally()

    def protocol() -> Connection:
        return Connection(request, tally, closed_loop=rate is None)

    made = [(await loop.create_connection(protocol, "127.0.0.1", port))[1] for _ in range(connections)]
    started, turn = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < seconds and not ended.is_set():
        if rate is not None:
            while turn < rate * elapsed:
                made[turn % connections].send()
                turn += 1
        if rate is None:
            await asyncio.sleep(TICK_SECONDS)
        else:  # not in epoll, where every response would wake this process and slow down the server
            time.sleep(TICK_SECONDS)  # noqa: ASYNC251
            await asyncio.sleep(0)
        for place, connection in enumerate(made):
            if connection.transport is None:
                made[place] = (await loop.create_connection(protocol, "127.0.0.1", port))[1]
    return tally


def image_request(port: int, image: bytes) -> bytes:
    """Return the bytes of a request that posts an image file."""
    head = (
        f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: image/png\r\n"
        f"Content-Length: {len(image)}\r\n\r\n"
    )
    return head.encode() + image


def main() -> int:
    """Send the image of the standard input, and print the counts."""
    parser = argparse.ArgumentParser(prog="python -m bench.load.client", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rate", type=float)
    options = parser.parse_args()
    request = image_request(options.port, sys.stdin.buffer.read())
    started = time.perf_counter()
    tally = asyncio.run(
        load(
            options.port,
            request,
            seconds=options.seconds,
            connections=options.connections,
            rate=options.rate,
        )
    )
    elapsed = time.perf_counter() - started
    answered = sum(tally.answers.values())
    print(
        json.dumps(
            {
                "sent": tally.sent,
                "answers": tally.answers,
                "broken": tally.broken,
                "sent_rate": tally.sent / elapsed,
                "rate": answered / elapsed,
                "good_rate": tally.answers[200] / elapsed,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
