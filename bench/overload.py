"""Three times what the service can answer: what it still answers, its memory, and how it is afterwards.

    python -m bench overload

For each way of serving, in turns: the capacity, by as many clients as fit into the queue; then three times that
many requests a second, whatever the answers; then ten times as many clients as the queue holds, which ask again
at once whatever they are told; then the capacity again. Exits 1 if less than 90% of the capacity (the median
of its measurements) was answered under either load or right after it, or the service's memory grew by more than 5%.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

QUEUE_LIMIT = 64
CAPACITY_CLIENTS = 32
CROWD = 10 * QUEUE_LIMIT
FACTOR = 3.0
SHARE = 0.9
GROWTH = 1.05


def ask(
    port: int, image: bytes, seconds: float, connections: int, rate: float | None = None
) -> dict[str, Any]:
    """Run `bench.load` in a process of its own and return what it counted."""
    command = [sys.executable, "-m", "bench.load", "--port", str(port), "--seconds", str(seconds)]
    command += ["--connections", str(connections)]
    if rate is not None:
        command += ["--rate", str(rate)]
    output = subprocess.run(command, input=image, stdout=subprocess.PIPE, check=True).stdout
    document: dict[str, Any] = json.loads(output)
    return document


def resident(pid: int) -> int:
    """Return the resident bytes of a process's children."""
    total = 0
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        fields = Path(f"/proc/{child}/statm").read_text().split()
        total += int(fields[1]) * 4096
    return total


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code."""
    from tests.pictures import a_digit, png
    from tests.serving.models import publish_synthetic
    from tests.serving.processes import running

    parser = argparse.ArgumentParser(
        prog="python -m bench overload",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--worker", action="append", choices=("inference", "gthread"), help="default: both")
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    image, good = png(a_digit()), True
    for worker in options.worker or ("inference", "gthread"):
        with tempfile.TemporaryDirectory() as name:
            model = publish_synthetic(Path(name)).path.parent
            settings: dict[str, Any] = {"model": model, "worker": worker, "queue_limit": QUEUE_LIMIT}
            with running(Path(name), until="/readyz", **settings) as service:
                pid, port = service.process.pid, service.port
                capacities = [ask(port, image, options.seconds, CAPACITY_CLIENTS)["good_rate"]]
                shares: dict[str, list[float]] = {
                    "3 x the rate": [],
                    "10 x the clients": [],
                    "right after": [],
                }
                refused = 0
                memory: list[int] = []
                for _ in range(options.rounds):
                    rated = ask(port, image, options.seconds, CAPACITY_CLIENTS, FACTOR * capacities[-1])
                    crowd = ask(port, image, options.seconds, CROWD)
                    after = ask(port, image, 2, CAPACITY_CLIENTS)
                    memory.append(resident(pid))
                    capacities.append(ask(port, image, options.seconds, CAPACITY_CLIENTS)["good_rate"])
                    for what, found in zip(shares, (rated, crowd, after), strict=True):
                        shares[what].append(found["good_rate"])
                    refused += crowd["answers"].get("503", 0)
                capacity = statistics.median(capacities)
                parts = [
                    f"{what} {statistics.median(rates) / capacity:.0%}" for what, rates in shares.items()
                ]
                growth = memory[-1] / memory[0]
                print(
                    f"{worker:10} capacity {capacity:.0f} requests/s; answered: {', '.join(parts)}; "
                    f"{refused} refused; memory x {growth:.3f}",
                    flush=True,
                )
                enough = all(statistics.median(rates) >= SHARE * capacity for rates in shares.values())
                good = good and enough and growth <= GROWTH
    return 0 if good else 1
