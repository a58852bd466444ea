"""The service over HTTP on CUDA beside the CPU, for `python -m bench gpu`: providers and numbers of workers.

All services run at the same time on half of the cores, and are loaded in turns from the other half. With one PNG per
request, HTTP and decoding dominate and stay on the CPU: one worker on CUDA may be slower than a worker per core on the
CPU, and several workers on CUDA share the GPU.
"""

import contextlib
import dataclasses
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.comparison import commands
from bench.comparison.contender import (
    GLYPH,
    IMAGES,
    ROOT,
    WORKLOADS,
    Contender,
    Setup,
    environment_of,
)
from bench.comparison.contenders import CONTENDERS
from bench.comparison.environments import UnavailableError
from bench.comparison.rounds import Cores, Running, Subject, await_answer, measure
from bench.load import processes
from bench.load.statistics import Reading

REQUESTS = ("png", "batch")
CONNECTIONS = 64
MOST_CLIENTS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A configuration of the service."""

    provider: str
    workers: int
    graphs: bool = False

    @property
    def name(self) -> str:
        """Return a name for the table."""
        return f"{self.provider} x {self.workers}{', graphs' if self.graphs else ''}"


def cases(cores: int) -> list[Case]:
    """Return the configurations to compare on this number of cores."""
    on_cuda = [
        Case(provider="cuda", workers=workers, graphs=graphs)
        for graphs in (False, True)
        for workers in (1, 4)
    ]
    return [Case(provider="cpu", workers=cores), *on_cuda]


def contender_of(case: Case, device: int) -> Contender:
    """Return a configuration as a contender."""

    def environment(setup: Setup) -> dict[str, str]:
        settings = {
            "provider": case.provider,
            "workers": case.workers,
            "cuda_graphs": case.graphs,
            "device_id": device,
        }
        return commands.glyph_environment("inference")(setup) | {
            **{f"GLYPH_{name.upper()}": str(value) for name, value in settings.items()},
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }

    usual = next(one for one in CONTENDERS if one.name == GLYPH)
    return dataclasses.replace(usual, name=case.name, title=case.name, environment=environment)


@contextlib.contextmanager
def started(
    wanted: Sequence[Case], subject: Subject, cores: Cores, device: int
) -> Iterator[dict[str, Running]]:
    """Start all services at once, as loading CUDA takes seconds; yield those that run, print why others do not."""
    with tempfile.TemporaryDirectory(prefix="glyph-bench-") as directory:
        up = [_start(case, subject, cores, device, Path(directory)) for case in wanted]
        try:
            with ThreadPoolExecutor(len(up)) as pool:
                problems = list(pool.map(lambda server: _problem(server, subject), up))
            for server, problem in zip(up, problems, strict=True):
                if problem:
                    print(f"{server.contender.name} does not serve: {problem}", flush=True)
            yield {
                server.contender.name: server
                for server, problem in zip(up, problems, strict=True)
                if not problem
            }
        finally:
            for server in up:
                server.family.process.terminate()  # signal all before waiting for each
            for server in up:
                server.family.end()


def _start(case: Case, subject: Subject, cores: Cores, device: int, directory: Path) -> Running:
    contender = contender_of(case, device)
    port, *more = processes.free_ports(2)
    setup = Setup(
        port=port,
        more_ports=tuple(more),
        workers=case.workers,
        bundle=subject.bundle,
        name=subject.name,
        directory=directory,
    )
    family = processes.start(
        contender.command(setup),
        cpus=cores.server,
        directory=directory / case.name.replace(", ", "-").replace(" ", ""),
        environment=environment_of(contender, setup),
    )
    return Running(contender=contender, family=family, port=port, cold_start=0.0)


def _problem(server: Running, subject: Subject) -> str | None:
    try:
        await_answer(server, subject)
    except UnavailableError as error:
        return str(error)
    return None


def asked(server: Running, request: str, seconds: float, subject: Subject, cores: Cores) -> Reading:
    """Load a service by several processes, as one cannot saturate it; return their combined reading."""
    clients = min(len(cores.client), MOST_CLIENTS)
    with ThreadPoolExecutor(clients) as pool:
        futures = [
            pool.submit(measure, server, request, CONNECTIONS // clients, seconds, subject, cores)
            for _ in range(clients)
        ]
        readings = [future.result()[0] for future in futures]
    return dataclasses.replace(
        readings[0],
        rate=sum(reading.rate for reading in readings),
        p50=statistics.median(reading.p50 for reading in readings),
        p99=max(reading.p99 for reading in readings),
        errors=sum(reading.errors for reading in readings),
        wrong=sum(reading.wrong for reading in readings),
        busy=max(reading.busy for reading in readings),
    )


def compare(wanted: Sequence[Case], model: Path, seconds: float, device: int) -> bool:
    """Print the table and the fastest configuration; return whether all ran and every response was right."""
    subject, cores = Subject.of(model), Cores.halves()
    print(
        f"\nThe service over HTTP on {len(cores.server)} cores, asked over {CONNECTIONS} connections from "
        f"{len(cores.client)} others:"
    )
    good, best = True, dict[str, tuple[float, str]]()
    with started(wanted, subject, cores, device) as up:
        print(
            f"{'':18} {'request':18} {'requests/s':>11} {'images/s':>11} {'p50 ms':>8} {'p99 ms':>8}  client's load"
        )
        for request in REQUESTS:
            for name, server in up.items():
                reading = asked(server, request, seconds, subject, cores)
                good = good and not reading.errors and not reading.wrong
                best[request] = max(best.get(request, (0.0, "")), (reading.rate, name))
                print(
                    f"{name:18} {WORKLOADS[request]:18} {reading.rate:11,.0f} "
                    f"{reading.rate * IMAGES[request]:11,.0f} {reading.p50 * 1e3:8.2f} {reading.p99 * 1e3:8.2f}"
                    f"  {reading.busy:.0%}" + (f"  {reading.errors} errors" if reading.errors else "")
                    + (f"  {reading.wrong} WRONG ANSWERS" if reading.wrong else ""),
                    flush=True,
                )  # fmt: skip
    for request, (rate, name) in best.items():
        print(f"Of {WORKLOADS[request]} a request, {name} answers most: {rate:,.0f} requests/s.")
    if not good or len(up) < len(wanted):
        print("error: a service did not start, or a response was wrong", file=sys.stderr)
    return good and len(up) == len(wanted)
