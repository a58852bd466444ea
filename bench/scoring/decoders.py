"""The batch scorer's decoder pool beside `concurrent.futures.ProcessPoolExecutor`, in whole runs over PNG files.

    python -m bench decoders --model models/mnist

Every run is a process `python -m serving.score` over a folder of MNIST's first 20,000 images, and over the same files
in a zip; the two pools take turns. The standard pool uses `forkserver`, which imports the decoder once and forks, as
the scorer's pool does. Printed is the median over the rounds of the ratio of seconds, ours / standard: below 1 the
scorer's pool is faster.
"""

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from bench.support.options import bench_parser
from bundle.images.contract import Polarity, Resize
from imagesets.source import Reader
from serving import score
from serving.scoring.inputs.decoding import Files, decode_files
from serving.scoring.records import Decoded


class StandardDecoders:
    """The interface of `DecoderPool` on the standard library's pool."""

    def __init__(self, count: int, server: object) -> None:
        del server  # the scorer's own fork server
        self.count = count
        self.started = False
        context = get_context("forkserver")
        context.set_forkserver_preload(["serving.score", "serving.scoring.inputs.decoding"])
        self._pool = ProcessPoolExecutor(count, context)

    def start(self) -> None:
        """Start the processes by submitting a task to each."""
        for _ in range(0 if self.started else self.count):
            self._pool.submit(int)
        self.started = True

    def stat_files(self, *_: object) -> None:
        """Leave the listing to the scorer's own process."""

    def decode(self, work: Reader | Files, polarity: Polarity, resize: Resize | None = None) -> Decoded:
        """Read and decode files in a process of the pool."""
        return self._pool.submit(_decode, work, polarity, resize).result()

    def close(self) -> None:
        """Stop the processes."""
        self._pool.shutdown()


def _decode(work: Any, polarity: Polarity, resize: Resize | None) -> Decoded:
    return decode_files(work if isinstance(work, list) else work.read(), polarity, resize)


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code."""
    from PIL import Image

    parser = bench_parser("decoders", __doc__, model=True)
    parser.add_argument(
        "--mnist", type=Path, default=Path("data/mnist"), help="directory of MNIST's raw files"
    )
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args(arguments)
    digits = np.fromfile(options.mnist / "train-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 28, 28)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "png"
        folder.mkdir()
        for number, pixels in enumerate(digits[: options.files]):
            Image.fromarray(pixels).save(folder / f"{number:06d}.png")
        archive = Path(shutil.make_archive(str(folder), "zip", folder))
        for given in (folder, archive):
            ratios = []
            for number in range(options.rounds + 1):
                took = {
                    kind: _run(kind, given, options.model)
                    for kind in ("ours", "standard")[:: 1 - 2 * (number % 2)]
                }
                if number:  # the first round warms up
                    ratios.append(took["ours"] / took["standard"])
            print(
                f"{given.name:8} ours / standard {statistics.median(ratios):.2f}   "
                f"({min(ratios):.2f} to {max(ratios):.2f})",
                flush=True,
            )
    return 0


def _run(kind: str, given: Path, model: Path) -> float:
    """Score the input once and return the seconds of the process."""
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "bench.scoring.decoders", kind, "--quiet", "--provider", "cpu"]
        started = time.perf_counter()
        subprocess.run(
            [*command, "--input", str(given), "--output", f"{output}/scores", "--model", str(model)],
            check=True,
        )
        return time.perf_counter() - started


if __name__ == "__main__":  # the pool's processes import this module too
    from serving.scoring import run

    if sys.argv[1] == "standard":
        vars(run)["DecoderPool"] = StandardDecoders
    sys.exit(score.main(sys.argv[2:]))
