"""Parquet files with a column of image files, of lists of 784 numbers, or one for each pixel.

Hugging Face's `datasets` writes `image`, a struct of `bytes` and `path`, `label`, integers, and the classes' names into
the schema's metadata: https://github.com/huggingface/datasets, src/datasets/features/features.py,
`Features.arrow_schema`. A WebDataset that is converted has `jpg` or `png`, and `cls`.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bundle.images.contract import IMAGE_SIZE, PIXELS
from bundle.images.errors import NumbersError
from bundle.images.numbers import OVERSHOOT, Factor, Values, joined, judge, needs_no_values, scale, values_of
from common.configuration import nearest
from common.errors import listing, one_line
from imagesets.errors import DataError
from imagesets.formats.arrays.numbers import DECLARE
from imagesets.formats.files.listing import file_fingerprint
from imagesets.formats.tables.pixel_columns import FEWEST, find_columns, label_place
from imagesets.formats.tables.pixel_table import (
    BadCellError,
    is_text,
    labels_of,
    refuse,
    spool_table,
)
from imagesets.labels import UNKNOWN, LabelColumn, of_codes
from imagesets.lazy_strings import LazyStrings
from imagesets.source import LabelledSource, Options, RawRows, Source
from imagesets.streams import raw_sha256

USUAL_NAMES = ("image", "images", "img", "pixels", "bytes", "png", "jpg", "jpeg", "webp", "bmp")
READ_ROWS = 1024
NARROW_BUFFER = 1 << 16
"""The same where there is a column for each pixel."""
ARROW_ERRORS = (OSError, ValueError, pa.ArrowException)
"""Of damaged files: names that are not UTF-8 are a ValueError."""
UNLABELLED = -1
"""Hugging Face's number for a row without a label, as in test sets whose labels are withheld."""
STREAM_BUFFER = 1 << 20
"""Buffer for reading column chunks, which are not read whole: a row group may have millions of images."""


class _Range(NamedTuple):
    """How the numbers of a column become pixels."""

    factor: Factor
    whole: bool
    """Whether a fraction is an error."""


def opened(name: str, path: Path, options: Options) -> Source:
    """Open a Parquet file as its source; see `open_parquet`."""
    with open_file(path, NARROW_BUFFER) as file:
        schema = file.schema_arrow
        numbers = sum(map(_is_number, schema.types))
        if options.column is not None or numbers < FEWEST or any(map(_is_images, schema.types)):
            return ParquetSource(name, path, options)
        columns = find_columns(schema.names, str(path), options.label_column)
        kinds = {schema.field(place).type for place in (*columns.pixels, *(columns.ends or ()))}
        dtype = np.dtype(np.uint8 if kinds == {pa.uint8()} else np.float32)
        try:
            source = spool_table(
                name,
                path,
                file.iter_batches(READ_ROWS),
                schema.names,
                columns,
                dtype,
                options,
                typed=True,
                read_sha256=partial(raw_sha256, path),
            )
        except BadCellError as error:
            raise DataError(
                f"{path}: row {error.row} of column '{one_line(schema.names[error.column], 60)}' is {error.value}; "
                "a pixel is a number from 0 to 255"
            ) from None
        except ARROW_ERRORS as error:
            raise _damaged(path, error) from error
    if columns.label is not None:
        source.read_labels = partial(read_labels, path, schema.names[columns.label])
    return source


