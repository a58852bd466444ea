"""Reader of IDX files of unsigned bytes, the format of MNIST and its siblings."""

import gzip
import math
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bundle.images.contract import IMAGE_SIZE
from imagesets.array_files import read_idx_header
from training.data.dataset import Images
from training.errors import DataError, reading

MAX_ELEMENTS = 1 << 32
"""Largest array in bytes: 5.4 million images of 784 bytes."""
CHUNK_BYTES = 1 << 20


@contextmanager
def open_idx(path: Path) -> Iterator[gzip.GzipFile | BufferedReader]:
    """Open an IDX file, raw or (with the suffix .gz) compressed; errors of reading it become a DataError."""
    with reading(path), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        yield file


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, raw or (with the suffix .gz) compressed by gzip.

    Args:
        path: the file.
        dimensions: the number of axes it must have: 3 for images, 1 for labels.

    Returns:
        `uint8[...]` with `dimensions` axes.

    Raises:
        DataError: the file cannot be read, has another type or shape, or is too short or too long.
    """
    with open_idx(path) as file:
        start, dtype, shape = read_idx_header(file)
        if dtype is None:
            raise DataError(f"{path} is not an IDX file: its first bytes are {start.hex(' ')}")
        if dtype != np.uint8 or len(shape) != dimensions:
            raise DataError(
                f"{path} has type 0x{start[2]:02x} with {len(shape)} axes; "
                f"unsigned bytes (0x08) with {dimensions} are needed"
            )
        size = math.prod(shape)
        if math.prod(max(1, length) for length in shape) > MAX_ELEMENTS:
            raise DataError(f"{path} claims shape {list(shape)}, more than the limit of {MAX_ELEMENTS} bytes")
        data = bytearray()  # grows with the file's content: the header's shape is not trusted
        while len(data) <= size and (chunk := file.read(CHUNK_BYTES)):
            data += chunk
    if len(data) != size:
        missing = "fewer" if len(data) < size else "more"
        raise DataError(f"{path} claims shape {list(shape)} but has {missing} bytes")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)  # writable, as PyTorch requires


def read_pair(images_path: Path, labels_path: Path, classes: int) -> Images:
    """Read an IDX file of images and the one of their labels.

    Raises:
        DataError: a file is invalid, the numbers of images and labels differ, the images are not 28x28, or a label is
            not below `classes`.
    """
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise DataError(f"{images_path} has {len(images)} images but {labels_path} has {len(labels)} labels")
    if images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE):
        raise DataError(f"{images_path} has images of {images.shape[1]}x{images.shape[2]}; 28x28 is needed")
    if labels.max(initial=0) >= classes:
        raise DataError(f"{labels_path} has label {labels.max()}; there are {classes} classes")
    return Images(images=images, labels=labels.astype(np.int64))
