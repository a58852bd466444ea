"""Tables of numbers as text: a row for each image, separated by commas, tabs, semicolons, bars or blanks.

The first line is names if most of its cells are no numbers, or if its numbers are those of columns (`0, 1, 2, ...`, or
`0, 0.1, 0.2, ...`, which pandas makes of a first row of equal cells). What the columns are, `pixel_columns.py` says.
"""

import csv
import io
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from common.errors import one_line
from imagesets.errors import DataError
from imagesets.formats.tables.pixel_columns import (
    FEWEST,
    TableColumns,
    find_columns,
    label_place,
    needing_arrow,
)
from imagesets.labels import LabelColumn, column_of
from imagesets.source import Options, Source
from imagesets.streams import READ_ERRORS, opener_of, raw_sha256, unreadable_error

MAX_LINE = 1 << 20
"""Longest line: 784 numbers of double precision have 20 kB."""
BLOCK_BYTES = 1 << 22
"""Text that is parsed at once; a line must fit in."""
CHUNK_BYTES = 1 << 20
MOST_KNOWN = 1 << 16
"""Distinct cells that the search for a bad one remembers."""

_MANGLED = re.compile(r"(\d+)(?:\.(\d+))?", re.ASCII)
_BOM = b"\xef\xbb\xbf"


class _Form(NamedTuple):
    """How a file's lines are to be read."""

    open: Callable[[], IO[bytes]]
    delimiter: str
    """Empty for any number of blanks."""
    names: tuple[str, ...]
    """Of the columns; numbers from 0 without a header; empty for a column without name and content."""
    header: bool
    first: int
    """Number of the first line that is not blank, from 1."""


class _LineError(ValueError):
    """A line is no text of usual length; the message begins with its number."""


def open_csv(name: str, path: Path, options: Options) -> list[Source]:
    """Open a table of pixels.

    Raises:
        DataError: it is none, a row has another number of cells or a cell that is no pixel, or what the columns are or
            the range of the numbers is in doubt.
    """
    form = _read_form(name, path)
    columns = find_columns(form.names, name, options.label_column)
    with needing_arrow(name):
        import pyarrow as pa

        from imagesets.formats.tables.pixel_table import BadCellError, spool_table
    # Most tables are of whole numbers from 0 to 255, which are read at once as bytes; others are read again.
    for dtype in (np.dtype(np.uint8), np.dtype(np.float32)):
        names = [text or f"column {place}" for place, text in enumerate(_unique(form.names))]
        try:
            return [
                spool_table(
                    name,
                    path,
                    _batches(form, columns, dtype),
                    names,
                    columns,
                    dtype,
                    options,
                    typed=False,
                    read_sha256=lambda: raw_sha256(path),
                )
            ]
        except (pa.ArrowInvalid, BadCellError) as error:
            if dtype != np.uint8:
                raise _what_is_wrong(name, path, form, columns, error) from None
        except READ_ERRORS as error:
            raise unreadable_error(path, error) from error
    raise AssertionError


def has_pixels(name: str, path: Path) -> bool:
    """Return whether a table has so many columns that they are pixels, and not the names and labels of images.

    Raises:
        DataError: it cannot be read.
    """
    return len(_read_form(name, path).names) >= FEWEST


def read_csv_labels(path: Path, label_column: str | None = None) -> LabelColumn:
    """Read a table that has the labels alone, in the order of the images: in one column, named or not, or one-hot.

    Raises:
        DataError: it cannot be read, or has several columns of which none is named as labels are.
    """
    with needing_arrow(str(path)):
        import pyarrow as pa

        from imagesets.formats.tables.pixel_table import labels_of
    form = _read_form(str(path), path)
    rows = [row for _, row in _rows(str(path), path, form)]
    for row, cells in enumerate(rows):
        if len(cells) != len(form.names):
            raise DataError(
                f"{path} has {len(form.names)} columns, and {len(cells)} in row {row} of the labels"
            )
    place, doubt = label_place(form.names, str(path), label_column)
    if len(form.names) == 1:
        if form.header and place is None and any(_number(row[0]) is None for row in rows):
            rows.insert(0, list(form.names))  # a first name among names
        place = 0
    if place is not None:
        return labels_of(pa.chunked_array([[row[place] for row in rows]], pa.string()), str(path))
    try:
        if not doubt:
            return column_of(np.array(rows, np.float64), str(path))
    except ValueError:
        doubt = f"{path} has {len(form.names)} columns, none of them named label: choose with --label-column"
    raise DataError(doubt)


