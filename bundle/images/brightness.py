"""The brightness of images: of all pixels, and of the border, which is paper in most."""

import numpy as np
import numpy.typing as npt

from bundle.images.contract import IMAGE_SIZE, PIXELS

_border = np.ones((IMAGE_SIZE, IMAGE_SIZE), dtype=bool)
_border[1:-1, 1:-1] = False
BORDER = np.flatnonzero(_border)
"""Indices of an image's 108 border pixels among its 784."""


def mean_ink(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return the mean pixel of each image, `float64[n]`, 0..255."""
    sums: npt.NDArray[np.float64] = images.reshape(len(images), PIXELS).sum(axis=1, dtype=np.uint32) / PIXELS
    return sums


def border_brightness(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return the mean of each image's border pixels, `float64[n]`, 0..255."""
    border = images.reshape(len(images), PIXELS)[:, BORDER]
    sums: npt.NDArray[np.float64] = border.sum(axis=1, dtype=np.uint32) / len(BORDER)
    return sums
