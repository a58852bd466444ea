"""Latency of probes on the management port while the data port gets twice its capacity.

    python -m bench probes

Starts a service with a synthetic model, measures its capacity in a closed loop, then sends twice that rate and
meanwhile requests `/livez` and `/readyz` 1,000 times, each on a new connection as the kubelet does, and `/metrics`
100 times. Exits 1 if one failed or the 99th percentile is above 100 ms.
"""

import contextlib
import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.support.options import bench_parser

PROBES = 1000
SCRAPES = 100
LIMIT_SECONDS = 0.1
FACTOR = 2.0
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Probed:
    """The results of the probes."""

    seconds: list[float]
    """Of each probe with status 200."""
    failed: list[str]
    """The error of each other probe."""

    def line(self, name: str) -> str:
        """Return the results as a line."""
        p50, p99, most = 1000 * np.percentile(self.seconds or [0], [50, 99, 100])
        return (
            f"{name:24} {len(self.seconds):5} answered, {len(self.failed)} failed, "
            f"p50 {p50:6.2f} ms, p99 {p99:6.2f} ms, longest {most:6.2f} ms"
        )


def probe(port: int, paths: tuple[str, ...], count: int) -> Probed:
    """Send `count` probes one after another, cycling through the paths."""
    seconds: list[float] = []
    failed: list[str] = []
    for number in range(count):
        path = paths[number % len(paths)]
        started = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
        with contextlib.closing(connection):
            try:
                connection.request("GET", path)
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException) as error:
                failed.append(f"{path}: {error!r}")
                continue
        if response.status == http.client.OK:
            seconds.append(time.perf_counter() - started)
        else:
            failed.append(f"{path}: {response.status}")
    return Probed(seconds=seconds, failed=failed)


def capacity(port: int, image: bytes, seconds: float) -> float:
    """Return the requests/s with status 200 in a closed loop.

    Raises:
        RuntimeError: no request has status 200.
    """
    with loading(port, image, seconds=seconds) as process:
        result = finish(process)
    if not result["good_rate"]:
        raise RuntimeError(f"no request has status 200: {result}")
    return float(result["good_rate"])


@contextlib.contextmanager
def loading(
    port: int, image: bytes, *, seconds: float, rate: float | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `bench.load.client` in a process during the block."""
    command = [sys.executable, "-m", "bench.load.client", "--port", str(port), "--seconds", str(seconds)]
    if rate is not None:
        command += ["--rate", str(rate)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin  # noqa: S101  PIPE was passed
    process.stdin.write(image)
    process.stdin.close()
    process.stdin = None
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def finish(process: subprocess.Popen[bytes], *, now: bool = False) -> dict[str, Any]:
    """Wait for the load to end, or stop it now, and return its counts."""
    if now:
        process.terminate()
    output, _ = process.communicate()
    document: dict[str, Any] = json.loads(output)
    return document


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code."""
    from bench.support.models import publish_synthetic
    from bench.support.pictures import a_digit, png
    from bench.support.processes import free_port, running

    parser = bench_parser("probes", __doc__)
    parser.add_argument("--worker", action="append", choices=("inference", "gthread"), help="default: both")
    parser.add_argument("--workers", type=int, default=2, help="worker processes of the service")
    parser.add_argument("--probes", type=int, default=PROBES)
    options = parser.parse_args(arguments)
    image, good = png(a_digit()), True
    for worker in options.worker or ("inference", "gthread"):
        port = free_port()
        with tempfile.TemporaryDirectory() as name:
            bundle = publish_synthetic(Path(name))
            with running(
                Path(name),
                until="/readyz",
                model=bundle.path.parent,
                management_port=port,
                worker=worker,
                workers=options.workers,
            ) as service:
                able = capacity(service.port, image, 5)
                with loading(service.port, image, seconds=600, rate=FACTOR * able) as load:
                    time.sleep(1)  # fills the queue
                    probed = probe(port, ("/livez", "/readyz"), options.probes)
                    scraped = probe(port, ("/metrics",), SCRAPES)
                    result = finish(load, now=True)
        print(
            f"{worker}, {options.workers} processes: capacity {able:.0f} requests/s; "
            f"offered {result['sent_rate']:.0f}, answers/s by status: "
            + ", ".join(
                f"{status}: {count * result['rate'] / sum(result['answers'].values()):.0f}"
                for status, count in sorted(result["answers"].items())
            )
        )
        print(probed.line("  /livez, /readyz"))
        print(scraped.line("  /metrics"))
        late = float(np.percentile(probed.seconds or [PATIENCE_SECONDS], 99)) > LIMIT_SECONDS
        good = good and not probed.failed and not scraped.failed and not late
    return 0 if good else 1
