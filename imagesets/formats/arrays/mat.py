"""MATLAB 5 files: EMNIST's, and variables named as the arrays of a `.npz` archive are.

    dataset.train.images, dataset.train.labels, dataset.test..., dataset.mapping     EMNIST's structure
    images [28, 28, n] and labels, X and y, x_train and y_train, ...                 plain variables

MATLAB puts the axis of the images last, Python the first: both are read. Rows of 784 are read row by row, but in
EMNIST's structure column by column, as it is published. SciPy reads the file after `_check` has walked over it, because
SciPy allocates what a header claims.

Sources: "MAT-File Level 5 File Format", MathWorks; EMNIST's matlab.zip, by extra-keras-datasets 1.2, `emnist.py`.
"""

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bundle.images.contract import IMAGE_SIZE, PIXELS
from common.atomic_files import CHUNK_BYTES
from common.errors import listing, one_line
from imagesets.errors import DataError
from imagesets.formats.arrays.array_source import MAX_BYTES, ArraySource
from imagesets.formats.arrays.numbers import convert
from imagesets.labels import LabelColumn, column_of
from imagesets.names.file_names import read_name
from imagesets.source import Options
from imagesets.streams import opener_of, raw_sha256, unreadable_error

MAPPING = "dataset.mapping"
"""EMNIST's array of a number and one or two ASCII codes for each class."""
BATCH = 4096
"""Images that are converted at once."""
MAX_DEPTH = 8
"""Structures and cells within one another; EMNIST's file has 3."""
MAX_ARRAYS = 1 << 22
"""Cells and fields of one variable."""
HEADER_BYTES = 128
SMALL_BYTES = 1 << 16
"""Longest list of axes or of field names."""

_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCTURE, _CHARACTERS, _NUMBERS = 1, 2, 4, range(6, 16)
_BYTES_OF_TYPE = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, 16: 1, 17: 2, 18: 4}
"""A data type of the format to the bytes of one number of it."""
_UTF8 = 16
_OTHERS = {3: "an object", 5: "a sparse matrix", 16: "a function", 17: "an object"}


def open_mat(name: str, path: Path, options: Options) -> list[ArraySource]:
    """Open the arrays of images in a MATLAB 5 file, with their labels.

    Raises:
        DataError: it is not such a file, is damaged, has no array of images, or two of one part.
    """
    arrays = _arrays(name, path)
    fit = {
        variable: images
        for variable, array in arrays.items()
        if (images := _images(name, variable, array)) is not None
    }
    fit = {variable: fit[variable] for variable in fit if read_name(variable).role == "images"} or fit
    if not fit:
        raise DataError(
            f"{name} has no array of images, [28, 28, n] or [n, 784]; it has {_described(arrays)}"
        )
    parts = [read_name(variable).part for variable in fit]
    if len(set(parts)) < len(parts):
        raise DataError(
            f"{name} has several arrays of images, {listing([*fit])}: save one, or name them by part, as train_images"
        )
    names = _mapping(name, arrays[MAPPING]) if MAPPING in arrays else {}
    used = {*fit, MAPPING}
    sources = []
    for variable, images in fit.items():
        source = _source(f"{name}:{variable}", path, images, options)
        source.part = read_name(variable).part
        source.transposed = bool(names)
        if images.ndim == 2 and not names:
            options.say(
                f"{source.name}: rows of {PIXELS} are read row by row; if the images come out transposed, as MATLAB's "
                f"own reshape leaves them, save them as [{IMAGE_SIZE}, {IMAGE_SIZE}, n]"
            )
        if (labels := _labels_of(variable, arrays)) is not None:
            used.add(labels)
            source.read_labels = _label_reader(f"{name}: {labels}", arrays[labels], names)
        sources.append(source)
    if unused := [variable for variable in arrays if variable not in used]:
        options.say(f"{name}: variables that are not used: {listing([one_line(one, 50) for one in unused])}")
    return sources


def read_mat_labels(path: Path) -> LabelColumn:
    """Read the labels in a MATLAB 5 file, of which one variable must be labels.

    Raises:
        DataError: it is not such a file, is damaged, or none or several of its variables may be labels.
    """
    arrays = _arrays(str(path), path)
    fit = [variable for variable in arrays if _images(str(path), variable, arrays[variable]) is None]
    fit = [variable for variable in fit if read_name(variable).role == "labels"] or fit
    if len(fit) != 1:
        raise DataError(
            f"{path} has {'several arrays' if fit else 'no array'} of labels ({_described(arrays)}): save one alone"
        )
    return _label_reader(f"{path}: {fit[0]}", arrays[fit[0]], {})()


