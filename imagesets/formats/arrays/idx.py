"""IDX files: images of any element type, and labels; in every compression, whatever the name says.

The header's third byte is the element type, the fourth the number of axes; lengths and elements are big-endian.
Images have the axes [n, 28, 28] (some publishers append or insert an axis of one, or flatten to 784). Labels have one
axis; QMNIST's have two, `int32[n, 8]`, of which the first column is the class.

Sources: the format's description on the MNIST page by Yann LeCun, Corinna Cortes and Christopher J. C. Burges; QMNIST's
README for the columns of its labels.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from bundle.images.contract import PIXELS
from common.atomic_files import CHUNK_BYTES
from imagesets.errors import DataError
from imagesets.formats.arrays.array_source import (
    MAX_BYTES,
    ArraySource,
    check_size,
    wrong_length_error,
)
from imagesets.formats.arrays.headers import read_idx_header
from imagesets.formats.arrays.numbers import convert, image_count, is_as_it_is
from imagesets.labels import LabelColumn, column_of
from imagesets.source import Options
from imagesets.streams import READ_ERRORS, is_compressed, opener_of, raw_sha256, unreadable_error

MAX_LABELS = 1 << 28


def open_idx(name: str, path: Path, options: Options) -> list[ArraySource]:
    """Open an IDX file of images.

    Raises:
        DataError: it is not an IDX file of 28x28 images, or its length does not match its header.
    """
    try:
        opener = opener_of(path)
        with opener() as file:
            header = read_idx_header(file)
        dtype, shape = header.dtype, header.shape
        if dtype is None:
            raise DataError(f"{name} is not an IDX file: it begins with {header.start.hex(' ') or 'nothing'}")
        if len(shape) < 2:
            raise DataError(f"{name} has 1 axis, as labels have: give the file of the images")
        count = image_count(shape, name, options)
        start = 4 + 4 * len(shape)
        if not is_compressed(path):
            check_size(path, start, count * math.prod(shape[1:]) * dtype.itemsize, count)
    except READ_ERRORS as error:
        raise unreadable_error(name, error) from error
    if is_as_it_is(dtype, shape, options):
        return [
            ArraySource(
                name=name,
                count=count,
                path=path,
                open=opener,
                start=start,
                read_sha256=lambda: raw_sha256(path),
            )
        ]
    numbers = dtype
    return [
        convert(
            name,
            path,
            lambda: _batches(path, numbers, start, shape),
            numbers,
            options,
            read_sha256=lambda: raw_sha256(path),
        )
    ]


def _batches(
    path: Path, dtype: "np.dtype[Any]", start: int, shape: tuple[int, ...]
) -> Iterator[npt.NDArray[Any]]:
    """Yield the images of a file of numbers that are not unsigned bytes, a few thousand at a time."""
    count, each = shape[0], math.prod(shape[1:]) * dtype.itemsize
    with opener_of(path)() as file:
        file.seek(start)
        rows = max(1, CHUNK_BYTES // each)
        for first in range(0, count, rows):
            wanted = min(rows, count - first) * each
            if len(data := _exactly(file, wanted)) != wanted:
                raise wrong_length_error(path, count, "fewer")
            yield np.frombuffer(data, dtype).reshape(-1, *shape[1:])
        if file.read(1):
            raise wrong_length_error(path, count, "more")


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (chunk := file.read(min(CHUNK_BYTES, size - len(data)))):
        data += chunk
    return bytes(data)


def read_idx_labels(path: Path) -> LabelColumn:
    """Read an IDX file of labels.

    Raises:
        DataError: it is not such a file, or its length does not match its header.
    """
    try:
        with opener_of(path)() as file:
            start, dtype, shape = read_idx_header(file)
            if dtype is None:
                raise DataError(f"{path} is not an IDX file: it begins with {start.hex(' ') or 'nothing'}")
            if len(shape) > 2 or (len(shape) == 2 and shape[1] >= PIXELS):
                raise DataError(
                    f"{path} has {len(shape)} axes, labels have one: this is the file of the images"
                )
            size = math.prod(shape) * dtype.itemsize
            if size > MAX_LABELS * dtype.itemsize or size > MAX_BYTES:
                raise DataError(
                    f"{path} claims {math.prod(shape)} labels, more than the limit of {MAX_LABELS}"
                )
            data = _exactly(file, size)
            if len(data) != size or file.read(1):
                raise DataError(
                    f"{path} declares {shape[0]} labels and has {'fewer' if len(data) < size else 'more'}: "
                    "restore it and run again"
                )
    except READ_ERRORS as error:
        raise unreadable_error(path, error) from error
    values = np.frombuffer(data, dtype).reshape(shape)
    is_qmnist = len(shape) == 2 and dtype.kind == "i" and shape[1] == 8
    return column_of(values[:, 0] if is_qmnist else values, str(path))
