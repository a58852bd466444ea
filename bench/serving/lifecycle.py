"""Restarts under load: requests that are lost while processes or versions are replaced, and the longest wait.

    python -m bench lifecycle --requests 100000

Clients send requests in a closed loop on keep-alive connections, to the inference worker. Meanwhile one service gets
HUP every second or two, which replaces its workers (connections wait in the backlog while the new ones load); then
two services are restarted in turns as in a rolling restart: removed from the clients' list, stopped by SIGTERM,
started again; then one service loads a new version every second or two. A request is lost if its connection fails,
closes without a response, has none after a minute, or the status is not 200. Exits 1 if one was lost. The longest
wait is from connecting, if the request needed a connection, to the last byte of the response.
"""

import asyncio
import contextlib
import functools
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bench.load.client import image_request
from bench.support.options import bench_parser

CLIENTS = 16
PAUSE_SECONDS = 1.0
"""Time between two restarts."""
PATIENCE_SECONDS = 60.0
"""Timeout after which a request is lost."""


class Fleet:
    """Clients, the ports that they may connect to, and the results of their requests."""

    def __init__(self, wanted: int, image: bytes) -> None:
        self.ports: list[int] = []
        self.answers: Counter[int] = Counter()
        self.lost: list[str] = []
        self.longest = 0.0
        """Seconds of the slowest request."""
        self._wanted, self._image = wanted, image
        self._next = 0

    @property
    def done(self) -> bool:
        """Whether all requests are finished."""
        return self.answers.total() + len(self.lost) >= self._wanted

    async def ask(self) -> None:
        """Run one client until enough requests have been sent."""
        while not self.done:
            self._next += 1
            port = self.ports[self._next % len(self.ports)]
            started = time.perf_counter()
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError as error:
                self.lost.append(f"no connection: {error}")
                continue
            with contextlib.closing(writer):
                await self._keep_asking(reader, writer, port, started)

    async def _keep_asking(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, started: float
    ) -> None:
        """Send requests on one connection until the service closes it or is removed from the list."""
        request = image_request(port, self._image)
        while not self.done:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    writer.write(request)
                    head = (await reader.readuntil(b"\r\n\r\n")).lower()
                    await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
            except (OSError, asyncio.IncompleteReadError) as error:
                self.lost.append(f"no answer: {error!r}")
                return
            now = time.perf_counter()
            self.longest, started = max(self.longest, now - started), now
            self.answers[int(head.split()[1])] += 1
            if b"connection: close" in head:
                return


async def hups(fleet: Fleet, running: Callable[..., Any]) -> int:
    """Send HUP to one service repeatedly; return how often."""
    count = 0
    with running() as service:
        fleet.ports = [service.port]
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(fleet.ask())
            while not fleet.done:
                await asyncio.sleep(PAUSE_SECONDS)
                seen = service.log().count("ready: ")
                service.process.send_signal(signal.SIGHUP)
                count += 1
                await _logged(fleet, service, "ready: ", seen + 1)
    return count


async def swaps(fleet: Fleet, running: Callable[..., Any], publish: Callable[[], int]) -> int:
    """Publish versions for one service repeatedly; return how many."""
    count = 0
    with running() as service:
        fleet.ports = [service.port]
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(fleet.ask())
            while not fleet.done:
                await asyncio.sleep(PAUSE_SECONDS)
                version = await asyncio.to_thread(publish)
                count += 1
                await _logged(fleet, service, f" version {version} ", 1)
    return count


async def _logged(fleet: Fleet, service: Any, words: str, times: int) -> None:
    while service.log().count(words) < times and not fleet.done:  # noqa: ASYNC110  a log has no event
        await asyncio.sleep(0.05)


async def rolling_restarts(fleet: Fleet, running: Callable[..., Any]) -> int:
    """Restart two services in turns; return how often."""
    count = 0
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        stacks = [first, second]
        services = [stack.enter_context(running()) for stack in stacks]
        fleet.ports = [service.port for service in services]
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(fleet.ask())
            while not fleet.done:
                await asyncio.sleep(PAUSE_SECONDS)
                place = count % 2
                fleet.ports = [services[1 - place].port]
                await asyncio.to_thread(stacks[place].close)  # SIGTERM, and a check that it exits with 0
                services[place] = await asyncio.to_thread(stacks[place].enter_context, running())
                fleet.ports = [service.port for service in services]
                count += 1
    return count


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code."""
    from bench.support import processes
    from bench.support.models import publish_synthetic
    from bench.support.pictures import a_digit, png

    parser = bench_parser("lifecycle", __doc__)
    parser.add_argument(
        "--requests", type=int, default=100_000, help="requests for each kind of restart and worker class"
    )
    parser.add_argument(
        "--worker", action="append", choices=("inference", "gthread"), help="default: inference"
    )
    parser.add_argument("--workers", type=int, default=2, help="worker processes of a service")
    options = parser.parse_args(arguments)
    good = True
    with tempfile.TemporaryDirectory() as name:
        kinds: list[tuple[str, Callable[[Fleet, Callable[..., Any]], Awaitable[int]]]] = [
            ("HUP", hups),
            ("rolling restart", rolling_restarts),
            ("swap", functools.partial(swaps, publish=lambda: publish_synthetic(Path(name)).version)),
        ]
        model = publish_synthetic(Path(name)).path.parent
        for worker in options.worker or ("inference",):
            for kind, restart in kinds:

                def running(worker: str = worker) -> Any:
                    settings = {
                        "model": model,
                        "worker": worker,
                        "workers": options.workers,
                        "reload_seconds": 0.5,
                    }
                    return processes.running(Path(name), until="/readyz", **settings)

                fleet = Fleet(options.requests, png(a_digit()))
                started = time.perf_counter()
                count = asyncio.run(_restarted(restart, fleet, running))
                seconds = time.perf_counter() - started
                lost = len(fleet.lost) + fleet.answers.total() - fleet.answers[200]
                print(
                    f"{worker:10} {kind:16} {count:3} in {seconds:.0f} s: {fleet.answers[200]} answered, "
                    f"{lost} lost, longest wait {fleet.longest:.2f} s",
                    flush=True,
                )
                for what, times in Counter(fleet.lost).most_common(5):
                    print(f"{times:8} {what}")
                good = good and not lost
    return 0 if good else 1


async def _restarted(
    restart: Callable[..., Awaitable[int]], fleet: Fleet, running: Callable[..., Any]
) -> int:
    return await restart(fleet, running)
