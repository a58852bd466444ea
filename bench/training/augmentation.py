"""Augmented images per second: Glyph's batched augmentation against torchvision's pipelines.

All apply rotation and shear up to 15 degrees, scaling up to 15%, and elastic deformation with sigma 5.5 and alpha 36
(Cireşan 2010), bilinear, from images in memory to a float batch on the device. torchvision has two pipelines:
transforms of single PIL images in a Dataset behind a DataLoader; and v2 transforms of a tensor batch, which draw once
per batch, so that all its images are deformed alike.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import v2

from bench.support.options import bench_parser
from common.progress import Progress
from training.augmentation.augmenter import Augmenter
from training.data.dataset import Images
from training.data.loading import load_mnist
from training.errors import DeviceError
from training.settings import AugmentationSettings

LIMITS = AugmentationSettings(
    rotation=15, shear=15, scaling=0.15, elastic_alpha=36, elastic_sigma=5.5, gentle_classes=(1, 7)
)
PIL_IMAGES = 512
"""Images per round of the slowest contender, and in its Dataset."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """An augmentation pipeline."""

    name: str
    images: int
    """Images per round."""
    round: Callable[[], None]
    """Augments one round of images, leaving no work in flight."""


class PILDataset(Dataset[tuple[torch.Tensor, int]]):
    """MNIST as in torchvision's tutorials: PIL images, transformed on access."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self.transform = transforms.Compose(
            [
                transforms.RandomAffine(
                    15, scale=(0.85, 1.15), shear=15, interpolation=transforms.InterpolationMode.BILINEAR
                ),
                transforms.ElasticTransform(alpha=36.0, sigma=5.5),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Return one augmented image and its label."""
        image = Image.fromarray(self.images.images[index])
        return self.transform(image), int(self.images.labels[index])


def main(arguments: Sequence[str]) -> int:
    """Measure, print, and return 0."""
    parser = bench_parser("augmentation", __doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="device of the augmentation")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads and workers")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of all contenders")
    parser.add_argument("--data", type=Path, default=Path("data/mnist"), help="directory of MNIST's files")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("error: --device cuda: torch finds no CUDA device", file=sys.stderr)
        return DeviceError.exit_code
    device = torch.device(options.device)
    images = load_mnist(options.data, Progress(quiet=True)).training
    contenders = [
        glyph(images, device, 1024),
        glyph(images, device, 128),
        torchvision_batches(images, device, 1024),
        torchvision_batches(images, device, 128),
        torchvision_pil(images, device, options.threads),
    ]
    rates = measure(contenders, options.rounds)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    print(f"affine + elastic, 28x28; {options.threads} threads; {name}; median of {options.rounds} rounds")
    print(f"{'':58} {'images/s':>11} {'(least to most)':>24} {'Glyph is':>10}")
    for contender, own in zip(contenders, rates, strict=True):
        ratio = statistics.median(a / b for a, b in zip(rates[0], own, strict=True))
        print(
            f"{contender.name:58} {statistics.median(own):11,.0f} "
            f"{f'({min(own):,.0f} to {max(own):,.0f})':>24} {ratio:9,.1f}x"
        )
    return 0


def measure(contenders: Sequence[Contender], rounds: int) -> list[list[float]]:
    """Return the images/s of each contender in each round, after a warm-up round."""
    rates: list[list[float]] = [[] for _ in contenders]
    for number in range(rounds + 1):
        for contender, own in zip(contenders, rates, strict=True):
            started = time.perf_counter()
            contender.round()
            seconds = time.perf_counter() - started
            if number > 0:
                own.append(contender.images / seconds)
    return rates


def glyph(images: Images, device: torch.device, batch_size: int) -> Contender:
    """Augment shuffled batches of resident images, as the training loop does."""
    resident = images.to(device)
    augment = Augmenter(LIMITS, classes=10, seed=0, device=device)
    order = torch.randperm(len(images), device=device)[: 16 * 1024]

    def round_() -> None:
        for batch in torch.split(order, batch_size):
            augment(resident.images[batch], resident.labels[batch], batch, 1)
        _finish(device)

    return Contender(name=f"Glyph, batches of {batch_size}", images=len(order), round=round_)


def torchvision_batches(images: Images, device: torch.device, batch_size: int) -> Contender:
    """Transform shuffled tensor batches with v2: one draw per batch."""
    resident = images.to(device)
    transform = v2.Compose(
        [
            v2.RandomAffine(15, scale=(0.85, 1.15), shear=15, interpolation=v2.InterpolationMode.BILINEAR),
            v2.ElasticTransform(alpha=36.0, sigma=5.5),
        ]
    )
    order = torch.randperm(len(images), device=device)[: 4 * 1024]

    def round_() -> None:
        for batch in torch.split(order, batch_size):
            transform(resident.images[batch][:, None].float())
        _finish(device)

    name = f"torchvision v2, batches of {batch_size}, each deformed as one"
    return Contender(name=name, images=len(order), round=round_)


def torchvision_pil(images: Images, device: torch.device, workers: int) -> Contender:
    """Transform PIL images in a Dataset behind a DataLoader with persistent workers."""
    dataset = PILDataset(Images(images=images.images[:PIL_IMAGES], labels=images.labels[:PIL_IMAGES]))
    loader = DataLoader(
        dataset, batch_size=64, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )

    def round_() -> None:
        for batch, labels in loader:
            batch.to(device), labels.to(device)
        _finish(device)

    return Contender(
        name=f"torchvision PIL, Dataset + DataLoader, {workers} workers",
        images=len(dataset),
        round=round_,
    )


def _finish(device: torch.device) -> None:
    """Synchronize with the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _cpu_name() -> str:
    """Return the CPU's name from /proc/cpuinfo."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return "CPU"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")
