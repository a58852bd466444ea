"""A data set: arrays in memory, tensors on a device, and a test set that can be read once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from bundle.images import brightness
from bundle.manifest import BLACK_ON_WHITE, WHITE_ON_BLACK, Polarity


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """Images and labels, in memory."""

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

    def to(self, device: torch.device) -> "DeviceImages":
        """Copy the images to the device, as uint8."""
        return DeviceImages(
            images=torch.from_numpy(self.images).to(device),
            labels=torch.from_numpy(self.labels).to(device),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceImages:
    """Images and labels as tensors on a device: `uint8[n, 28, 28]` and `int64[n]`."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def take(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the images and labels at `indices`, `int64[n]`."""
        return self.images.index_select(0, indices), self.labels.index_select(0, indices)


class DataSet:
    """A training set, a validation set if the data has one, and a test set that is read on request and only once."""

    def __init__(
        self,
        *,
        name: str,
        classes: tuple[str, ...],
        sha256: Mapping[str, str],
        training: Images,
        read_test: Callable[[], Images],
        validation: Images | None = None,
        is_handwriting: bool = False,
    ) -> None:
        self.name = name
        self.classes = classes
        self.sha256 = dict(sha256)
        self.training = training
        self.validation = validation
        self.is_handwriting = is_handwriting
        self._read_test: Callable[[], Images] | None = read_test

    def test(self) -> Images:
        """Read the test set. A second call is a programming error: the test set must not influence any choice."""
        if self._read_test is None:
            raise RuntimeError(
                "the test set has been read already; it is read once, after all choices are made"
            )
        read, self._read_test = self._read_test, None
        return read()


def polarity(images: npt.NDArray[np.uint8]) -> Polarity:
    """Return the polarity of a data set: the background is what most image borders show."""
    return WHITE_ON_BLACK if np.median(brightness.border_brightness(images)) < 128 else BLACK_ON_WHITE