class ParquetSource(LabelledSource):
    """A source of a Parquet file's rows, read sequentially."""

    def __init__(self, name: str, path: Path, options: Options) -> None:
        self.name = name
        self.path = path
        self._file: Any = open_file(path)
        schema = self._file.schema_arrow
        self._column = _image_column(path, schema, options.column)
        self.needs_decoding = _is_files(schema.field(self._column).type)
        self.columns: Any = schema.remove(schema.get_field_index(self._column)).remove_metadata()
        self.count = int(self._file.metadata.num_rows)
        groups = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(groups, dtype=np.int64)])
        self._batches: Iterator[Any] | None = None
        self._at = 0
        """Number of the first row of `_rest`."""
        self._rest: Any = None
        self._range = _Range(1, whole=True) if self.needs_decoding else self._judged(options)
        self.read_labels = _label_reader(path, schema, self._column, options.label_column)

    def fingerprint(self) -> str:
        """Return the file's size and time, and the column."""
        return f"{file_fingerprint(self.path)}, column {self._column}" + (
            ", transposed" if self.transposed else ""
        )

    def sha256(self) -> Mapping[str, str]:
        """Return the file's hash."""
        return raw_sha256(self.path)

    def take(self, first: int, count: int) -> RawRows:
        """Read `count` rows from `first` on.

        Raises:
            DataError: the file is damaged.
        """
        try:
            table = self._rows(first, count)
        except ARROW_ERRORS as error:
            raise _damaged(self.path, error) from error
        images = table.column(self._column).combine_chunks()
        if isinstance(images, pa.ChunkedArray):
            images = pa.concat_arrays(images.chunks) if images.num_chunks else images.type.empty_array()
        rest = table.drop_columns([self._column]) if len(self.columns) else None
        rows = LazyStrings(range(first, first + count))
        if _is_files(images.type):
            if pa.types.is_struct(images.type):
                images = pc.struct_field(images, "bytes")
            files = [data if data is not None else "the image is null" for data in images.to_pylist()]
            return RawRows(source=self.name, rows=rows, files=files, columns=rest)
        pixels, errors = _numbers(images, self._range)
        if self.transposed:
            pixels = np.ascontiguousarray(pixels.transpose(0, 2, 1))
        return RawRows(source=self.name, rows=rows, pixels=pixels, errors=errors, columns=rest)

    def close(self) -> None:
        """Close the file; `take` opens it again."""
        if self._file is not None:
            self._file.close()
        self._file, self._batches, self._rest = None, None, None

    def _judged(self, options: Options) -> _Range:
        """Return how the column's numbers become pixels, by all rows that can be images.

        Raises:
            DataError: the file is damaged, or the range of the numbers is in doubt.
        """
        kind = _element(self._file.schema_arrow.field(self._column).type)
        dtype = np.dtype(kind.to_pandas_dtype())
        if needs_no_values(dtype, options.pixels):
            return _Range(1, whole=True)
        found: list[Values] = []
        fractional = rows = 0
        try:
            for batch in self._file.iter_batches(READ_ROWS, columns=[self._column]):
                numbers = _lists(batch.column(0)).numbers
                numbers = numbers[((numbers >= 0) & (numbers <= 255)).all(axis=1)]
                if not len(numbers):
                    continue
                found.append(values_of(numbers))
                fractional += int((numbers != np.floor(numbers)).any(axis=1).sum())
                rows += len(numbers)
                if options.pixels == "auto" and found[-1].maximum > OVERSHOOT:
                    break  # no other row can make it 0..1
            factor = judge(joined(found), dtype, options.pixels) if found else 1
        except NumbersError as error:
            doubt = f"; {DECLARE}" if error.in_doubt else ""
            raise DataError(f"{self.path}, column '{self._column}': {error}{doubt}") from None
        except ARROW_ERRORS as error:
            raise _damaged(self.path, error) from error
        # Among rows of whole numbers one of fractions is of another range, or damaged.
        return _Range(factor, whole=factor == 1 and options.pixels == "auto" and 2 * fractional <= rows)

    def _rows(self, first: int, count: int) -> Any:
        if self._file is None:
            self._file = open_file(self.path)
        group = int(np.searchsorted(self._starts, first, side="right")) - 1
        if self._batches is None or not self._at <= first or self._starts[group] > self._at + self._held():
            self._batches = self._file.iter_batches(
                READ_ROWS, row_groups=list(range(group, len(self._starts) - 1))
            )
            self._at, self._rest = int(self._starts[group]), None
        tables = [] if self._rest is None else [self._rest]
        held = self._held()
        while self._at + held < first + count:
            if (read := next(self._batches, None)) is None:
                raise DataError(f"{self.path} has fewer rows than it declares: restore it and run again")
            batch = pa.Table.from_batches([read])
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


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _element(kind: Any) -> Any:
    """Return the type of the elements of lists, possibly nested, or of tensors; of another type, itself."""
    while _is_list(kind) or isinstance(kind, pa.BaseExtensionType):
        kind = kind.value_type if _is_list(kind) else kind.storage_type
    return kind


