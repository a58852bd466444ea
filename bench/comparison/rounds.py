"""Closed-loop measurement: all servers run at once, and each round measures every one in random order."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.comparison import environments
from bench.comparison.contender import BASELINE, IMAGES, ROOT, Contender, Setup, environment_of
from bench.comparison.environments import UnavailableError
from bench.load import processes
from bench.load.generator import Result, Specification
from bench.load.processes import Family
from bench.load.statistics import Reading, percentile
from bench.load.wire import Form, Images, Message, Probabilities
from bundle.golden import GoldenExamples
from bundle.manifest import GOLDEN_FILE
from bundle.repository import resolve

START_SECONDS = 120.0
PREPARE_SECONDS = 120.0
TOLERANCE = 1e-4
"""Between probabilities: the order of additions depends on the batch size."""
DISTINCT_REQUESTS = 30
IDLE_SECONDS = 2.0
INSTRUCTIONS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
)
"""Flags of /proc/cpuinfo that decide how fast float32, bfloat16 and bytes are multiplied."""
RESTLESS_SHARE = 0.005
"""Share of a core; a server that uses more when idle is stopped until its turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """The bundle that all serve, and the requests: images with their expected probabilities."""

    bundle: Path
    name: str
    images: Images
    probabilities: Probabilities

    @classmethod
    def of(cls, model: Path) -> "Subject":
        """Return the newest version of a model, with its golden examples as requests.

        Raises:
            BundleError: there is no version.
        """
        bundle = resolve(model)
        golden = GoldenExamples.from_bytes(bundle.read(GOLDEN_FILE), bundle.manifest)
        return cls(
            bundle=bundle.path.absolute(),
            name=bundle.manifest.name,
            images=golden.images,
            probabilities=golden.probabilities,
        )

    def requests(self, workload: str) -> list[tuple[Images, Probabilities]]:
        """Return the images of each distinct request, and their probabilities."""
        size = IMAGES[workload]
        places = np.arange(DISTINCT_REQUESTS * size).reshape(-1, size) % len(self.images)
        return [(self.images[row], self.probabilities[row]) for row in places]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cores:
    """CPUs of the servers and of the load generator."""

    server: tuple[int, ...]
    client: tuple[int, ...]

    @classmethod
    def halves(cls) -> "Cores":
        """Return half of the CPUs for each; a single CPU is shared."""
        usable = sorted(os.sched_getaffinity(0))
        half = max(len(usable) // 2, 1)
        return cls(server=tuple(usable[:half]), client=tuple(usable[half:]) or tuple(usable))


@dataclass(kw_only=True, slots=True, eq=False)
class Running:
    """A running server."""

    contender: Contender
    family: Family
    port: int
    cold_start: float
    """Seconds from the command to the first correct response."""
    requests: dict[str, list[str]] = field(default_factory=dict)
    """Encoded requests by workload, in the generator's format."""


@contextlib.contextmanager
def running(
    wanted: Sequence[Contender], subject: Subject, cores: Cores, say: Callable[[str], None]
) -> Iterator[tuple[dict[str, Running], dict[str, str]]]:
    """Start servers one after another; yield those that run, and the reasons for those that do not."""
    up: dict[str, Running] = {}
    missing: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="glyph-bench-")))
        for contender in wanted:
            try:
                server = start(contender, subject, cores, directory / contender.name)
            except UnavailableError as error:
                missing[contender.name] = str(error)
                say(f"{contender.title}: {error}")
            else:
                stack.callback(server.family.end)
                up[contender.name] = server
                say(f"{contender.title}: first response after {server.cold_start:.2f} s")
        yield up, missing


