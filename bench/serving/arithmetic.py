"""Inference time per image by batch size, in float32 and with the first layer in integers of 8 bits.

    python -m bench arithmetic --model models/mnist

Both use the service's engine on one thread, interleaved; figures are medians. A warm call follows another call;
before a cold call the core's cache is filled with other data, as the service's own work does between two batches. A
ratio above 1 is in favour of integers. The last line is what a batch changes in an answer: the largest difference of a
logit between each image alone and in batches of 64.
"""

import statistics
import time
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bench.support.options import bench_parser, model_missing
from bundle.errors import BundleError
from bundle.repository import resolve

if TYPE_CHECKING:
    from serving.model.engine import Engine

WARM_CALLS = 10
COLD_CALLS = 3
CACHE_BYTES = 8 << 20
"""More than a core's private caches."""
LINE_BYTES = 64
BATCH = 64


def seconds(engine: "Engine", images: npt.NDArray[np.uint8], fill: npt.NDArray[np.uint8] | None) -> float:
    """Return the time of one call, after writing through `fill` to evict the cache, if given."""
    if fill is not None:
        fill[::LINE_BYTES] += 1
    started = time.perf_counter()
    engine.infer(images)
    return time.perf_counter() - started


def measured(
    engines: dict[str, "Engine"], images: npt.NDArray[np.uint8], rounds: int
) -> dict[tuple[str, str], float]:
    """Return the median time of a call by engine name and `warm` or `cold`."""
    fill = np.zeros(CACHE_BYTES, np.uint8)
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name, engine in engines.items():
            engine.infer(images)
            times[name, "warm"] += [seconds(engine, images, None) for _ in range(WARM_CALLS)]
            times[name, "cold"] += [seconds(engine, images, fill) for _ in range(COLD_CALLS)]
    return {key: statistics.median(found) for key, found in times.items()}


def difference(engine: "Engine", images: npt.NDArray[np.uint8]) -> float:
    """Return the largest difference of a logit alone and in a batch, in units of the image's largest, at least 1."""
    alone = np.concatenate([engine.infer(image[None]).logits for image in images])
    starts = range(0, len(images), BATCH)
    together = np.concatenate([engine.infer(images[start : start + BATCH]).logits for start in starts])
    largest = np.maximum(1, np.abs(together).max(axis=1, keepdims=True))
    return float((np.abs(alone - together) / largest).max())


def main(arguments: list[str]) -> int:
    """Print the table and return the exit code."""
    from bundle.golden import GoldenExamples
    from bundle.manifest import GOLDEN_FILE
    from serving.model.engine import BUCKETS, choose_precision, open_engine

    parser = bench_parser("arithmetic", __doc__, model=True)
    parser.add_argument("--rounds", type=int, default=20, help="rounds per batch size")
    options = parser.parse_args(arguments)
    try:
        bundle = resolve(options.model)
        engines = {
            policy: open_engine(bundle, "cpu", 0, choose_precision(policy, bundle, "cpu"))
            for policy in ("float32", "integer")
        }
    except (BundleError, OSError) as error:
        return model_missing(error)
    print(f"GLYPH_ARITHMETIC=auto is {choose_precision('auto', bundle, 'cpu')} here.")
    print("Microseconds for each image, and float32's by integers':")
    print(f"{'':7}{'warm':>9}{'':16}{'':3}{'cold':>9}")
    head = "".join(f"{name:>9}" for name in ("float32", "integer", "ratio"))
    print(f"{'batch':>7}{head}   {head}")
    random = np.random.default_rng(0)
    for size in BUCKETS:
        found = measured(engines, random.integers(0, 256, (size, 28, 28), dtype=np.uint8), options.rounds)
        row = f"{size:7}"
        for state in ("warm", "cold"):
            floats, integers = (found[name, state] / size * 1e6 for name in ("float32", "integer"))
            row += f"{floats:9.2f}{integers:9.2f}{floats / integers:9.2f}   "
        print(row.rstrip(), flush=True)
    golden = GoldenExamples.from_bytes(bundle.read(GOLDEN_FILE), bundle.manifest).images
    images = np.resize(golden, (max(BUCKETS), 28, 28))
    shown = ", ".join(f"{name} {difference(engine, images):.1e}" for name, engine in engines.items())
    print(f"Largest difference of a logit, alone and in batches of {BATCH}, by the image's largest: {shown}")
    return 0
