"""Latency and images/s by batch size on CUDA beside the CPU, the break-even batch size, and the service on both.

"graphs" is CUDA with `GLYPH_CUDA_GRAPHS=true`: reused page-locked buffers, and a captured CUDA graph per batch size.

    python -m bench gpu --model models/mnist

The first table is the service's engine, with one thread on the CPU: from pixels to probabilities in host memory,
without HTTP. The second is the service over HTTP: a worker per core on the CPU, one and four workers on CUDA, with
and without graphs (`bench/gpu/service.py`); it decides what `auto` should choose. Without a working GPU it prints the
reason, measures the engine on the CPU only, if there is a model, and exits with 3. Exits 1 if a service did not start
or responded wrongly.
"""

import time
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bench.load.statistics import percentile
from bench.support.options import bench_parser, model_missing
from bundle.errors import BundleError
from bundle.repository import resolve

if TYPE_CHECKING:
    from serving.model.engine import Engine

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
WARM_CALLS = 10
NO_GPU = 3


def timed(engine: "Engine", images: npt.NDArray[np.uint8], seconds: float) -> npt.NDArray[np.float64]:
    """Return the seconds of consecutive calls on these images, for about `seconds` in total."""
    for _ in range(WARM_CALLS):
        engine.infer(images)
    times: list[float] = []
    ended = time.perf_counter() + seconds
    while (started := time.perf_counter()) < ended:
        engine.infer(images)
        times.append(time.perf_counter() - started)
    return np.array(times)


def first_win(cpu: dict[int, float], gpu: dict[int, float]) -> int | None:
    """Return the smallest batch size from which CUDA is faster at every size; None if there is none."""
    won = None
    for size in sorted(cpu, reverse=True):
        if gpu[size] <= cpu[size]:
            break
        won = size
    return won


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code."""
    from serving.model import cuda
    from serving.model.engine import choose_precision, open_engine

    parser = bench_parser("gpu", __doc__, model=True)
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="duration of each measurement of the engine"
    )
    parser.add_argument(
        "--service-seconds",
        type=float,
        default=3.0,
        help="duration of each of the 10 measurements of the service",
    )
    parser.add_argument("--device", type=int, default=0, help="index of the GPU")
    options = parser.parse_args(arguments)
    reason = cuda.missing(options.device)
    try:
        bundle = resolve(options.model)
        arithmetic = choose_precision("auto", bundle, "cpu")
        engines: dict[str, Engine] = {"cpu": open_engine(bundle, "cpu", options.device, arithmetic)}
        if reason is None:
            engines["cuda"] = open_engine(bundle, "cuda", options.device)
            engines["graphs"] = open_engine(bundle, "cuda", options.device, cuda_graphs=True)
    except (BundleError, OSError) as error:
        if reason is not None:
            print(f"No GPU to measure: {reason}.")
            return NO_GPU
        return model_missing(error)
    random = np.random.default_rng(0)
    rates: dict[str, dict[int, float]] = {name: {} for name in engines}
    print(f"{'batch':>5} {'provider':>8} {'p50 ms':>9} {'p99 ms':>9} {'images/s':>12}")
    for size in SIZES:
        images = random.integers(0, 256, (size, 28, 28), dtype=np.uint8)
        for name, engine in engines.items():
            times = timed(engine, images, options.seconds)
            rates[name][size] = size * len(times) / float(times.sum())
            p50, p99 = percentile(times, 0.5) * 1e3, percentile(times, 0.99) * 1e3
            print(f"{size:5} {name:>8} {p50:9.3f} {p99:9.3f} {rates[name][size]:12,.0f}", flush=True)
    if reason is not None:
        print(f"No GPU to compare with: {reason}.")
        return NO_GPU
    for name, title in (("cuda", "CUDA"), ("graphs", "CUDA with graphs and fixed buffers")):
        win = first_win(rates["cpu"], rates[name])
        print(
            f"{title} is never faster than one core of the CPU."
            if win is None
            else f"{title} is faster than one core of the CPU from batches of {win} on."
        )
    from bench.comparison.rounds import Cores
    from bench.gpu import service

    del engines, engine  # frees the GPU for the services
    wanted = service.cases(len(Cores.halves().server))
    return 0 if service.compare(wanted, options.model, options.service_seconds, options.device) else 1
