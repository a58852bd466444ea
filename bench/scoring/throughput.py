"""Throughput of the batch scorer, against its components and against alternatives.

    python -m bench scoring --model models/mnist              throughput, all contenders in turn, round by round
    python -m bench scoring --model models/mnist --png --files 280000   PNG files alone, beside their bound
    python -m bench scoring --model models/mnist --memory 10000000      memory of a run over that many images
    python -m bench scoring --model models/mnist --memory 1000000 --zip     the same with PNG files in a zip

Arrays (MNIST repeated, as IDX and .npy): a whole run, from listing to `_SUCCESS`, against loops of `session.run` over
an array in memory without output, with the run's session and, if different, the float32 one. PNG files: a whole run
against reading and decoding alone on all cores. On a CPU, inference needs the same cores, so the bound from decoding
plus inference is printed too. Both: the usual script, a torchvision dataset with DataLoader and an eager model; and Ray
Data on this machine, if installed. Figures are medians over the rounds, in images/s.
"""

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from bench.scoring.memory import measure, write_idx
from bench.support.options import bench_parser
from bundle.images import decoding as decoder
from bundle.manifest import INTEGER_ONNX_FILE, ONNX_FILE
from bundle.repository import Bundle, resolve
from imagesets.formats.files.listing import read_file
from serving.model.engine import BUCKETS, Precision, choose_precision, open_engine
from serving.scoring import run as job
from serving.scoring.reporting.console import ConsoleObserver
from serving.scoring.reporting.progress import ProgressMeter
from serving.scoring.settings import ScoreSettings
from serving.system.cpus import usable_cpus