def start(contender: Contender, subject: Subject, cores: Cores, directory: Path) -> Running:
    """Start a server and wait for its first correct response.

    Raises:
        UnavailableError: the server cannot be installed or started, does not respond, or responds wrongly.
    """
    if contender.lock is not None:
        environments.install(contender.lock)
    port, *more = processes.free_ports(5)
    setup = Setup(
        port=port,
        more_ports=tuple(more),
        workers=len(cores.server),
        bundle=subject.bundle,
        name=subject.name,
        directory=directory,
    )
    directory.mkdir(parents=True)
    environment = environment_of(contender, setup)
    if (command := contender.prepare(setup)) is not None:
        preparation = processes.start(
            command, cpus=cores.server, directory=directory / "preparation", environment=environment
        )
        try:
            preparation.process.wait(PREPARE_SECONDS)
        finally:
            preparation.end()
        if preparation.process.returncode:
            raise UnavailableError(f"its preparation failed: {preparation.last_lines()}")
    started = time.perf_counter()
    family = processes.start(
        contender.command(setup), cpus=cores.server, directory=directory / "run", environment=environment
    )
    server = Running(contender=contender, family=family, port=port, cold_start=0.0)
    try:
        await_answer(server, subject)
    except BaseException:
        family.end()
        raise
    server.cold_start = time.perf_counter() - started
    return server


def await_answer(server: Running, subject: Subject) -> None:
    """Send requests until the first response, which must be correct."""
    workload, form = next(iter(server.contender.forms.items()))
    images, probabilities = subject.requests(workload)[0]
    request = form.request(images, subject.name)
    deadline, answer = time.monotonic() + START_SECONDS, None
    while True:
        if server.family.process.poll() is not None:
            raise UnavailableError(f"it exited during startup: {server.family.last_lines()}")
        with contextlib.suppress(OSError):
            status, answer = ask(server.port, request)
            if status == 200:
                break
        if time.monotonic() > deadline:
            told = "nothing" if answer is None else answer.body[:200].decode(errors="replace")
            log = server.family.last_lines()
            raise UnavailableError(f"no response within {START_SECONDS:.0f} s (last: {told}; log: {log})")
        time.sleep(0.02)
    if not server.contender.is_floor and not is_right(form, answer, probabilities):
        raise UnavailableError(f"wrong response: {answer.body[:200].decode(errors='replace')}")


def ask(port: int, request: bytes) -> tuple[int, Message]:
    """Send a request on a new connection."""
    import http.client
    import socket

    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request)
        response = http.client.HTTPResponse(connection, method="POST")
        response.begin()
        body = response.read()
    return response.status, Message(body, {name.lower(): value for name, value in response.getheaders()})


def split(answer: bytes) -> Message:
    """Return a raw response as body and headers; chunked bodies are decoded."""
    head, _, body = answer.partition(b"\r\n\r\n")
    pairs = (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:])
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    if headers.get("transfer-encoding") == "chunked":
        pieces, rest = [], body
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            pieces.append(rest[: int(size, 16)])
            rest = rest[int(size, 16) + 2 :]
        body = b"".join(pieces)
    return Message(body, headers)


def is_right(form: Form, answer: Message, probabilities: Probabilities) -> bool:
    """Return whether a response has the expected probabilities."""
    try:
        found = form.decode(answer)
    except (ValueError, KeyError, TypeError, IndexError):
        return False
    return found.shape == probabilities.shape and bool(np.abs(found - probabilities).max() <= TOLERANCE)