def _is_images(kind: Any) -> bool:
    """Return whether a column's type is image files, or lists of numbers, possibly nested."""
    return _is_files(kind) or (not _is_number(kind) and _is_number(_element(kind)))


def _image_column(path: Path, schema: Any, column: str | None) -> str:
    """Return the column of the images."""
    fit = [field.name for field in schema if _is_images(field.type)]
    if column is not None:
        if column in fit:
            return column
        if column in schema.names:
            raise DataError(
                f"{path}: the column '{column}' is {schema.field(column).type}; images are bytes or {PIXELS} numbers"
            )
        raise DataError(f"{path} has no column '{column}'{nearest(column, schema.names)}")
    usual = [name for name in fit if name.lower() in USUAL_NAMES]
    candidates = fit if len(fit) == 1 else usual
    if len(candidates) != 1:
        found = f"is ambiguous between {', '.join(fit)}: choose with --column" if fit else "is not there"
        raise DataError(f"{path}: the column of the images (bytes, or {PIXELS} numbers) {found}")
    return str(candidates[0])


class _Lists(NamedTuple):
    """A batch of lists of numbers."""

    numbers: npt.NDArray[Any]
    """`[k, 784]`: the rows that have as many; floats with NaN for null if a number is null."""
    rows: npt.NDArray[np.int64]
    """`int64[k]`: their places in the batch."""
    errors: dict[int, str]
    """The place of each other row, and why it is no image."""


def _lists(images: Any) -> _Lists:
    """Return the rows of 784 numbers, or 28 lists of 28, of an array of lists."""
    flat, lengths = images, np.ones(len(images), np.int64)
    nulls = np.asarray(images.is_null())
    while not _is_number(flat.type):  # sum the lengths of nested lists
        if isinstance(flat.type, pa.BaseExtensionType):
            flat = flat.storage
            continue
        inner = np.asarray(pc.list_value_length(flat).fill_null(0))
        ends = np.cumsum(lengths)
        sums = np.concatenate([[0], np.cumsum(inner)])
        lengths = sums[ends] - sums[ends - lengths]
        flat = flat.flatten()
    values = flat.to_numpy(zero_copy_only=False)
    ends = np.cumsum(lengths)
    errors = {
        row: "the image is null"
        if nulls[row]
        else f"the image is a list of {lengths[row]} numbers; {PIXELS} are required"
        for row in np.flatnonzero((lengths != PIXELS) | nulls).tolist()
    }
    whole = np.flatnonzero((lengths == PIXELS) & ~nulls)
    if errors:
        values = values[(ends[whole] - PIXELS)[:, None] + np.arange(PIXELS)]
    return _Lists(values.reshape(len(whole), PIXELS), whole, errors)


def _numbers(images: Any, used: _Range) -> tuple[npt.NDArray[np.uint8], dict[int, str]]:
    """Return `uint8[n, 28, 28]` from an array of lists of numbers, and an error for each row that is no image."""
    numbers, rows, errors = _lists(images)
    pixels = np.zeros((len(images), PIXELS), np.uint8)
    if numbers.dtype != np.uint8:
        right = (numbers >= 0) & (numbers <= 255)  # false for NaN, which is a null
        if used.whole:
            right &= numbers == np.floor(numbers)
        for at in np.flatnonzero(~right.all(axis=1)).tolist():
            pixel = int(np.flatnonzero(~right[at])[0])
            kind = "whole numbers" if used.whole else "numbers"
            errors[int(rows[at])] = (
                f"pixel {pixel} is {numbers[at, pixel]:g}; {kind} from 0 to 255 are required"
            )
        good = right.all(axis=1)
        numbers, rows = numbers[good], rows[good]
    pixels[rows] = scale(numbers, used.factor)
    return pixels.reshape(len(images), IMAGE_SIZE, IMAGE_SIZE), errors