BATCH = BUCKETS[-1]
SMALL, MEDIUM = 10_000, 250_000
"""Images of a round for the DataLoader and for Ray Data; only rates are compared."""
BOUND = "PNG / decoding and session.run, both on these cores"
DECODING, EACH = "read and decode PNG only, all cores", ", on each core"
RAW_SHARE, DECODE_SHARE, LOADER_TIMES = 0.90, 0.85, 5.0

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """The inputs of all contenders."""

    bundle: Bundle
    images: Images
    directory: Path
    files: Sequence[bytes]


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code: 1 if a target is missed."""
    parser = bench_parser("scoring", __doc__, model=True)
    parser.add_argument(
        "--mnist", type=Path, default=Path("data/mnist"), help="directory of MNIST's raw files"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=1_000_000, help="images in the arrays")
    parser.add_argument("--files", type=int, default=70_000, help="number of PNG files, MNIST repeated")
    parser.add_argument("--without-ray", action="store_true", help="omit Ray Data")
    parser.add_argument(
        "--png", action="store_true", help="only PNG files, beside their bound on these cores"
    )
    parser.add_argument(
        "--memory", type=int, metavar="N", help="measure only the memory of a run over N images"
    )
    parser.add_argument("--zip", action="store_true", help="with --memory: PNG files in a zip, not IDX")
    options = parser.parse_args(arguments)
    bundle = resolve(options.model)
    digits = np.concatenate(
        [
            np.fromfile(options.mnist / f"{part}-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 28, 28)
            for part in ("t10k", "train")
        ]
    )
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        if options.memory:
            return measure(options.model, digits, options.memory, directory, zipped=options.zip)
        images = np.resize(digits, (options.images, 28, 28))
        files = write_material(images, np.resize(digits, (options.files, 28, 28)), directory)
        material = Material(bundle=bundle, images=images, directory=directory, files=files)
        with contextlib.ExitStack() as stack:
            named = _contenders(material, stack, without_ray=options.without_ray or options.png)
            if options.png:
                named = (one for one in named if one[0] in (DECODING, "glyph, PNG") or one[0].endswith(EACH))
            contenders = dict(named)
            rates: dict[str, list[float]] = {name: [] for name in contenders}
            for number in range(options.rounds + 1):
                for name, run in contenders.items():
                    started = time.perf_counter()
                    count = run()
                    if number:  # the first round warms up
                        rates[name].append(count / (time.perf_counter() - started))
        return _tell({name: statistics.median(found) for name, found in rates.items()}, rates, options)


def write_material(images: Images, pictures: Images, directory: Path) -> list[bytes]:
    """Write an IDX file, a .npy file and a folder of PNG files; return the PNG paths."""
    write_idx(directory / "images-idx3-ubyte", images, len(images))
    np.save(directory / "images.npy", images)
    return write_png(pictures, directory)


def write_png(pictures: Images, directory: Path) -> list[bytes]:
    """Write a folder of PNG files and return their paths."""
    from PIL import Image

    (directory / "png" / "all").mkdir(parents=True)
    files = []
    for place, pixels in enumerate(pictures):
        path = directory / "png" / "all" / f"{place:06d}.png"
        Image.fromarray(pixels).save(path)
        files.append(bytes(path))
    return files


def _contenders(
    material: Material, stack: contextlib.ExitStack, *, without_ray: bool
) -> Iterator[tuple[str, Callable[[], int]]]:
    ours = choose_precision("auto", material.bundle, "cpu")
    computed: dict[Precision, str] = {"float32": ONNX_FILE}
    if ours != "float32":
        computed["integer"] = INTEGER_ONNX_FILE
    for arithmetic, graph in computed.items():
        single = open_engine(material.bundle, "cpu", 0, arithmetic).session
        usual = onnxruntime.InferenceSession(material.bundle.read(graph), providers=["CPUExecutionProvider"])
        yield f"session.run loop, {arithmetic}, one thread", partial(_raw, single, material.images, 1)
        yield f"session.run loop, {arithmetic}, its own threads", partial(_raw, usual, material.images, 1)
        cores = usable_cpus()
        yield f"session.run loops, {arithmetic}{EACH}", partial(_raw, single, material.images, cores)
    yield "glyph, IDX", partial(_ours, material, "images-idx3-ubyte")
    yield "glyph, .npy", partial(_ours, material, "images.npy")
    processes = stack.enter_context(ProcessPoolExecutor(usable_cpus(), get_context("spawn")))
    yield DECODING, partial(_decode_only, processes, _decode_files, material.files)
    yield (
        "the same by Pillow's Image.open, all cores",
        partial(_decode_only, processes, _decode_by_pillow, material.files),
    )
    yield "glyph, PNG", partial(_ours, material, "png")
    model = _eager(material.bundle)
    yield "DataLoader + eager, IDX", partial(_loader, model, material, 0, png=False)
    yield "DataLoader + eager, PNG", partial(_loader, model, material, 0, png=True)
    yield (
        "DataLoader + eager, PNG, a worker for each core",
        partial(_loader, model, material, usable_cpus(), png=True),
    )
    if not without_ray and (ray := _ray(material, stack)):
        yield "Ray Data + session.run, arrays", ray


def _raw(session: Any, images: Images, threads: int) -> int:
    """Run all images in batches; nothing is read, checked, or written."""

    def loop(start: int) -> None:
        for at in range(start, len(images), BATCH * threads):
            session.run(["probabilities"], {"images": images[at : at + BATCH]})

    if threads == 1:
        loop(0)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(loop, range(0, BATCH * threads, BATCH)))
    return len(images)


def _ours(material: Material, name: str) -> int:
    """Run `serving.score` in this process, including the summary."""
    with tempfile.TemporaryDirectory(dir=material.directory) as output:
        settings = ScoreSettings(
            input=(str(material.directory / name),),
            output=Path(output) / "scores",
            model=material.bundle.path.parent,
            version=material.bundle.version,
            provider="cpu",
            quiet=True,
        )
        watch = ConsoleObserver(settings, meter=ProgressMeter(), show=lambda _: None)
        outcome = job.run(settings, watch, environment={})
        watch.on_end(outcome)
        return outcome.manifest.rows


def _decode_files(files: Sequence[bytes]) -> int:
    """Read and decode with the scorer's own functions."""
    contents = [content for path in files if isinstance(content := read_file(path), bytes)]
    decoder.decode_all(contents)
    return len(contents)


def _decode_by_pillow(files: Sequence[bytes]) -> int:
    """Read and decode with Pillow's `Image.open`."""
    from PIL import Image

    for path in files:
        with Image.open(os.fsdecode(path)) as image:
            np.asarray(image.convert("L"))
    return len(files)


def _decode_only(
    processes: ProcessPoolExecutor, decode: Callable[[Sequence[bytes]], int], files: Sequence[bytes]
) -> int:
    return sum(processes.map(decode, [files[at : at + 1024] for at in range(0, len(files), 1024)]))


def _eager(bundle: Bundle) -> Callable[[Any], Any]:
    """Return the published network in eager PyTorch."""
    import torch

    from training.model.teacher import layers_from_onnx

    layers = layers_from_onnx(bundle.read(ONNX_FILE), len(bundle.manifest.classes))

    def run(batch: Any) -> Any:
        with torch.inference_mode():
            logits = layers(batch.flatten(1).float())
            return logits, torch.softmax(logits / bundle.manifest.temperature, dim=1)

    return run


