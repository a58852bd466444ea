"""Parquet files with a column of image files or of 784 numbers; other columns are passed through."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from bundle.images.contract import IMAGE_SIZE, PIXELS
from common.configuration import nearest
from serving.scoring.errors import InputError
from serving.scoring.inputs.listing import file_fingerprint
from serving.scoring.lazy_strings import LazyStrings
from serving.scoring.records import RawRows

USUAL_NAMES = ("image", "images", "img", "pixels", "bytes", "png")
READ_ROWS = 1024
STREAM_BUFFER = 1 << 20
"""Buffer for reading column chunks, which are not read whole: a row group may have millions of images."""


class ParquetSource:
    """A source of a Parquet file's rows, read sequentially."""

    def __init__(self, name: str, path: Path, column: str | None) -> None:
        self.name = name
        self.path = path
        self._file: Any = self._open()
        self._column = _image_column(path, self._file.schema_arrow, column)
        self.needs_decoding = _is_files(self._file.schema_arrow.field(self._column).type)
        self.columns: Any = self._file.schema_arrow.remove(
            self._file.schema_arrow.get_field_index(self._column)
        ).remove_metadata()
        self.count = int(self._file.metadata.num_rows)
        groups = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(groups, dtype=np.int64)])
        self._batches: Iterator[Any] | None = None
        self._at = 0
        """Number of the first row of `_rest`."""
        self._rest: Any = None

    def fingerprint(self) -> str:
        """Return the file's size and time, and the column."""
        return f"{file_fingerprint(self.path)}, column {self._column}"

    def take(self, first: int, count: int) -> RawRows:
        """Read `count` rows from `first` on.

        Raises:
            InputError: the file is damaged.
        """
        try:
            table = self._rows(first, count)
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"{self.path} cannot be read: {_short(error)}; restore it and run again"
            ) from error
        images = table.column(self._column).combine_chunks()
        if isinstance(images, pa.ChunkedArray):
            images = pa.concat_arrays(images.chunks) if images.num_chunks else images.type.empty_array()
        rest = table.drop_columns([self._column]) if len(self.columns) else None
        rows = LazyStrings(range(first, first + count))
        if _is_files(images.type):
            if pa.types.is_struct(images.type):
                images = images.field("bytes")
            files = [data if data is not None else "the image is null" for data in images.to_pylist()]
            return RawRows(source=self.name, rows=rows, files=files, columns=rest)
        pixels, errors = _numbers(images)
        return RawRows(source=self.name, rows=rows, pixels=pixels, errors=errors, columns=rest)

    def close(self) -> None:
        """Close the file; `take` opens it again."""
        if self._file is not None:
            self._file.close()
        self._file, self._batches, self._rest = None, None, None

    def _open(self) -> Any:
        try:
            return pq.ParquetFile(self.path, buffer_size=STREAM_BUFFER, pre_buffer=False)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{self.path} is not a Parquet file, or damaged: {_short(error)}") from error

    def _rows(self, first: int, count: int) -> Any:
        if self._file is None:
            self._file = self._open()
        group = int(np.searchsorted(self._starts, first, side="right")) - 1
        if self._batches is None or not self._at <= first or self._starts[group] > self._at + self._held():
            self._batches = self._file.iter_batches(
                READ_ROWS, row_groups=list(range(group, len(self._starts) - 1))
            )
            self._at, self._rest = int(self._starts[group]), None
        tables = [] if self._rest is None else [self._rest]
        held = self._held()
        while self._at + held < first + count:
            batch = pa.Table.from_batches([next(self._batches)])
            held += batch.num_rows
            tables.append(batch)
        table = pa.concat_tables(tables)
        start = first - self._at
        self._rest, self._at = table.slice(start + count), first + count
        return table.slice(start, count)

    def _held(self) -> int:
        return 0 if self._rest is None else int(self._rest.num_rows)


def _is_files(kind: Any) -> bool:
    """Return whether a column's type is image files: bytes, or the `{bytes, path}` of Hugging Face data sets."""
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _is_files(kind.field(at).type)
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    )


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_numbers(kind: Any) -> bool:
    """Return whether a column's type is lists of numbers, possibly nested."""
    while _is_list(kind):
        kind = kind.value_type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            return True
    return False


def _image_column(path: Path, schema: Any, column: str | None) -> str:
    """Return the column of the images."""
    fit = [field.name for field in schema if _is_files(field.type) or _is_numbers(field.type)]
    if column is not None:
        if column in fit:
            return column
        if column in schema.names:
            raise InputError(
                f"{path}: the column '{column}' is {schema.field(column).type}; images are bytes or {PIXELS} numbers"
            )
        raise InputError(f"{path} has no column '{column}'{nearest(column, schema.names)}")
    usual = [name for name in fit if name.lower() in USUAL_NAMES]
    candidates = fit if len(fit) == 1 else usual
    if len(candidates) != 1:
        found = f"is ambiguous between {', '.join(fit)}: choose with --column" if fit else "is not there"
        raise InputError(f"{path}: the column of the images (bytes, or {PIXELS} numbers) {found}")
    return str(candidates[0])


def _numbers(images: Any) -> tuple[npt.NDArray[np.uint8], dict[int, str]]:
    """Return `uint8[n, 28, 28]` from lists of 784 numbers or 28 lists of 28, and an error for each other row."""
    count = len(images)
    errors: dict[int, str] = {}
    pixels = np.zeros((count, PIXELS), np.uint8)
    flat, lengths = images, np.ones(count, np.int64)
    nulls = np.asarray(images.is_null())
    while _is_list(flat.type):  # sum the lengths of nested lists
        inner = np.asarray(flat.value_lengths().fill_null(0))
        ends = np.cumsum(lengths)
        sums = np.concatenate([[0], np.cumsum(inner)])
        lengths = sums[ends] - sums[ends - lengths]
        flat = flat.flatten()
    values = flat.to_numpy(zero_copy_only=False)
    ends = np.cumsum(lengths)
    for row in np.flatnonzero((lengths != PIXELS) | nulls).tolist():
        errors[row] = (
            "the image is null"
            if nulls[row]
            else f"the image is a list of {lengths[row]} numbers; {PIXELS} are required"
        )
    whole = np.flatnonzero((lengths == PIXELS) & ~nulls)
    if len(whole) == 0:
        return pixels.reshape(count, IMAGE_SIZE, IMAGE_SIZE), errors
    wanted = values[(ends[whole] - PIXELS)[:, None] + np.arange(PIXELS)] if errors else values
    wanted = wanted.reshape(len(whole), PIXELS)
    if wanted.dtype != np.uint8:
        numbers = wanted.astype(np.float64)
        right = (
            (numbers >= 0) & (numbers <= 255) & (numbers == np.floor(numbers))
        )  # false for NaN, which is a null
        for at in np.flatnonzero(~right.all(axis=1)).tolist():
            pixel = int(np.flatnonzero(~right[at])[0])
            errors[int(whole[at])] = (
                f"pixel {pixel} is {numbers[at, pixel]:g}; whole numbers from 0 to 255 are required"
            )
        wanted = np.where(right.all(axis=1)[:, None], numbers, 0).astype(np.uint8)
    pixels[whole] = wanted
    return pixels.reshape(count, IMAGE_SIZE, IMAGE_SIZE), errors


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