def open_file(path: Path, buffer_bytes: int = STREAM_BUFFER) -> Any:
    """Open a Parquet file, of which each column is read by a buffer of that size.

    Raises:
        DataError: it is none, or damaged.
    """
    try:
        return pq.ParquetFile(path, buffer_size=buffer_bytes, pre_buffer=False)
    except ARROW_ERRORS as error:
        raise DataError(f"{path} is not a Parquet file, or damaged: {one_line(error, 200)}") from error


def _label_reader(
    path: Path, schema: Any, image_column: str, label_column: str | None
) -> Callable[[], LabelColumn | None] | None:
    """Return the function that reads the labels, None if no column has them; it raises if several may."""
    names = [
        field.name
        if field.name != image_column and (label_column is not None or _is_label(field.type))
        else ""
        for field in schema
    ]
    place, doubt = label_place(names, str(path), label_column)
    if place is None and not doubt:
        named = [name for name in _class_labels(schema) if name in names]
        if len(named) > 1:
            doubt = f"{path}: the labels may be in {listing(named, 5)}: choose with --label-column"
        place = names.index(named[0]) if len(named) == 1 else None
    if doubt:
        return partial(refuse, doubt)
    return None if place is None else partial(read_labels, path, names[place])


def _is_label(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(is_text(kind) or _is_number(kind) or pa.types.is_boolean(kind))


def read_labels(path: Path, column: str) -> LabelColumn:
    """Read a column of labels, with the names that the file has for its numbers.

    Raises:
        DataError: the file is damaged, or the labels are neither whole numbers nor names.
    """
    try:
        with open_file(path) as file:
            schema = file.schema_arrow
            return _labels_in(
                file.read(columns=[column]).column(0), schema, column, f"{path}, column '{column}'"
            )
    except ARROW_ERRORS as error:
        raise _damaged(path, error) from error


def _labels_in(values: Any, schema: Any, column: str, where: str) -> LabelColumn:
    kind = values.type
    if (names := _class_labels(schema).get(column)) and _is_number(kind):
        values = pc.if_else(pc.equal(values, UNLABELLED), None, values)
        return labels_of(values, where).named(dict(enumerate(names)), where)
    if pa.types.is_dictionary(kind) and is_text(kind.value_type) and column in _categorical(schema):
        encoded = values.unify_dictionaries().combine_chunks()
        return of_codes(encoded.indices.fill_null(UNKNOWN).to_numpy(), encoded.dictionary.to_pylist())
    return labels_of(values, where)


def _metadata(schema: Any, key: bytes) -> Any:
    """Return what a library wrote into a schema's metadata as JSON; None if it is not there or unreadable."""
    try:
        return json.loads((schema.metadata or {}).get(key, b"null"))
    except (ValueError, RecursionError):
        return None


def _class_labels(schema: Any) -> dict[str, list[str]]:
    """Return the names of the classes of each column of labels, as Hugging Face's `datasets` writes them."""
    match _metadata(schema, b"huggingface"):
        case {"info": {"features": dict(features)}}:
            return {
                column: feature["names"]
                for column, feature in features.items()
                if isinstance(feature, dict)
                and feature.get("_type") == "ClassLabel"
                and isinstance(feature.get("names"), list)
                and all(isinstance(name, str) for name in feature["names"])
            }
        case _:
            return {}


def _categorical(schema: Any) -> set[str]:
    """Return the columns that were pandas' categorical ones, whose categories have an order."""
    match _metadata(schema, b"pandas"):
        case {"columns": list(columns)}:
            found = [column for column in columns if isinstance(column, dict)]
            return {str(column.get("name")) for column in found if column.get("pandas_type") == "categorical"}
        case _:
            return set()


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} cannot be read: {one_line(error, 200)}; restore it and run again")
