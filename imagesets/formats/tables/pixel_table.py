"""From a table with a column for each pixel, in batches, to a source of images with its labels."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bundle.images.contract import PIXELS
from imagesets.errors import DataError
from imagesets.formats.arrays.array_source import ArraySource
from imagesets.formats.arrays.numbers import convert
from imagesets.formats.files.listing import ScratchFile
from imagesets.formats.tables.pixel_columns import TableColumns
from imagesets.labels import LabelColumn, column_of
from imagesets.source import Options

CHUNK_IMAGES = 4096
"""Images that are converted at once."""
MOST_CLASSES = 100
"""Distinct values that an unnamed column of labels may have."""
MOST_OF_ONE = 0.9
"""Share of the most frequent value of an unnamed column of labels; in the corner of an image nearly all are equal."""

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?|nan", re.ASCII | re.IGNORECASE)
_JSON_NUMBER = r"^-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?$"


class BadCellError(ValueError):
    """A cell is not a pixel."""

    def __init__(self, row: int, column: int, value: object) -> None:
        super().__init__(f"row {row}, column {column} is {value}")
        self.row = row
        self.column = column
        self.value = value


def spool_table(
    name: str,
    path: Path,
    batches: Iterable[Any],
    names: list[str],
    columns: TableColumns,
    dtype: "np.dtype[Any]",
    options: Options,
    *,
    typed: bool,
    **fields: Any,
) -> ArraySource:
    """Return the source of a table's images; its labels, and the columns that are no pixels, are held in memory.

    Args:
        name: of the source.
        path: of the file.
        batches: `pyarrow.RecordBatch`es with all columns, read once.
        names: of the columns.
        columns: what they are.
        dtype: uint8 if the pixels' columns are of that type, else float32.
        options: how numbers are read.
        typed: whether the file says that type; a text's numbers have none of which 0..255 would be usual.
        fields: of the ArraySource.

    Raises:
        BadCellError: a cell is empty, or is not from 0 to 255.
        DataError: there are no rows, the range of the numbers is in doubt, or no column is surely the label.
    """
    kept = sorted(
        {*columns.others, *(columns.ends or ()), *(() if columns.label is None else (columns.label,))}
    )
    scratch = ScratchFile()
    held: list[Any] = []
    count = 0
    for batch in batches:
        scratch.file.write(_matrix(batch, columns.pixels, dtype, count).data)
        held.append(batch.select(kept))
        count += batch.num_rows
    scratch.file.flush()
    if count == 0:
        raise DataError(f"{name} has no images: there is no row of pixels in it")
    rest = dict(zip(kept, pa.Table.from_batches(held).columns, strict=True)) if kept else {}
    border = None
    if columns.ends is not None:
        columns, border = _told_apart(name, columns, rest)
    if columns.label is not None:
        fields["read_labels"] = partial(labels_of, rest[columns.label], name)
    elif columns.doubt:
        fields["read_labels"] = partial(refuse, columns.doubt)
    if (table := _table(rest, names, columns)) is not None:
        fields |= {"columns": table.schema, "table": table}
    chunks = partial(_chunks, scratch, count, dtype, len(columns.pixels), border)
    judged = dtype if typed or dtype != np.uint8 else np.dtype(np.int64)
    if judged == np.uint8 and max(int(chunk.max()) for chunk in chunks()) == 1:
        options.say(
            f"{name}: all pixels are 0 or 1 of 255, nearly black: declare --pixels 0..1 if 1 is white"
        )
    return convert(name, path, chunks, judged, options, **fields)


def _matrix(batch: Any, places: tuple[int, ...], dtype: "np.dtype[Any]", first: int) -> npt.NDArray[Any]:
    """Return a batch's pixels, `[n, pixels]`."""
    kind = pa.from_numpy_dtype(dtype)
    picked = [batch.column(place) for place in places]
    arrays = [array if array.type == kind else pc.cast(array, kind, safe=False) for array in picked]
    columns = pa.RecordBatch.from_arrays(arrays, names=list(map(str, places)))
    empty = next((place for place, array in zip(places, arrays, strict=True) if array.null_count), None)
    if empty is not None:
        row = pc.index(batch.column(empty).is_null(), value=True).as_py()
        raise BadCellError(first + row, empty, "empty")
    matrix: npt.NDArray[Any] = columns.to_tensor().to_numpy()
    if dtype != np.uint8:
        wrong = np.argwhere(~((matrix >= 0) & (matrix <= 255)))
        if len(wrong):
            row, at = wrong[0].tolist()
            raise BadCellError(first + row, places[at], f"{matrix[row, at]:g}")
    return np.ascontiguousarray(matrix)


