"""Thousands of idle connections: memory per connection, and their effect on active ones.

    python -m bench idle --model models/mnist

Each server is loaded over 16 connections, alone and beside 1,000 and 10,000 keep-alive connections that are idle after
one request, in turns over the rounds. Printed are requests/s, p99 and CPU time per response of the 16 (medians, with
ratios to the server without idle connections), and the growth of a server's processes per idle connection (resident
bytes, first round, without the kernel's memory). Servers' limits on connections and on their age are raised. Exits 1 if
a server closed an idle connection, or if a response of Glyph took more than 1.25 times the CPU time.
"""

import argparse
import resource
import select
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bench.comparison import rounds
from bench.comparison.contender import BASELINE, GLYPH, GTHREAD, Contender, Setup
from bench.comparison.contenders import CONTENDERS
from bench.comparison.rounds import Cores, Running, Subject
from bench.load.generator import Connection
from bench.load.statistics import Reading, middle
from bench.support.options import bench_parser, model_missing
from bundle.errors import BundleError

ACTIVE = 16
IDLE = (0, 1000, 10_000)
SPARE_DESCRIPTORS = 500
ANSWER_SECONDS = 60.0
KEPT_SECONDS = 900
MOST_CPU = 1.25
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with timeout 0: closing resets the connection and frees its port at once."""
ROOM = {
    GLYPH: (),
    GTHREAD: (),
    BASELINE: ("--worker-connections", "20000", "--keep-alive", str(KEPT_SECONDS)),
    "fastapi": ("--timeout-keep-alive", str(KEPT_SECONDS)),
}
"""Servers, with the arguments that allow that many connections of that age."""


@dataclass(slots=True)
class Found:
    """The measurements of a server by number of idle connections."""

    readings: dict[int, list[Reading]] = field(default_factory=dict)
    memory: dict[int, int] = field(default_factory=dict)
    """Resident bytes of its processes in the first round."""
    closed: int = 0
    """Number of idle connections that the server closed."""

    def rows(self, title: str) -> list[str]:
        """Return the rows of the table."""
        lines, alone = [], middle(self.readings[0])
        for idle, readings in self.readings.items():
            one = middle(readings)
            each = f"{(self.memory[idle] - self.memory[0]) / idle / 1024:.1f}" if idle else "-"
            lines.append(
                f"| {title} | {idle:,} | {each} | {one.rate:,.0f} | {one.rate / alone.rate:.2f} "
                f"| {1e3 * one.p99:.2f} | {one.p99 / alone.p99:.2f} "
                f"| {1e6 * one.cpu:.0f} | {one.cpu / alone.cpu:.2f} |"
            )
        return lines


class Crowd:
    """Connections that are idle after one request."""

    def __init__(self, port: int, request: bytes) -> None:
        self._port, self._request = port, request
        self.connections: list[Connection] = []

    def grow(self, count: int) -> None:
        """Open connections until there are `count`."""
        while len(self.connections) < count:
            one = Connection(self._port)
            one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            one.socket.settimeout(ANSWER_SECONDS)
            self.connections.append(one)
            one.send(self._request)
            while not one.complete(data := one.socket.recv(1 << 16)):
                if not data:
                    raise RuntimeError("an idle connection was closed before its first response")
            if not one.answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"the first response of an idle connection is {one.answer[:100]!r}")

    def closed(self) -> int:
        """Return how many connections the server closed."""
        poll = select.poll()
        for one in self.connections:
            poll.register(one.socket, select.POLLIN)
        return len(poll.poll(0))

    def close(self) -> None:
        """Close all connections."""
        for one in self.connections:
            one.socket.close()
        self.connections.clear()


def roomy(contender: Contender) -> Contender:
    """Return the contender with raised connection limits."""
    more = {"GLYPH_CONNECTIONS": "20000", "GLYPH_KEEPALIVE_SECONDS": str(KEPT_SECONDS)}

    def environment(setup: Setup) -> dict[str, str]:
        return {**contender.environment(setup), **(more if contender.lock is None else {})}

    def started(setup: Setup) -> list[str]:
        return [*contender.command(setup), *ROOM[contender.name]]

    return replace(contender, command=started, environment=environment)


def measure_round(
    server: Running, subject: Subject, cores: Cores, counts: Sequence[int], seconds: float, found: Found
) -> None:
    """Measure one round of a server."""
    request = server.contender.forms["png"].request(subject.images[:1], subject.name)
    crowd = Crowd(server.port, request)
    try:
        for idle in counts:
            crowd.grow(idle)
            reading, _ = rounds.measure(server, "png", ACTIVE, seconds, subject, cores)
            found.readings.setdefault(idle, []).append(reading)
            found.memory.setdefault(idle, int(reading.rss))
        found.closed += crowd.closed()
    finally:
        crowd.close()


def descriptors(wanted: int) -> int:
    """Raise the limit of open files to the hard limit; return how many of the `wanted` connections fit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(wanted, hard - SPARE_DESCRIPTORS)


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code."""
    options = _options(arguments)
    most = descriptors(max(IDLE))
    counts = [count for count in IDLE if count <= most]
    if most < max(IDLE):
        print(
            f"at most {most} connections are possible: raise the limit of open files (ulimit -Hn)",
            file=sys.stderr,
        )
    try:
        subject = Subject.of(options.model)
    except (BundleError, OSError) as error:
        return model_missing(error)
    cores = Cores.halves()
    found = measured([name for name in ROOM if name in options.only], subject, cores, counts, options)
    print(
        "| server | idle connections | KiB each | requests/s of 16 active | x | p99 ms | x | CPU µs | x |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    titles = {contender.name: contender.title for contender in CONTENDERS}
    for name, one in found.items():
        print("\n".join(one.rows(titles[name])))
    return 0 if all(_is_good(name, one) for name, one in found.items()) else 1


def measured(
    names: Sequence[str], subject: Subject, cores: Cores, counts: Sequence[int], options: argparse.Namespace
) -> Mapping[str, Found]:
    """Start the servers and measure them in turns."""
    wanted = [roomy(contender) for contender in CONTENDERS if contender.name in names]
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    with rounds.running(wanted, subject, cores, say) as (up, _missing), rounds.resting(up) as restless:
        found = {name: Found() for name in up}
        for number in range(options.rounds):
            for name, server in up.items():
                say(f"round {number + 1}: {server.contender.title}")
                with rounds.awake(server, restless):
                    measure_round(server, subject, cores, counts, options.seconds, found[name])
    return found


def _is_good(name: str, one: Found) -> bool:
    if one.closed:
        print(f"error: {name} closed {one.closed} idle connections", file=sys.stderr)
    times = [middle(readings).cpu for readings in one.readings.values()]
    return not one.closed and (name != GLYPH or max(times) <= MOST_CPU * times[0])


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = bench_parser("idle", __doc__, model=True)
    parser.add_argument("--only", default=",".join(ROOM), help=f"servers; default: {','.join(ROOM)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="duration of each measurement")
    options = parser.parse_args(arguments)
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(ROOM):
        parser.error(f"unknown server {min(unknown)!r}; choose from {', '.join(ROOM)}")
    return options
