"""Arrays of images: IDX and `.npy`, raw or gzip-compressed, and `.npz`; streamed, never read whole."""

import gzip
import struct
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from bundle.images.contract import IMAGE_SIZE, PIXELS
from imagesets.array_files import read_idx_header, read_npy_header
from serving.scoring.errors import InputError
from serving.scoring.inputs.listing import file_fingerprint
from serving.scoring.lazy_strings import LazyStrings
from serving.scoring.records import RawRows

READ_ERRORS = (OSError, EOFError, ValueError, struct.error, zlib.error, zipfile.BadZipFile, SyntaxError)
"""Exceptions of the libraries for damaged files."""

_SHAPES = f"uint8 of shape [n, {IMAGE_SIZE}, {IMAGE_SIZE}] or [n, {PIXELS}]"


@dataclass(kw_only=True, slots=True)
class ArraySource:
    """A source of `count` contiguous images in a stream."""

    name: str
    count: int
    path: Path
    open: Callable[[], IO[bytes]]
    """Opens the stream, which must support seeking forward; that need not be cheap."""
    start: int
    """Offset of the first image in the stream."""
    columns: None = None
    needs_decoding: bool = False
    _file: IO[bytes] | None = None

    def fingerprint(self) -> str:
        """Return the file's size and time."""
        return file_fingerprint(self.path)

    def take(self, first: int, count: int) -> RawRows:
        """Read `count` images from `first` on.

        Raises:
            InputError: the file is truncated, has trailing bytes, or is damaged.
        """
        try:
            if self._file is None:
                self._file = self.open()
            self._file.seek(self.start + first * PIXELS)
            data = self._file.read(count * PIXELS)
            # gzip and zip verify their checksum when the end of the stream is read.
            beyond = self._file.read(1) if first + count == self.count else b""
        except READ_ERRORS as error:
            raise unreadable_error(self.path, error) from error
        if len(data) != count * PIXELS or beyond:
            raise InputError(_wrong_length(self.path, self.count, "more" if beyond else "fewer"))
        pixels = np.frombuffer(data, np.uint8).reshape(count, IMAGE_SIZE, IMAGE_SIZE)
        return RawRows(source=self.name, rows=LazyStrings(range(first, first + count)), pixels=pixels)

    def close(self) -> None:
        """Close the stream; `take` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def unreadable_error(path: Path, error: Exception) -> InputError:
    """Return the error for a file that is damaged as a whole."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return InputError(
        f"{path} cannot be read: {' '.join(str(reason).split())[:200]}; restore it and run again"
    )


def _wrong_length(path: Path, count: int, how: str) -> str:
    return f"{path} declares {count} images and has {how} bytes than that: restore it and run again"


def is_gzip(path: Path) -> bool:
    """Return whether a file begins with gzip's magic number."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def opener_of(path: Path) -> Callable[[], IO[bytes]]:
    """Return a function that opens a file, decompressing gzip."""
    if is_gzip(path):
        return lambda: cast("IO[bytes]", gzip.open(path))
    return lambda: path.open("rb")


def open_idx(name: str, path: Path) -> ArraySource:
    """Open an IDX file of images.

    Raises:
        InputError: it is not an IDX file of 28x28 unsigned bytes, or its length does not match its header.
    """
    try:
        opener = opener_of(path)
        with opener() as file:
            start, dtype, shape = read_idx_header(file)
            if dtype != np.uint8:
                raise InputError(
                    f"{path} is not an IDX file of unsigned bytes: it begins with {start.hex(' ')}"
                )
            if len(shape) != 3:
                raise InputError(f"{path} has {len(shape)} axes; images have 3: give the file of the images")
            count, height, width = shape
    except READ_ERRORS as error:
        raise unreadable_error(path, error) from error
    if (height, width) != (IMAGE_SIZE, IMAGE_SIZE):
        raise InputError(
            f"{path} holds images of {width}x{height}; the model takes {IMAGE_SIZE}x{IMAGE_SIZE}"
        )
    _check_size(path, 16, count)
    return ArraySource(name=name, count=count, path=path, open=opener, start=16)


def _check_size(path: Path, start: int, count: int) -> None:
    """Check an uncompressed file's length against its header before anything is scored."""
    if is_gzip(path):
        return
    size, expected = path.stat().st_size, start + count * PIXELS
    if size != expected:
        raise InputError(_wrong_length(path, count, "more" if size > expected else "fewer"))


def open_npy(name: str, path: Path) -> ArraySource:
    """Open a `.npy` file (NEP 1) of images.

    Raises:
        InputError: it is not a `.npy` file, its array is not `uint8[n, 28, 28]` or `[n, 784]`, or it is truncated.
    """
    try:
        opener = opener_of(path)
        with opener() as file:
            count = _images_in(file, str(path))
            start = file.tell()
    except READ_ERRORS as error:
        raise unreadable_error(path, error) from error
    if count is None:
        raise InputError(f"{path} has no images: {_SHAPES} is required, in C order")
    _check_size(path, start, count)
    return ArraySource(name=name, count=count, path=path, open=opener, start=start)


def open_npz(name: str, path: Path) -> list[ArraySource]:
    """Open every array of images in a `.npz` archive, ordered by name; other arrays are skipped.

    Raises:
        InputError: it is not a `.npz` archive, or has no array of images.
    """
    found = []
    try:
        with zipfile.ZipFile(path) as archive:
            for member in sorted(archive.namelist()):
                with archive.open(member) as file, suppress(_NotAnArrayError):
                    if (count := _images_in(file, f"{path}: {member}")) is not None:
                        found.append((member, count, file.tell(), archive.getinfo(member).file_size))
    except READ_ERRORS as error:
        raise unreadable_error(path, error) from error
    if not found:
        raise InputError(f"{path} has no array of images: {_SHAPES} is required")
    sources = []
    for member, count, start, size in found:
        if size != start + count * PIXELS:
            raise InputError(_wrong_length(path, count, "more or fewer"))
        sources.append(
            ArraySource(
                name=f"{name}:{member.removesuffix('.npy')}",
                count=count,
                path=path,
                open=_member_opener(path, member),
                start=start,
            )
        )
    return sources


def _member_opener(path: Path, member: str) -> Callable[[], IO[bytes]]:
    def opened() -> IO[bytes]:
        archive = zipfile.ZipFile(path)
        try:
            return archive.open(member)  # the member keeps the archive's file open, and closes it
        finally:
            archive.close()

    return opened


class _NotAnArrayError(ValueError):
    """A member of an archive is not a `.npy` file."""


def _images_in(file: IO[Any], where: str) -> int | None:
    """Read a `.npy` header; return the number of images, None if the array does not hold images."""
    try:
        dtype, shape, fortran = read_npy_header(file)
    except ValueError as error:
        raise _NotAnArrayError(f"{where} is not a .npy file: {error}") from None
    if dtype != np.uint8 or shape[1:] not in ((IMAGE_SIZE, IMAGE_SIZE), (PIXELS,)):
        return None
    if fortran and shape[0] > 1:
        raise InputError(f"{where} is in Fortran order: save numpy.ascontiguousarray(images)")
    return int(shape[0])
