"""Overload: throughput and memory of the service at three times its capacity, and right after.

    python -m bench overload

For the inference worker, in turns: the capacity, with as many clients as fit into the queue; an open loop at three
times that rate; ten times as many clients as queue slots, which retry at once after any response; the capacity again.
Printed are responses with status 200 per second of wall time, and per second of the service's CPU time. Service and
load generator are pinned to different CPUs. Exits 1 if less than 90% of the capacity (medians, wall time) was answered
under either load or right after it, or if memory grew by more than 5%.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.support.options import bench_parser

QUEUE_LIMIT = 64
CAPACITY_CLIENTS = 32
CROWD = 10 * QUEUE_LIMIT
FACTOR = 3.0
SHARE = 0.9
GROWTH = 1.05


def ask(
    port: int, image: bytes, seconds: float, connections: int, rate: float | None = None
) -> dict[str, Any]:
    """Run `bench.load.client` in a process and return its counts."""
    command = [sys.executable, "-m", "bench.load.client", "--port", str(port), "--seconds", str(seconds)]
    command += ["--connections", str(connections)]
    if rate is not None:
        command += ["--rate", str(rate)]
    output = subprocess.run(command, input=image, stdout=subprocess.PIPE, check=True).stdout
    document: dict[str, Any] = json.loads(output)
    return document


def cpus() -> tuple[int, int]:
    """Return a CPU for the service and one for the load generator; the same if there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process's children."""
    ticks = 0
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """Return the resident bytes of a process's children."""
    total = 0
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        fields = Path(f"/proc/{child}/statm").read_text().split()
        total += int(fields[1]) * 4096
    return total


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code."""
    from bench.support.models import publish_synthetic
    from bench.support.pictures import a_digit, png
    from bench.support.processes import running

    parser = bench_parser("overload", __doc__)
    parser.add_argument(
        "--worker", action="append", choices=("inference", "gthread"), help="default: inference"
    )
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    image, good = png(a_digit()), True
    service_cpu, load_cpu = cpus()
    for worker in options.worker or ("inference",):
        with tempfile.TemporaryDirectory() as name:
            model = publish_synthetic(Path(name)).path.parent
            settings: dict[str, Any] = {"model": model, "worker": worker, "queue_limit": QUEUE_LIMIT}
            os.sched_setaffinity(0, {service_cpu})  # inherited by the service
            with running(Path(name), until="/readyz", **settings) as service:
                os.sched_setaffinity(0, {load_cpu})
                pid, port = service.process.pid, service.port
                found: dict[str, list[tuple[float, float]]] = {}
                refused = 0
                memory: list[int] = []

                def measure(what: str, seconds: float, clients: int, rate: float | None = None) -> int:
                    before = cpu_seconds(pid)  # noqa: B023  it is called in this round only
                    count = ask(port, image, seconds, clients, rate)  # noqa: B023
                    spent = cpu_seconds(pid) - before  # noqa: B023
                    good = count["answers"].get("200", 0)
                    found.setdefault(what, []).append((count["good_rate"], good / spent))  # noqa: B023
                    return int(count["answers"].get("503", 0))

                measure("capacity", options.seconds, CAPACITY_CLIENTS)
                for _ in range(options.rounds):
                    wanted = FACTOR * found["capacity"][-1][0]
                    refused += measure("3 x the rate", options.seconds, CAPACITY_CLIENTS, wanted)
                    refused += measure("10 x the clients", options.seconds, CROWD)
                    measure("right after", 2, CAPACITY_CLIENTS)
                    memory.append(resident(pid))
                    measure("capacity", options.seconds, CAPACITY_CLIENTS)
                rates = {
                    what: [statistics.median(one) for one in zip(*of, strict=True)]
                    for what, of in found.items()
                }
                wall, cpu = rates.pop("capacity")
                growth = memory[-1] / memory[0]
                print(f"{worker}: {wall:.0f} requests/s at capacity, {cpu:.0f} for each CPU second")
                for what, (by_wall, by_cpu) in rates.items():
                    print(f"  {what:17} {by_wall / wall:4.0%} of it, {by_cpu / cpu:4.0%} for each CPU second")
                print(f"  {refused} requests were shed (503); memory x {growth:.3f}", flush=True)
                enough = all(by_wall >= SHARE * wall for by_wall, _ in rates.values())
                good = good and enough and growth <= GROWTH
    return 0 if good else 1