def _loader(model: Callable[[Any], Any], material: Material, workers: int, *, png: bool) -> int:
    """Score with the usual script: dataset, transforms, DataLoader, eager model, CSV file."""
    import csv

    import torch
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    if png:
        steps = [transforms.Grayscale(), transforms.PILToTensor()]
        dataset: Any = ImageFolder(str(material.directory / "png"), transforms.Compose(steps))
    else:
        dataset = _Array(
            material.images, transforms.Compose([transforms.ToPILImage(), transforms.PILToTensor()])
        )
    count = 0
    with (material.directory / "scores.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        subset = torch.utils.data.Subset(dataset, range(min(SMALL, len(dataset))))
        for batch, _ in DataLoader(subset, batch_size=BATCH, num_workers=workers):
            _, probabilities = model(batch.squeeze(1))
            best, index = probabilities.max(dim=1)
            writer.writerows(
                [count + place, int(label), float(value), *row]
                for place, (label, value, row) in enumerate(
                    zip(index, best, probabilities.tolist(), strict=True)
                )
            )
            count += len(batch)
    return count


class _Array:
    """The equivalent of `torchvision.datasets.MNIST`: an array, and a transform of each image."""

    def __init__(self, images: Images, transform: Callable[[Any], Any]) -> None:
        self._images, self._transform = images, transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self._transform(self._images[index]), 0


def _ray(material: Material, stack: contextlib.ExitStack) -> Callable[[], int] | None:
    """Return a Ray Data run after its batch inference guide; None if Ray is not installed."""
    try:
        import ray
        import ray.data
    except ImportError:
        return None
    import logging

    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, address="local")
    stack.callback(ray.shutdown)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    graph, images = material.bundle.read(ONNX_FILE), material.images[:MEDIUM]

    class Predictor:
        def __init__(self) -> None:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            found = self._session.run(["probabilities"], {"images": batch["data"]})[0]
            return {"index": found.argmax(axis=1), "probabilities": found}

    def run() -> int:
        with tempfile.TemporaryDirectory(dir=material.directory) as output:
            data = ray.data.from_numpy(np.array_split(images, 4 * usable_cpus()))
            scored = data.map_batches(
                Predictor,
                batch_size=BATCH,
                compute=ray.data.ActorPoolStrategy(size=usable_cpus()),
                num_cpus=0.5,
            )
            scored.write_parquet(output)
        return len(images)

    return run


def _tell(found: dict[str, float], rates: dict[str, list[float]], options: argparse.Namespace) -> int:
    """Print the medians and their ratios; return 1 if a target is missed."""
    print(
        f"{usable_cpus()} cores, {options.images:,} images, {options.files:,} files, {options.rounds} rounds; images/s"
    )
    for name, rate in found.items():
        print(f"{name:48} {rate:12,.0f}   ({min(rates[name]):,.0f} to {max(rates[name]):,.0f})")
    ours = "integer" if any("integer" in name for name in found) else "float32"
    ceiling, decoding = found[f"session.run loops, {ours}{EACH}"], found[DECODING]
    bound = found["glyph, PNG"] * (1 / decoding + 1 / ceiling)
    if options.png:
        print(f"{BOUND:56} {bound:8.2f}")
        return 0
    raw = max(found[f"session.run loop, {ours}, {how}"] for how in ("one thread", "its own threads"))
    plain = max(found[f"session.run loop, float32, {how}"] for how in ("one thread", "its own threads"))
    missed = 0
    for what, value, target in (
        (f"IDX / the faster session.run loop, {ours}", found["glyph, IDX"] / raw, RAW_SHARE),
        (f".npy / the faster session.run loop, {ours}", found["glyph, .npy"] / raw, RAW_SHARE),
        ("IDX / the faster session.run loop, float32", found["glyph, IDX"] / plain, None),
        (f"IDX / session.run loops on every core, {ours}", found["glyph, IDX"] / ceiling, None),
        ("PNG / decoding only", found["glyph, PNG"] / decoding, DECODE_SHARE),
        (
            "PNG / decoding only, by Pillow's Image.open",
            found["glyph, PNG"] / found["the same by Pillow's Image.open, all cores"],
            None,
        ),
        (BOUND, bound, None),
        ("IDX / DataLoader + eager", found["glyph, IDX"] / found["DataLoader + eager, IDX"], LOADER_TIMES),
        ("PNG / DataLoader + eager", found["glyph, PNG"] / found["DataLoader + eager, PNG"], LOADER_TIMES),
        (
            "PNG / DataLoader + eager, a worker for each core",
            found["glyph, PNG"] / found["DataLoader + eager, PNG, a worker for each core"],
            None,
        ),
        (
            "IDX / Ray Data",
            found["glyph, IDX"] / found.get("Ray Data + session.run, arrays", float("nan")),
            None,
        ),
    ):
        if np.isnan(value):
            print(f"{what:56} not measured: --without-ray, or pip install 'glyph[ray]'")
            continue
        verdict = (
            "" if target is None else f"   (at least {target:g}: {'yes' if value >= target else 'MISSED'})"
        )
        missed += target is not None and value < target
        print(f"{what:56} {value:8.2f}{verdict}")
    return int(missed > 0)
