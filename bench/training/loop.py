"""Throughput of the training loop, against the course's loop: torchvision's MNIST, ToTensor, DataLoader, same model.

    python -m bench training                        on the GPU if there is one, else the CPU
    python -m bench training --precision bfloat16 --hidden 1024,1024

Both loops train the same network with the same optimizer and batch size, in turns over several rounds in one process;
the result is the ratio of the medians. The course's loop uses float32, Glyph's uses `--precision`, by default the
faster one on the device. Also printed is the share of the device's peak that the loop reaches: 6 floating-point
operations per weight and image, relative to a large matrix product of the same type, measured in the same run.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from bench.support.options import bench_parser
from common.configuration import add_options, build, from_arguments
from common.progress import Progress
from imagesets.names.known_sets import MNIST_SHA256
from training.data.dataset import DeviceImages
from training.data.loading import load
from training.data.splits import split_data
from training.defaults import DEFAULT_PRESET, preset_layer
from training.errors import exit_code
from training.interrupts import StopFlag
from training.loop.device import choose_device
from training.loop.fit import Run, begin, make_step
from training.loop.precision import uses_bfloat16
from training.model.mlp import MLP
from training.settings import TrainingSettings

CEILING_SIZE = 4096
FLOPS_PER_WEIGHT = 6
"""A multiplication and an addition in the forward pass, and twice that in the backward pass."""


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code."""
    parser = bench_parser("training", __doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds, each of both loops")
    parser.add_argument("--images", type=int, default=12_800, help="images per round of the course's loop")
    preset = preset_layer(DEFAULT_PRESET)
    preset = replace(preset, values={**preset.values, "augmentation": "custom"})  # as in the course's loop
    add_options(parser, TrainingSettings, [preset])
    options = parser.parse_args(arguments)

    def measure() -> None:
        layers = [preset, from_arguments(TrainingSettings, options)]
        _compare(build(TrainingSettings, layers), options.rounds, options.images)

    return exit_code(measure)


def _compare(settings: TrainingSettings, rounds: int, images: int) -> None:
    device = choose_device(settings)
    with tempfile.TemporaryDirectory() as directory:
        ours, train = _our_loop(settings, device, Path(directory))
        theirs = _course_loop(settings, device, Path(directory), images)
        speeds: dict[str, list[float]] = {"course": [], "glyph": []}
        for number in range(rounds + 1):
            for name, loop in (("course", theirs), ("glyph", ours)):
                started = time.perf_counter()
                count = loop()
                _wait(device)
                if number:  # the first round warms up
                    speeds[name].append(count / (time.perf_counter() - started))
    course, glyph = (statistics.median(speeds[name]) for name in ("course", "glyph"))
    weights = sum(p.numel() for p in MLP(settings, 10).parameters())
    ceiling = _ceiling(settings, device)
    reached = FLOPS_PER_WEIGHT * weights * glyph
    kind = "bfloat16" if uses_bfloat16(settings, device) else "float32"
    named = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    print(
        f"{named}; {weights:,} weights, batches of {settings.batch_size}, {settings.optimizer}, {rounds} rounds"
    )
    print(f"course's loop   {course:12,.0f} images/s   ({_spread(speeds['course'])})")
    print(
        f"glyph           {glyph:12,.0f} images/s   ({_spread(speeds['glyph'])})   {len(train):,} images a round"
    )
    print(f"ratio           {glyph / course:12.1f}")
    print(
        f"{reached / 1e9:,.0f} GFLOP/s of the {ceiling / 1e9:,.0f} that a {kind} product of "
        f"{CEILING_SIZE}x{CEILING_SIZE} reaches here: {reached / ceiling:.0%}"
    )


def _our_loop(
    settings: TrainingSettings, device: torch.device, directory: Path
) -> tuple[Callable[[], int], DeviceImages]:
    """Return a function that trains for one epoch with Glyph's training step."""
    data = load(settings.data, mnist_directory=settings.data_dir, progress=Progress())
    train, validation = split_data(data, settings.validation, settings.seed)
    run = Run(
        settings=settings,
        train=train.to(device),
        validation=validation.to(device),
        classes=len(data.classes),
        data_sha256=data.sha256,
        directory=directory,
        progress=Progress(quiet=True),
        stop=StopFlag(),
    )
    state = begin(run)
    step = make_step(run, state)

    def epoch() -> int:
        order = torch.randperm(len(run.train)).to(device)
        for batch in torch.split(order, settings.batch_size):
            step(batch)
        return len(run.train)

    return epoch, run.train


def _course_loop(
    settings: TrainingSettings, device: torch.device, directory: Path, images: int
) -> Callable[[], int]:
    """Return a function that trains with the course's loop."""
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import MNIST

    raw = directory / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in MNIST_SHA256:
        (raw / name).symlink_to((settings.data_dir / name).resolve())
    dataset = MNIST(str(directory), train=True, transform=transforms.ToTensor())
    loader = DataLoader(dataset, batch_size=settings.batch_size, shuffle=True)
    model = nn.Sequential(
        *(nn.Dropout(layer.p) if isinstance(layer, nn.Dropout) else layer for layer in MLP(settings, 10))
    )
    model.to(device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    criterion = nn.CrossEntropyLoss()

    def part_of_an_epoch() -> int:
        count = 0
        for batch, targets in loader:
            pixels, labels = batch.to(device).flatten(1), targets.to(device)
            optimizer.zero_grad()
            criterion(model(pixels), labels).backward()
            optimizer.step()
            count += len(labels)
            if count >= images:
                break
        return count

    return part_of_an_epoch


def _ceiling(settings: TrainingSettings, device: torch.device) -> float:
    """Return the FLOP/s of a large matrix product, best of seven."""
    dtype = torch.bfloat16 if uses_bfloat16(settings, device) else torch.float32
    a = torch.randn(CEILING_SIZE, CEILING_SIZE, device=device, dtype=dtype)
    times = []
    for _ in range(7):
        _wait(device)
        started = time.perf_counter()
        a @ a
        _wait(device)
        times.append(time.perf_counter() - started)
    return 2 * CEILING_SIZE**3 / min(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _spread(speeds: list[float]) -> str:
    return f"{min(speeds):,.0f} to {max(speeds):,.0f}"