def _chunks(
    scratch: ScratchFile,
    count: int,
    dtype: "np.dtype[Any]",
    width: int,
    border: tuple[bool, npt.NDArray[np.float32]] | None,
) -> Iterator[npt.NDArray[Any]]:
    """Yield the pixels of a scratch file, `[n, 784]`, with the border column before or behind them."""
    size = width * dtype.itemsize
    for first in range(0, count, CHUNK_IMAGES):
        rows = min(CHUNK_IMAGES, count - first)
        data = os.pread(scratch.file.fileno(), rows * size, first * size)
        chunk = np.frombuffer(data, dtype).reshape(rows, width)
        if border is not None:
            leads, values = border
            column = values[first : first + rows, None]
            if dtype == np.uint8 and bool((column == np.floor(column)).all()):
                column = column.astype(np.uint8)
            chunk = np.concatenate([column, chunk] if leads else [chunk, column], axis=1)
        yield chunk


def _told_apart(
    name: str, columns: TableColumns, rest: dict[int, Any]
) -> tuple[TableColumns, tuple[bool, npt.NDArray[np.float32]]]:
    """Return the columns with the label that their content tells, and the other one's numbers as pixels.

    Raises:
        BadCellError: the other one has a cell that is not a pixel.
        DataError: both or neither may be the label.
    """
    first, last = columns.ends or (0, 0)
    fits = [_is_like_labels(rest[place]) for place in (first, last)]
    if fits[0] == fits[1]:
        which = (
            "both the first and the last may be" if fits[0] else "neither the first nor the last is surely"
        )
        raise DataError(
            f"{name} has {PIXELS + 1} columns, of which {which} the label, by their values: say --label-column first "
            "or --label-column last"
        )
    label, pixel = (first, last) if fits[0] else (last, first)
    numbers = np.array([_float(value) for value in rest[pixel].to_pylist()], np.float32)
    wrong = np.flatnonzero(~((numbers >= 0) & (numbers <= 255)))
    if len(wrong):
        raise BadCellError(int(wrong[0]), pixel, rest[pixel][int(wrong[0])].as_py() or "empty")
    return replace(columns, label=label, ends=None), (pixel == first, numbers)


def _is_like_labels(column: Any) -> bool:
    """Return whether a column's values are names, or a few whole numbers without large gaps, none of which prevails."""
    counted = pc.value_counts(column.combine_chunks())
    values = [_float(value) for value in counted.field("values").to_pylist()]
    shares = counted.field("counts").to_numpy() / len(column)
    if any(value is None for value in values):
        return True
    numbers = np.array(values)
    if not (np.isfinite(numbers).all() and (numbers == np.floor(numbers)).all() and numbers.min() >= 0):
        return False
    spread = numbers.max() - numbers.min() + 1
    return bool(
        2 <= len(numbers) <= MOST_CLASSES and 2 * len(numbers) >= spread and shares.max() <= MOST_OF_ONE
    )


def _float(value: Any) -> float | None:
    """Return a cell as a number, NaN if it is empty, None if it is a name."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return float("nan")
    if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()):
        return None
    return float(value)


def _table(rest: dict[int, Any], names: list[str], columns: TableColumns) -> Any:
    """Return the columns that are passed through, the label among them; None if there are none."""
    places = sorted({*columns.others, *(() if columns.label is None else (columns.label,))})
    # A label that has no name is called so.
    called = {p: "label" if p == columns.label and names[p].isdecimal() else names[p] for p in places}
    found = {called[place]: _typed(rest[place]) for place in places}
    return pa.table(found) if found else None


def _typed(column: Any) -> Any:
    """Return a column of text as numbers, if all of it are and would be written so again."""
    if not pa.types.is_string(column.type) or not len(column):
        return column
    if not pc.all(pc.match_substring_regex(column, _JSON_NUMBER)).as_py():
        return column
    whole = not pc.any(pc.match_substring(column, ".")).as_py()
    return pc.cast(column, pa.int64() if whole else pa.float64())


def refuse(doubt: str) -> NoReturn:
    """Raise the error of labels that may be in several columns, when they are asked for.

    Raises:
        DataError: always.
    """
    raise DataError(doubt)


def is_text(kind: Any) -> bool:
    """Return whether an Arrow type is text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def labels_of(column: Any, where: str) -> LabelColumn:
    """Return the labels in a column of a table, of numbers or text, which may be dictionary-encoded.

    Raises:
        DataError: they are neither whole numbers nor names.
    """
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return column_of(
            column.to_numpy() if not column.null_count else column.cast(pa.float64()).to_numpy(), where
        )
    if is_text(kind):
        encoded = column.combine_chunks().dictionary_encode()
        distinct = [_float(value) for value in encoded.dictionary.to_pylist()]
        if distinct and all(value is not None for value in distinct):
            codes = encoded.indices.fill_null(len(distinct)).to_numpy()
            return column_of(np.array([*distinct, np.nan], np.float64)[codes], where)
    if pa.types.is_boolean(kind):
        column = pc.cast(column, pa.int8())
    try:
        return column_of(column.to_pylist(), where)
    except ValueError:  # NumPy's, of lists of different lengths
        raise DataError(f"{where} has labels of type {kind}; give whole numbers or names") from None