def _read_form(name: str, path: Path) -> _Form:
    """Read the first line that is not blank.

    Raises:
        DataError: there is none, or it is too long or no text.
    """
    try:
        opened = opener_of(path)
        with opened() as file:
            lines = ((number, raw.strip(b" \r\n")) for number, raw in enumerate(_lines(file), start=1))
            number, line = next(((number, line) for number, line in lines if line), (0, b""))
        if not line:
            raise DataError(f"{name} is empty")
        text = line.decode()
    except _LineError as error:
        raise DataError(f"{name}, {error}") from None
    except UnicodeDecodeError:
        raise DataError(f"{name} is not UTF-8: save the table as UTF-8 text") from None
    except READ_ERRORS as error:
        raise unreadable_error(path, error) from error
    delimiter = max(",\t;|", key=text.count)
    if text.count(delimiter) == 0 and all(_number(cell) is not None for cell in text.split()):
        delimiter = ""
    try:
        cells = text.split() if not delimiter else next(csv.reader([text], delimiter=delimiter))
    except csv.Error as error:
        raise DataError(f"{name}, line {number}: {error}") from None
    cells = [cell.strip() for cell in cells]
    if _is_header(cells):
        return _Form(opened, delimiter, tuple(cells), header=True, first=number)
    last = len(cells) - 1
    names = tuple(
        "label" if _number(cell) is None and cell else "" if place == last and not cell else str(place)
        for place, cell in enumerate(cells)
    )
    return _Form(opened, delimiter, names, header=False, first=number)


def _is_header(cells: Sequence[str]) -> bool:
    """Return whether the cells of a first line are the names of columns."""
    numbers = [number for cell in cells if (number := _number(cell)) is not None]
    if 2 * sum(bool(cell) for cell in cells) > 2 * len(numbers) + len(cells):
        return True
    if len(numbers) < FEWEST:
        return False
    return all(after - before == 1 for before, after in itertools.pairwise(numbers)) or _is_mangled(cells)


