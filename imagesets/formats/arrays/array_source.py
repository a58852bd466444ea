"""A source of contiguous images in a stream of unsigned bytes: what IDX and NumPy's files are read by."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from bundle.images.contract import IMAGE_SIZE, PIXELS
from common.atomic_files import sha256_file
from imagesets.errors import DataError
from imagesets.formats.files.listing import ScratchFile, file_fingerprint
from imagesets.labels import LabelColumn
from imagesets.lazy_strings import LazyStrings
from imagesets.source import Images, LabelledSource, Part, RawRows
from imagesets.streams import READ_ERRORS, unreadable_error

MAX_BYTES = 1 << 32
"""Largest array: 5.4 million images."""


@dataclass(kw_only=True)
class ArraySource(LabelledSource):
    """A source of `count` contiguous images in a stream."""

    name: str
    count: int
    path: Path
    open: Callable[[], IO[bytes]]
    """Opens the stream, which must support seeking forward; that need not be cheap."""
    start: int
    """Offset of the first image in the stream."""
    part: Part | None = None
    transposed: bool = False
    read_labels: Callable[[], LabelColumn | None] | None = None
    read_sha256: Callable[[], Mapping[str, str]] | None = None
    """Returns the hashes of the files; None hashes `path` as it is."""
    columns: Any = None
    """Schema of `table`, whose rows are passed through."""
    table: Any = None
    _file: IO[bytes] | None = None

    def fingerprint(self) -> str:
        """Return the file's size and time, and how it is read."""
        return file_fingerprint(self.path) + (", transposed" if self.transposed else "")

    def sha256(self) -> Mapping[str, str]:
        """Return the hashes of the files that images and labels are read from."""
        if self.read_sha256 is not None:
            return self.read_sha256()
        try:
            return {self.path.name: sha256_file(self.path)}
        except OSError as error:
            raise unreadable_error(self.path, error) from error

    def take(self, first: int, count: int) -> RawRows:
        """Read `count` images from `first` on.

        Raises:
            DataError: the file is truncated, has trailing bytes, or is damaged.
        """
        try:
            if self._file is None:
                self._file = self.open()
            self._file.seek(self.start + first * PIXELS)
            data = self._file.read(count * PIXELS)
            # gzip and zip verify their checksum when the end of the stream is read.
            beyond = self._file.read(1) if first + count == self.count else b""
        except READ_ERRORS as error:
            self.close()
            raise unreadable_error(self.path, error) from error
        if len(data) != count * PIXELS or beyond:
            self.close()
            raise wrong_length_error(self.path, self.count, "more" if beyond else "fewer")
        pixels = np.frombuffer(data, np.uint8).reshape(count, IMAGE_SIZE, IMAGE_SIZE)
        if self.transposed:
            pixels = np.ascontiguousarray(pixels.transpose(0, 2, 1))
        columns = None if self.table is None else self.table.slice(first, count)
        rows = LazyStrings(range(first, first + count))
        return RawRows(source=self.name, rows=rows, pixels=pixels, columns=columns)

    def close(self) -> None:
        """Close the stream; `take` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def wrong_length_error(path: Path, count: int, how: str) -> DataError:
    """Return the error for a file whose size does not match its header."""
    return DataError(
        f"{path} declares {count} images and has {how} bytes than that: restore it and run again"
    )


def check_size(path: Path, start: int, length: int, count: int) -> None:
    """Check an uncompressed file's length against its header before anything is read.

    Raises:
        DataError: it has more or fewer bytes.
    """
    size, expected = path.stat().st_size, start + length
    if size != expected:
        raise wrong_length_error(path, count, "more" if size > expected else "fewer")


def spooled(name: str, path: Path, batches: Iterable[Images], **fields: Any) -> ArraySource:
    """Write converted images, `uint8[n, 28, 28]` each, to a temporary file, and return the source of them.

    What is no plain array of unsigned bytes (numbers of other types, text) is converted once: then it can be counted,
    and read in any order, with 784 bytes an image on disk and no memory.
    """
    scratch = ScratchFile()
    count = 0
    for images in batches:
        scratch.file.write(np.ascontiguousarray(images).data)
        count += len(images)
    scratch.file.flush()
    # The function holds the scratch file, which is removed with its last reference.
    return ArraySource(
        name=name,
        count=count,
        path=path,
        open=lambda: Path(scratch.place).open("rb"),
        start=0,
        **fields,
    )
