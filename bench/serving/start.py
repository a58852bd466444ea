"""Time from `python -m serving` to the first status 200 of `/readyz`, on the CPU with files cached.

    python -m bench start --model models/mnist

Without `--model` it uses a synthetic model with a smaller graph. Exits 1 if the slowest start takes longer than 3 s.
"""

import tempfile
import time
from pathlib import Path

import numpy as np

from bench.support.options import bench_parser

LIMIT_SECONDS = 3.0


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code."""
    from bench.support.models import publish_synthetic
    from bench.support.processes import free_port, running

    parser = bench_parser("start", __doc__)
    parser.add_argument("--model", type=Path, help="directory of a published model")
    parser.add_argument("--starts", type=int, default=10, help="number of starts; one more warms the caches")
    parser.add_argument("--workers", type=int, default=1, help="worker processes of the service")
    options = parser.parse_args(arguments)
    good = True
    for worker in ("inference", "gthread"):
        seconds: list[float] = []
        with tempfile.TemporaryDirectory() as name:
            model = options.model or publish_synthetic(Path(name)).path.parent
            for _ in range(1 + options.starts):
                started = time.perf_counter()
                with running(
                    Path(name),
                    until="/readyz",
                    model=model.absolute(),
                    management_port=free_port(),
                    worker=worker,
                    workers=options.workers,
                ):
                    seconds.append(time.perf_counter() - started)
        p50, most = np.percentile(seconds[1:], [50, 100])
        print(f"{worker:10} {options.starts} starts: median {p50:.2f} s, slowest {most:.2f} s")
        good = good and most < LIMIT_SECONDS
    return 0 if good else 1
