"""The data set: arrays from disk, a stratified split made by seed, tensors that live on the device."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from bundle import drift
from bundle.manifest import BLACK_ON_WHITE, IMAGE_SIZE, WHITE_ON_BLACK, Polarity
from bundle.progress import Progress
from training.data.formats.idx import read_idx
from training.data.mnist_download import MNIST_SHA256, fetch_mnist
from training.errors import DataError

VALIDATION_SHARE = 12
"""One image in so many is held out for validation where no number is given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """Images and the index of each one's class, in memory."""

    images: npt.NDArray[np.uint8]
    """`uint8[n, 28, 28]`."""
    labels: npt.NDArray[np.int64]
    """`int64[n]`."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def take(self, indices: npt.NDArray[np.int64]) -> "Images":
        """Return the images at `indices`, in that order."""
        return Images(images=self.images[indices], labels=self.labels[indices])

    def to(self, device: torch.device) -> "Resident":
        """Copy the images to the device, where they stay as uint8."""
        return Resident(
            images=torch.from_numpy(self.images).to(device),
            labels=torch.from_numpy(self.labels).to(device),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Resident:
    """The same, as tensors on the device: `uint8[n, 28, 28]` and `int64[n]`."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def take(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the images and labels at `indices`, `int64[n]`."""
        return self.images.index_select(0, indices), self.labels.index_select(0, indices)


class DataSet:
    """Images with known classes: a part to train on, and a test set that can be read once."""

    def __init__(
        self,
        *,
        name: str,
        classes: tuple[str, ...],
        sha256: Mapping[str, str],
        training: Images,
        read_test: Callable[[], Images],
        is_handwriting: bool = False,
    ) -> None:
        self.name = name
        self.classes = classes
        self.sha256 = dict(sha256)
        self.training = training
        self.is_handwriting = is_handwriting
        self._read_test: Callable[[], Images] | None = read_test

    def test(self) -> Images:
        """Read the test set. A second call is a programming error: the first one was the end."""
        if self._read_test is None:
            raise RuntimeError("the test set was read already; it is read once, after all choices are made")
        read, self._read_test = self._read_test, None
        return read()


def load_mnist(directory: Path, progress: Progress) -> DataSet:
    """Return MNIST, fetched if `directory` lacks it.

    Raises:
        DataError: it can be had from nowhere.
    """
    paths = fetch_mnist(directory, progress)

    def part(prefix: str) -> Images:
        return read_pair(paths[f"{prefix}-images-idx3-ubyte"], paths[f"{prefix}-labels-idx1-ubyte"], 10)

    return DataSet(
        name="mnist",
        classes=tuple("0123456789"),
        sha256=MNIST_SHA256,
        training=part("train"),
        read_test=lambda: part("t10k"),
        is_handwriting=True,
    )


def read_pair(images_path: Path, labels_path: Path, classes: int) -> Images:
    """Read an IDX file of images and the one of its labels, and check them against each other.

    Raises:
        DataError: a file is not what it should be, the counts differ, an image is not 28x28, or a
            label is not below `classes`.
    """
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise DataError(f"{images_path} has {len(images)} images and {labels_path} {len(labels)} labels")
    if images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE):
        raise DataError(f"{images_path} has images of {images.shape[1]}x{images.shape[2]}; 28x28 is needed")
    if labels.max(initial=0) >= classes:
        raise DataError(f"{labels_path} has label {labels.max()}; there are {classes} classes")
    return Images(images=images, labels=labels.astype(np.int64))


def split(images: Images, validation: int | None, seed: int) -> tuple[Images, Images]:
    """Split into a training and a validation part that keep the classes' proportions.

    None holds out one image in twelve, which of MNIST is 5,000.

    Each class gives its share of `validation`, rounded by largest remainder so that the shares sum
    to exactly that. Which images are held out depends on the seed alone.

    Raises:
        DataError: `validation` leaves nothing to train on, in all or of one class.
    """
    if validation is None:
        validation = len(images) // VALIDATION_SHARE
    if not 0 < validation < len(images):
        raise DataError(f"{validation} of {len(images)} images cannot be held out for validation")
    counts = np.bincount(images.labels)
    exact = counts * validation / len(images)
    shares = np.floor(exact).astype(np.int64)
    short = validation - int(shares.sum())
    shares[np.argsort(shares - exact, kind="stable")[:short]] += 1
    emptied = np.flatnonzero((shares == counts) & (counts > 0))
    if len(emptied):
        raise DataError(
            f"with {validation} of {len(images)} images held out for validation nothing is left to train on "
            f"of class {emptied[0]}, which has {counts[emptied[0]]}: lower --validation"
        )
    generator = np.random.default_rng(seed)
    held_out = np.zeros(len(images), dtype=bool)
    for label, share in enumerate(shares):
        members = np.flatnonzero(images.labels == label)
        held_out[generator.permutation(members)[:share]] = True
    return images.take(np.flatnonzero(~held_out)), images.take(np.flatnonzero(held_out))


def polarity(images: npt.NDArray[np.uint8]) -> Polarity:
    """Tell which end of 0..255 is ink: paper is what most borders show."""
    return WHITE_ON_BLACK if np.median(drift.border_brightness(images)) < 128 else BLACK_ON_WHITE
