"""Reads tables of labels (`label_tables.py`): CSV, TSV and text, compressed or not, headed or not; and Parquet."""

import csv
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from imagesets.errors import DataError
from imagesets.label_tables import LABEL_HEADINGS, NAME_HEADINGS, SPLIT_HEADINGS, LabelTable
from imagesets.names.file_names import without_compression
from imagesets.streams import READ_ERRORS, opener_of, unreadable_error

TABLE_ENDINGS = (".csv", ".tsv", ".parquet")
MAX_LINE = 1 << 20
"""Longest first line."""
BLOCK = 1 << 24
MAX_BYTES = 1 << 32
"""Largest table, decompressed: 100 million rows."""


def is_label_table(name: str) -> bool:
    """Return whether a file is a table by its ending."""
    return without_compression(name).lower().endswith(TABLE_ENDINGS)


def read_label_table(path: Path, *, name: str = "", classes: Collection[str] = ()) -> LabelTable:
    """Read a table of labels: CSV, TSV or text of one label a line, compressed or not, or Parquet.

    Args:
        path: the file.
        name: of the file for messages and its ending, by default `path`.
        classes: of the model: a first line that is one of them is a label, and no header.

    Raises:
        DataError: it cannot be read, is empty, or its lines have different numbers of cells.
    """
    name = name or str(path)
    if not path.is_file():
        raise DataError(
            f"{name} is not a regular file: give a file of labels"
            if path.exists()
            else f"{name} cannot be read: No such file or directory"
        )
    try:
        if without_compression(name).lower().endswith(".parquet"):
            return _of_parquet(path, name)
        with opener_of(path)() as file:
            data = file.read(MAX_BYTES + 1)
    except (MemoryError, *READ_ERRORS) as error:
        raise unreadable_error(name, error) from error
    if len(data) > MAX_BYTES:
        raise DataError(f"{name} has more than {MAX_BYTES:,} bytes: give a table of names and labels")
    return label_table_of(data, name, classes=classes)


def label_table_of(data: bytes, name: str, *, classes: Collection[str] = ()) -> LabelTable:
    """Return the table in the bytes of a CSV, TSV or text file; see `read_label_table`."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    start = data.lstrip(b"\r\n")[:MAX_LINE]
    line = start.splitlines()[0] if start else b""
    if not line.strip():
        raise DataError(f"{name} is empty")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise DataError(f"{name} cannot be read: it is not UTF-8; save it as UTF-8 text") from None
    delimiter = (
        max(",;\t", key=text.count) if not without_compression(name).lower().endswith(".tsv") else "\t"
    )
    cells = [cell.strip() for cell in next(csv.reader([text], delimiter=delimiter), [])]
    headed = _is_header(cells, classes)
    names = _unique(cells) if headed else [str(number) for number in range(1, len(cells) + 1)]
    columns = _columns(data, name, delimiter, names, headed)
    if not len(next(iter(columns.values()))):
        raise DataError(f"{name} has a header and no rows")
    return LabelTable(where=name, columns=columns, headed=headed)


def _is_header(cells: Sequence[str], classes: Collection[str]) -> bool:
    """Return whether the cells of a first line name columns."""
    if len(cells) == 1:
        return cells[0].lower() in LABEL_HEADINGS and cells[0] not in classes
    usual = [cell for cell in cells if cell.lower() in (*LABEL_HEADINGS, *NAME_HEADINGS, *SPLIT_HEADINGS)]
    if usual:  # a column for each class is named as the class is
        return any(cell not in classes for cell in usual)
    # A header has no numbers, nor names of files or classes; the first, of an index, may be empty.
    return not any(
        cell in classes or cell.replace(".", "", 1).lstrip("+-").isdigit() or "." in cell or "/" in cell
        for cell in cells
    ) and all(cells[1:])


def _unique(cells: Sequence[str]) -> list[str]:
    """Return names of columns; a second one of a name gets its number."""
    return [cell if cells.index(cell) == at else f"{cell} ({at + 1})" for at, cell in enumerate(cells)]


def _columns(data: bytes, name: str, delimiter: str, names: Sequence[str], headed: bool) -> dict[str, Any]:
    """Return the cells of a file by column."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    wrong: list[Any] = []

    def invalid(row: Any) -> str:
        wrong.append(row)
        return "error"

    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(data),
            read_options=arrow_csv.ReadOptions(
                column_names=names, skip_rows=0, skip_rows_after_names=int(headed), block_size=BLOCK
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=b'"' in data, invalid_row_handler=invalid
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types={column: pa.large_string() for column in names}, strings_can_be_null=False
            ),
        )
    except (pa.ArrowException, MemoryError) as error:
        if wrong:
            raise DataError(
                f"{name} has lines of {wrong[0].expected_columns} and of {wrong[0].actual_columns} cells: give each as "
                "many, as in row,label"
            ) from None
        raise DataError(f"{name} cannot be read: {' '.join(str(error).split())[:200]}") from None
    import pyarrow.compute as pc

    return {column: pc.utf8_trim_whitespace(_flat(table.column(column))) for column in names}


def _of_parquet(path: Path, name: str) -> LabelTable:
    """Read the columns of text and of whole numbers of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            kinds = {field.name: field.type for field in schema}
            wanted = [column for column, kind in kinds.items() if _is_plain(kind)]
            if not wanted or not file.metadata.num_rows:
                raise DataError(f"{name} has no rows of names and labels: its columns are {', '.join(kinds)}")
            table = file.read(columns=wanted)
        columns = {column: _flat(table.column(column)).cast(pa.large_string()) for column in wanted}
    except (pa.ArrowException, MemoryError) as error:
        raise unreadable_error(name, error) from error
    return LabelTable(where=name, columns=columns, headed=True)


def _is_plain(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
    )


def _flat(column: Any) -> Any:
    """Return a chunked column as one array of large strings, or of its type."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type):
        column = column.cast(pa.large_string())
    found = column.combine_chunks()
    return found if not isinstance(found, pa.ChunkedArray) else pa.concat_arrays(found.chunks)