def _is_mangled(cells: Sequence[str]) -> bool:
    """Return whether cells are numbers that pandas has made unique: `0`, `0.1`, `0.2`, each number's from 1 on."""
    found: dict[str, set[int]] = defaultdict(set)
    matches = [match for cell in cells if (match := _MANGLED.fullmatch(cell))]
    for match in matches:
        found[match[1]].add(int(match[2] or 0))
    return (
        len(matches) >= max(FEWEST, len(cells) - 2)
        and sum(map(len, found.values())) == len(matches)
        and all(max(suffixes) == len(suffixes) - 1 for suffixes in found.values())
        and len(found) < len(matches)
    )


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _unique(names: Sequence[str]) -> list[str]:
    """Return names with a number behind those that occur again."""
    seen: dict[str, int] = defaultdict(int)
    unique = []
    for name in names:
        unique.append(f"{name}.{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return unique


def _batches(form: _Form, columns: TableColumns, dtype: "np.dtype[Any]") -> Iterator[Any]:
    """Yield the rows as `pyarrow.RecordBatch`es: pixels as `dtype`, all else as text."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    names = list(map(str, range(len(form.names))))
    types = dict.fromkeys(names, pa.string()) | {
        names[at]: pa.from_numpy_dtype(dtype) for at in columns.pixels
    }
    with form.open() as file:
        stream = _Stream(_text(file, form))
        reader = arrow_csv.open_csv(
            stream,
            read_options=arrow_csv.ReadOptions(column_names=names, block_size=BLOCK_BYTES),
            parse_options=arrow_csv.ParseOptions(delimiter=form.delimiter or ","),
            convert_options=arrow_csv.ConvertOptions(column_types=types, include_columns=names),
        )
        with reader:
            yield from reader


def _text(file: IO[bytes], form: _Form) -> Iterator[bytes]:
    """Yield a file's rows in pieces, blanks as commas."""
    for _ in itertools.islice(_lines(file), form.first if form.header else form.first - 1):
        pass
    bom = _BOM if form.first == 1 and not form.header else b""
    while piece := file.read(CHUNK_BYTES).removeprefix(bom):
        bom = b""
        if not form.delimiter:
            lines = (piece + file.readline(MAX_LINE)).split(b"\n")
            piece = b"".join(b",".join(line.split()) + b"\n" for line in lines)
        yield piece


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield a file's lines, the first without a byte order mark.

    Raises:
        _LineError: one is longer than MAX_LINE.
    """
    bom = _BOM
    for number in itertools.count(1):
        line = file.readline(MAX_LINE + 1).removeprefix(bom)
        if not line:
            return
        if len(line) > MAX_LINE:
            raise _LineError(f"line {number}: it has more than {MAX_LINE} bytes: give a line for each image")
        bom = b""
        yield line


def _decoded(lines: Iterator[bytes]) -> Iterator[str]:
    """Yield lines as text.

    Raises:
        _LineError: one is not UTF-8.
    """
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode()
        except UnicodeDecodeError:
            raise _LineError(f"line {number} is not UTF-8: save the table as UTF-8 text") from None


def _rows(name: str, path: Path, form: _Form) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the line, from 1, and the cells of each row that is not blank.

    Raises:
        DataError: the file cannot be read, or a line is too long, badly quoted, or not UTF-8.
    """
    number = 0
    try:
        with form.open() as file:
            texts = _decoded(_lines(file))
            if form.delimiter:
                reader = csv.reader(texts, delimiter=form.delimiter)
                rows = ((reader.line_num, row) for row in reader)
            else:
                rows = ((line, text.split()) for line, text in enumerate(texts, start=1))
            for number, row in rows:
                if row and number > form.first - (not form.header):
                    yield number, row
    except _LineError as error:
        raise DataError(f"{name}, {error}") from None
    except csv.Error as error:
        raise DataError(f"{name}, line {number + 1}: {error}") from None
    except READ_ERRORS as error:
        raise unreadable_error(path, error) from error


def _what_is_wrong(name: str, path: Path, form: _Form, columns: TableColumns, error: Exception) -> DataError:
    """Return the error that names the first line that is no image."""
    known: set[str] = set()
    places = sorted({*columns.pixels, *_end_pixels(columns, error)})
    line = 0
    for line, cells in _rows(name, path, form):
        where = f"{name}, line {line}"
        if len(cells) != len(form.names):
            return DataError(
                f"{where} has {len(cells)} cells; {len(form.names)} are required, as in line {form.first}"
            )
        if len(known) > MOST_KNOWN:
            known.clear()
        pixels = {cells[place] for place in places} - known
        bad = {cell for cell in pixels if (value := _number(cell)) is None or not 0 <= value <= 255}
        if bad:
            place = next(place for place in places if cells[place] in bad)
            column = f"'{form.names[place]}'" if form.header else f"{place + 1}"
            found = f"'{one_line(cells[place].strip(), 40)}'" if cells[place].strip() else "empty"
            return DataError(
                f"{where}: column {one_line(column, 60)} is {found}; a pixel is a number from 0 to 255"
            )
        known |= pixels
    if not line:
        return DataError(f"{name} has no images: there is no row of pixels in it")
    return DataError(f"{name} cannot be read as a table: {one_line(error)}")


def _end_pixels(columns: TableColumns, error: Exception) -> tuple[int, ...]:
    """Return the first or last column, if it is the one that has a bad cell."""
    column = getattr(error, "column", None)
    return (column,) if columns.ends is not None and column in columns.ends else ()


class _Stream(io.RawIOBase):
    """A file of the bytes that an iterator yields."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most `size`; none at the end."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = piece
        found, self._rest = self._rest[:size], self._rest[size:]
        return found