def measure(
    server: Running,
    workload: str,
    connections: int,
    seconds: float,
    subject: Subject,
    cores: Cores,
    rate: float | None = None,
) -> tuple[Reading, Result]:
    """Load a server for `seconds`, and return the measurement."""
    form, asked = server.contender.forms[workload], subject.requests(workload)
    if workload not in server.requests:
        wires = [form.request(images, subject.name) for images, _ in asked]
        server.requests[workload] = [b64encode(wire).decode() for wire in wires]
    with tempfile.TemporaryDirectory(prefix="glyph-bench-") as directory:
        latencies = Path(directory) / "latencies"
        specification = Specification(
            port=server.port,
            requests=server.requests[workload],
            connections=connections,
            seconds=seconds,
            rate=rate,
            latencies=str(latencies),
        )
        before = server.family.usage()
        result = _generate(specification, cores)
        after = server.family.usage()
        times = np.fromfile(latencies, np.float64)
    right = [
        is_right(form, split(b64decode(text)), asked[place][1])
        for place, text in result.samples
        if not server.contender.is_floor
    ]
    reading = Reading(
        rate=result.answers / result.seconds,
        p50=percentile(times, 0.5),
        p99=percentile(times, 0.99),
        cpu=(after.cpu_seconds - before.cpu_seconds) / max(result.all_answers, 1),
        rss=after.rss,
        pss=after.pss,
        errors=sum(result.errors.values()),
        wrong=len(right) - sum(right),
        checked=len(right),
        busy=result.busy,
    )
    return reading, result


def _generate(specification: Specification, cores: Cores) -> Result:
    command = [sys.executable, "-m", "bench.load.generator"]
    document = json.dumps({name: getattr(specification, name) for name in specification.__slots__})
    with processes.pinned(cores.client):
        done = subprocess.run(
            command, input=document, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT
        )
    return Result(**json.loads(done.stdout))


def interleaved(
    up: dict[str, Running],
    workload: str,
    connections: int,
    *,
    rounds: int,
    seconds: float,
    subject: Subject,
    cores: Cores,
    others: Mapping[str, Callable[[], Reading]],
) -> dict[str, list[Reading]]:
    """Measure all servers with the workload in turns; each round has another order, seeded by the workload.

    `others` have their turn in each round too: what is compared with the servers and is none.
    """
    order = random.Random(f"{workload} {connections}")  # noqa: S311  an order, no secret
    with resting(up) as restless:

        def turn(server: Running) -> Reading:
            with awake(server, restless):
                return measure(server, workload, connections, seconds, subject, cores)[0]

        servers = {name: one for name, one in up.items() if workload in one.contender.forms}
        turns = {name: partial(turn, server) for name, server in servers.items()} | dict(others)
        readings: dict[str, list[Reading]] = {name: [] for name in turns}
        names = list(turns)
        for _ in range(rounds):
            order.shuffle(names)
            for name in names:
                readings[name].append(turns[name]())
    return readings


@contextlib.contextmanager
def resting(up: dict[str, Running]) -> Iterator[list[Running]]:
    """Pause (SIGSTOP) the servers that use CPU time when idle, and yield them; resume them at the end.

    Their heartbeats and polling would otherwise slow down the server that is measured.
    """
    before = {name: server.family.usage().cpu_seconds for name, server in up.items()}
    started = time.perf_counter()
    time.sleep(IDLE_SECONDS)  # idle CPU time is measured: there is no condition to wait for
    elapsed = time.perf_counter() - started
    restless = [
        server
        for name, server in up.items()
        if server.family.usage().cpu_seconds - before[name] > RESTLESS_SHARE * elapsed
    ]
    for server in restless:
        server.family.signal(signal.SIGSTOP)
    try:
        yield restless
    finally:
        for server in restless:
            server.family.signal(signal.SIGCONT)


@contextlib.contextmanager
def awake(server: Running, restless: Sequence[Running]) -> Iterator[None]:
    """Resume a paused server for the duration of the block."""
    if server in restless:
        server.family.signal(signal.SIGCONT)
    yield
    if server in restless:
        server.family.signal(signal.SIGSTOP)


def machine() -> dict[str, Any]:
    """Return CPU, what it multiplies fast, cores, kernel and Python version of this machine."""
    import platform

    pairs = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    said = {name.strip(): value.strip() for name, _, value in pairs}
    flags = said.get("flags", said.get("Features", "")).split()  # x86, Arm
    return {
        "cpu": said.get("model name", platform.machine()),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "cores": os.cpu_count(),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
    }


__all__ = ["BASELINE", "Cores", "Running", "Subject", "await_answer", "interleaved", "measure", "running"]