def _described(arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    shown = [f"{one_line(name, 50)} {array.dtype.name}{list(array.shape)}" for name, array in arrays.items()]
    return listing(shown, 8) or "no array"


def _images(name: str, variable: str, array: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """Return an array with the axis of the images first, `[n, 28, 28]` or `[n, 784]`; None if it is not images."""
    sides = (IMAGE_SIZE, IMAGE_SIZE)
    shape = array.shape
    if array.dtype.kind not in "buif" or not array.size:
        return None
    if shape in ((IMAGE_SIZE, *sides), (PIXELS, PIXELS)):
        raise DataError(
            f"{name}: {variable} has the shape {list(shape)}, of which the first or last axis may be that of the "
            f"images: save it as [n, {IMAGE_SIZE}, {IMAGE_SIZE}, 1]"
        )
    if shape == sides:
        return array[None]
    if shape[1:] in (sides, (*sides, 1), (PIXELS,)):
        return array.reshape(len(array), *sides) if len(shape) > 2 else array
    if shape[:-1] in (sides, (*sides, 1)):
        return np.moveaxis(array, -1, 0).reshape(shape[-1], *sides)
    return array.T if shape[:-1] == (PIXELS,) else None


def _source(name: str, path: Path, images: npt.NDArray[Any], options: Options) -> ArraySource:
    def batches() -> Iterator[npt.NDArray[Any]]:
        return (images[first : first + BATCH] for first in range(0, len(images), BATCH))

    return convert(name, path, batches, images.dtype, options, read_sha256=lambda: raw_sha256(path))


def _labels_of(variable: str, arrays: Mapping[str, npt.NDArray[Any]]) -> str | None:
    images = read_name(variable)
    fit = [
        other
        for other in arrays
        if (said := read_name(other)).role == "labels"
        and (said.prefix, said.part) == (images.prefix, images.part)
    ]
    return fit[0] if len(fit) == 1 else None


def _label_reader(where: str, array: npt.NDArray[Any], names: Mapping[int, str]) -> Callable[[], LabelColumn]:
    def read() -> LabelColumn:
        flat = array.ravel() if array.ndim == 2 and 1 in array.shape else array
        if flat.dtype == object:  # a cell array, of texts
            flat = np.array(["".join(map(str, np.ravel(cell).tolist())) for cell in flat])
        column = column_of(flat, where)
        return column.named(names, where) if names and column.numeric else column

    return read


def _mapping(name: str, array: npt.NDArray[Any]) -> dict[int, str]:
    """Return the name of each number; of two codes, as in EMNIST Letters, the first, of the upper case."""
    rows = array.tolist() if array.ndim == 2 and array.shape[1] >= 2 and array.dtype.kind in "uif" else []
    if not rows or not all(32 < row[1] < 127 and row[0] == int(row[0]) for row in rows):
        raise DataError(f"{name}: {MAPPING} is not a number and an ASCII code for each class: restore it")
    return {int(row[0]): chr(int(row[1])) for row in rows}


# Reading


def _arrays(name: str, path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a file by their names, those in structures as `dataset.train.images`."""
    try:
        from scipy.io import loadmat  # training without such files does not need it
    except ModuleNotFoundError:
        raise DataError(f'{name} is read by SciPy: pip install "glyph[data]"') from None
    with _guard(name):
        opener = opener_of(path)
        with opener() as file:
            _check(name, file)
        with opener() as file:
            return dict(_flattened(loadmat(file), ""))


def _flattened(variables: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    for name, value in variables.items():
        if not isinstance(value, np.ndarray):
            continue
        if value.dtype.names is None:
            yield prefix + name, value
        elif value.size == 1:
            one = value.ravel()[0]
            yield from _flattened({field: one[field] for field in value.dtype.names}, f"{prefix}{name}.")


@contextmanager
def _guard(name: str) -> Iterator[None]:
    """Turn the library's exceptions about a broken file into a DataError."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001  zlib, NumPy and SciPy raise a dozen types
        raise unreadable_error(name, error) from None


# What a file claims, before anything is allocated


def _check(name: str, file: IO[bytes]) -> None:
    """Walk over a file, decompressing it piece by piece, and check that each array is as large as it says.

    Raises:
        DataError: it is no MATLAB 5 file, is too large, or has what is no array.
        EOFError, ValueError, zlib.error: it is damaged.
    """
    header = file.read(HEADER_BYTES)
    order = {b"IM": "little", b"MI": "big"}.get(header[126:128])
    if not header.startswith(b"MATLAB 5.0 MAT-file") or order is None:
        raise DataError(f"{name} is not a MATLAB 5 file: save it with save(FILE, ..., '-v7')")
    total = 0
    while start := file.read(8):
        outer = _Walk(name, _Joined(start, file), order)
        tag = outer.tag(MAX_BYTES)
        walk = outer if tag.type != _COMPRESSED else _Walk(name, _Inflated(file, tag.size), order)
        inner = tag if tag.type != _COMPRESSED else walk.tag(MAX_BYTES)
        total += inner.size
        if total > MAX_BYTES:
            raise DataError(f"{name} is larger than {MAX_BYTES} bytes: save the images in several files")
        if inner.type != _MATRIX:
            raise ValueError(f"an element of type {inner.type} is where an array should be")
        walk.matrix(walk.at + inner.size, 0)
        if walk is not outer:
            walk.expect_end()


class _Tag(NamedTuple):
    """The start of an element."""

    type: int
    size: int
    data: bytes | None
    """Up to four bytes, if they are in the tag itself."""


class _Walk:
    """A position in a stream of elements."""

    def __init__(self, name: str, file: "IO[bytes] | _Inflated | _Joined", order: str) -> None:
        self._name = name
        self._file = file
        self._order: Any = order
        self.at = 0
        self._arrays = 0

    def matrix(self, end: int, depth: int) -> None:
        """Check an array that ends at `end`, and go there."""
        if end == self.at:  # an empty field
            return
        if depth > MAX_DEPTH:
            raise DataError(f"{self._name} has structures within structures: save the images as an array")
        kind = self._small(end)[0 if self._order == "little" else 3]
        if kind in _OTHERS:
            raise DataError(f"{self._name} has {_OTHERS[kind]}, which is not read: save the arrays alone")
        axes = self._integers(self._small(end))
        if min(axes, default=-1) < 0:
            raise ValueError(f"an array has the shape {axes}")
        self._small(end)  # its name
        count = math.prod(axes)
        if kind == _STRUCTURE:
            (length,) = self._integers(self._small(end))
            self._fields(end, count, len(self._small(end)) // max(1, length), depth)
        elif kind == _CELL:
            self._fields(end, count, 1, depth)
        elif kind == _CHARACTERS or kind in _NUMBERS:
            tag = self.tag(end)
            utf8 = kind == _CHARACTERS and tag.type == _UTF8
            if count > tag.size if utf8 else count * _BYTES_OF_TYPE.get(tag.type, 0) != tag.size:
                raise ValueError(f"an array of the shape {axes} has {tag.size} bytes")
        else:
            raise ValueError(f"an array is of the unknown class {kind}")
        self._skip(end - self.at)

    def _fields(self, end: int, count: int, each: int, depth: int) -> None:
        """Check the arrays in a cell array or in an array of structures."""
        room = (end - self.at) // 8
        self._arrays += count * each
        if count > max(1, room) or count * each > room or self._arrays > MAX_ARRAYS:
            raise ValueError(f"an array claims {count} fields of {each} arrays, in {end - self.at} bytes")
        for _ in range(count * each):
            tag = self.tag(end)
            if tag.type != _MATRIX:
                raise ValueError(f"a field of type {tag.type} is no array")
            self.matrix(self.at + tag.size, depth + 1)

    def tag(self, end: int) -> _Tag:
        """Read the start of an element, which may not go beyond `end`."""
        start = self._read(8)
        first, second = (int.from_bytes(start[at : at + 4], self._order) for at in (0, 4))
        if first >> 16:
            return _Tag(first & 0xFFFF, first >> 16, start[4 : 4 + (first >> 16)])
        if self.at + second > end:
            raise EOFError("an element is longer than what it is in")
        return _Tag(first, second, None)

    def expect_end(self) -> None:
        """Check that nothing follows; zlib verifies its checksum at the end."""
        if self._file.read(1):
            raise ValueError("more than an array is in a compressed element")

    def _small(self, end: int) -> bytes:
        tag = self.tag(end)
        if tag.data is not None:
            return tag.data
        if tag.size > SMALL_BYTES:
            raise ValueError(
                f"a list of {tag.size} bytes is where the shape or the fields of an array should be"
            )
        data = self._read(tag.size)
        self._skip(-tag.size % 8)
        return data

    def _integers(self, data: bytes) -> list[int]:
        return [int(number) for number in np.frombuffer(data, "<i4" if self._order == "little" else ">i4")]

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            if not (more := self._file.read(size - len(data))):
                raise EOFError("it is truncated")
            data += more
        self.at += size
        return data

    def _skip(self, size: int) -> None:
        while size > 0:
            size -= len(self._read(min(size, CHUNK_BYTES)))


class _Joined:
    """Bytes that have been read, and the file after them."""

    def __init__(self, start: bytes, file: IO[bytes]) -> None:
        self._start = start
        self._file = file

    def read(self, size: int) -> bytes:
        start, self._start = self._start[:size], self._start[size:]
        return start or self._file.read(size)


class _Inflated:
    """The content of a compressed element, decompressed as it is read."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size
        self._inflate = zlib.decompressobj()

    def read(self, size: int) -> bytes:
        while True:
            data = self._inflate.unconsumed_tail
            if not data:
                data = self._file.read(min(self._left, CHUNK_BYTES))
                self._left -= len(data)
            out = self._inflate.decompress(data, size)
            if out or not data:
                return out
