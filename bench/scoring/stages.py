"""CPU time of a scoring run over PNG files, by what it is spent on.

    python -m bench scoring-stages --model models/mnist

A folder of MNIST's images, repeated, is scored stage by stage in this process, and once by a whole run. Of the run the
CPU time of all its processes is measured, with a few files too: what those take is fixed, whatever the number of
files. Printed are microseconds an image (median over the rounds), and the fixed part in milliseconds. The first three
stages are what cannot be done without; the run's rate is at most that of all cores at their sum.
"""

import os
import resource
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.scoring.throughput import Material, _ours, write_png
from bench.support.options import bench_parser
from bundle.images import decoding
from bundle.repository import Bundle, resolve
from common.atomic_files import sha256_bytes
from serving.model.engine import choose_precision, open_engine
from serving.scoring.backends.local import LocalBackend
from serving.scoring.inputs.decoding import decode_files
from serving.scoring.inputs.sources import open_inputs
from serving.scoring.output.formats import Layout
from serving.scoring.pipeline import decode_slices
from serving.scoring.plan import Plan
from serving.scoring.records import Chunk, concatenate, predictions_of
from serving.scoring.reporting.part_statistics import open_statistics
from serving.scoring.settings import ScoreSettings

FEW = 10
NEEDED = ("read", "decode", "infer")


class Stages:
    """Adds up the CPU time of stages, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time of a block."""
        started = time.process_time()
        yield
        self.seconds[name] += time.process_time() - started


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code."""
    parser = bench_parser("scoring-stages", __doc__, model=True)
    parser.add_argument(
        "--mnist", type=Path, default=Path("data/mnist"), help="directory of MNIST's raw files"
    )
    parser.add_argument("--files", type=int, default=70_000, help="number of PNG files, MNIST repeated")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    bundle = resolve(options.model)
    digits = np.fromfile(options.mnist / "train-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 28, 28)
    stages: dict[str, list[float]] = defaultdict(list)
    runs: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as place:
        few, many = Path(place) / "few", Path(place) / "many"
        write_png(np.resize(digits, (FEW, 28, 28)), few)
        write_png(np.resize(digits, (options.files, 28, 28)), many)
        for number in range(options.rounds + 1):
            found = _stages(bundle, many) | {"": 0.0}
            took = {"few": _cpu_of_run(bundle, few), "many": _cpu_of_run(bundle, many)}
            if number:  # the first round warms up
                for name, seconds in found.items():
                    stages[name].append(seconds)
                for name, seconds in took.items():
                    runs[name].append(seconds)
    _tell(
        {name: statistics.median(found) / options.files * 1e6 for name, found in stages.items() if name},
        {name: statistics.median(found) for name, found in runs.items()},
        options.files,
    )
    return 0


def _cpu_of_run(bundle: Bundle, folder: Path) -> float:
    """Return the CPU seconds of all processes of a run, those of this one included."""
    before = _cpu()
    _ours(Material(bundle=bundle, images=np.empty((0, 28, 28), np.uint8), directory=folder, files=()), "png")
    return _cpu() - before


def _cpu() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def _stages(bundle: Bundle, folder: Path) -> dict[str, float]:
    """Score a folder in this process, and return the CPU seconds of each stage."""
    stage = Stages()
    settings = ScoreSettings(
        input=(str(folder / "png"),),
        output=folder / "scores",
        model=bundle.path.parent,
        version=bundle.version,
        provider="cpu",
    )
    backend = LocalBackend(open_engine(bundle, "cpu", 0, choose_precision("auto", bundle, "cpu")))
    with stage("list: names, stat, hash"):
        sources = open_inputs(settings.input, settings.options())
    statistics_of = open_statistics(settings, backend, sources)
    plan = Plan(sources, settings.part_rows)
    layout = Layout(
        format="parquet",
        classes=tuple(backend.classes),
        digest=backend.digest,
        top=None,
        columns=plan.columns(),
        csv_safe=True,
    )
    for part in range(plan.parts):
        chunks: list[Chunk] = []
        probabilities: list[Any] = []
        for slices in plan.slices(part, backend.batch):
            work: list[Any] = [one.work for one in slices]
            with stage("read"):
                files = [file for one in work for file in one.read()]
            with stage("decode"):
                decoding.decode_all(files, None, backend.polarity)
            with stage("decode and warn"):
                decode_files(files, backend.polarity)
            with stage("all of reading"):
                chunk = decode_slices(slices, backend.polarity, None)
            chunks.append(chunk)
            with stage("infer"):
                starts = range(0, len(chunk), backend.batch)
                probabilities += [backend.score(chunk.images[at : at + backend.batch]) for at in starts]
        with stage("collect a part"):
            whole = concatenate(chunks)
            found = predictions_of(np.concatenate(probabilities), backend.classes)
        with stage("statistics"):
            statistics_of.compute(whole, found)
        with stage("encode Parquet"):
            content = layout.encode(whole, found)
        with stage("hash"):
            sha256_bytes(content)
    seconds = stage.seconds
    warned, read = seconds.pop("decode and warn"), seconds.pop("all of reading")
    seconds["warn"] = warned - seconds["decode"]
    seconds["names and chunks"] = read - seconds["read"] - warned
    return dict(seconds)


def _tell(stages: dict[str, float], runs: dict[str, float], files: int) -> None:
    marginal = (runs["many"] - runs["few"]) / (files - FEW) * 1e6
    for name in sorted(stages, key=lambda name: (name not in NEEDED, -stages[name])):
        print(f"{name:40} {stages[name]:8.2f} us an image")
    print(f"{'between processes and threads':40} {marginal - sum(stages.values()):8.2f} us an image")
    needed = sum(stages[name] for name in NEEDED)
    print(
        f"{'a run, each further image':40} {marginal:8.2f} us an image; {needed / marginal:.2f} of it is needed"
    )
    print(f"{'a run, whatever the number of files':40} {runs['few'] * 1e3:8.0f} ms")
    whole = runs["many"] / files * 1e6
    print(f"{f'a run of {files:,} files':40} {whole:8.2f} us an image; {needed / whole:.2f} of it is needed")
    print(f"{os.cpu_count()} CPUs; CPU time, user and system, of all processes of the run")
