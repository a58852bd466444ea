"""Encoders of parts: Parquet, CSV and JSON lines. The same rows give the same bytes."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from imagesets.lazy_strings import LazyStrings, is_repeat, length
from serving.scoring.records import Chunk, Predictions
from serving.scoring.settings import Format

PREFIX = "input_"
"""Prefix of a passed-through column that has the name of an output column."""

_FLAT = "probability_"
_FORMULA = r"^'*[=+\-@\t\r]"
"""Texts that spreadsheets compute (owasp.org/www-community/attacks/CSV_Injection), and those that the apostrophe, which
the reader takes away, would make of others."""
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_DICTIONARIES = ("source", "label", "warning", "error", "model", "top_labels.list.element")


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Everything that determines a part's columns."""

    format: Format
    classes: tuple[str, ...]
    digest: str
    top: int | None
    """How many classes are written; None is all, in the model's order."""
    csv_safe: bool
    """Whether texts in CSV that a spreadsheet would take for formulas begin with an apostrophe."""
    columns: Any
    """The `pyarrow.Schema` of the passed-through columns."""

    def encode(self, chunk: Chunk, predictions: Predictions) -> bytes:
        """Return a part's file."""
        table = self._table(chunk, predictions)
        return _ENCODERS[self.format](self, table)

    def _table(self, chunk: Chunk, predictions: Predictions) -> Any:
        count = len(chunk)
        good = np.ones(count, bool)
        good[list(chunk.errors)] = False
        columns: dict[str, Any] = {
            "source": _strings(chunk.sources),
            "row": _strings(chunk.rows),
            "label": _masked(pa.array(self.classes, pa.string()).take(pa.array(predictions.indices)), good),
            "index": pa.array(predictions.indices.astype(np.int32), mask=~good),
            "probability": pa.array(predictions.confidences, mask=~good),
        }
        columns |= self._probabilities(predictions.probabilities, good)
        columns["warning"] = _texts(chunk.warnings, count)
        columns["error"] = _texts(chunk.errors, count)
        columns["model"] = pa.repeat(self.digest, count)
        passed = passed_through(chunk.columns, self.columns)
        for name in passed.column_names:
            columns[PREFIX + name if name in columns else name] = passed.column(name).combine_chunks()
        metadata = {"classes": orjson.dumps(self.classes), "model": self.digest}
        return pa.table(columns).replace_schema_metadata(metadata)

    def _probabilities(
        self, probabilities: npt.NDArray[np.float32], good: npt.NDArray[np.bool_]
    ) -> dict[str, Any]:
        if self.top is None:
            return {"probabilities": _lists(pa.array(probabilities.reshape(-1)), len(self.classes), good)}
        top = min(self.top, len(self.classes))
        # A stable sort, as in /predict: of equal probabilities the first class comes first.
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        names = pa.array(self.classes, pa.string()).take(pa.array(order.reshape(-1)))
        values = pa.array(np.take_along_axis(probabilities, order, axis=1).reshape(-1))
        return {"top_labels": _lists(names, top, good), "top_probabilities": _lists(values, top, good)}


def passed_through(stretches: Sequence[Any], schema: Any) -> Any:
    """Return the passed-through columns of all rows; null where a source does not have them."""
    tables = [
        pa.table({name: pa.nulls(count, kind) for name, kind in zip(schema.names, schema.types, strict=True)})
        if table is None
        else table
        for count, table in stretches
    ]
    if not len(schema):
        return pa.table({})
    return pa.concat_tables(tables, promote_options="default").select(schema.names).cast(schema)


def _strings(names: LazyStrings | Sequence[str]) -> Any:
    """Return strings as an Arrow array, without creating a Python string for each number."""
    if not isinstance(names, LazyStrings):
        return pa.array(names, pa.string())
    arrays = []
    for piece in names.pieces:
        if isinstance(piece, range):
            arrays.append(pa.array(np.arange(piece.start, piece.stop)).cast(pa.string()))
        elif is_repeat(piece):
            arrays.append(pa.repeat(str(piece[0]), length(piece)))
        else:
            arrays.append(pa.array(piece, pa.string()))
    return pa.concat_arrays(arrays)


def _masked(array: Any, good: npt.NDArray[np.bool_]) -> Any:
    return array if good.all() else pa.compute.if_else(pa.array(good), array, None)


def _texts(by_row: Mapping[int, str], count: int) -> Any:
    if not by_row:
        return pa.nulls(count, pa.string())
    return pa.array([by_row.get(row) for row in range(count)], pa.string())


def _lists(values: Any, length: int, good: npt.NDArray[np.bool_]) -> Any:
    """Return `values` as lists of equal length, null where a row is not good."""
    lengths = np.where(good, length, 0)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    if good.all():
        return pa.ListArray.from_arrays(pa.array(offsets), values)
    kept = values.filter(pa.array(np.repeat(good, length)))
    return pa.ListArray.from_arrays(pa.array(offsets), kept, mask=pa.array(~good))


def _parquet(layout: Layout, table: Any) -> bytes:
    del layout
    buffer = io.BytesIO()
    with parquet_writer(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def parquet_writer(sink: Any, schema: Any) -> Any:
    """Return a writer that makes a row group of each table."""
    return pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=list(_DICTIONARIES),
        write_statistics=["source", "label", "index", "probability", "error"],
        store_schema=True,
    )


def _flat(layout: Layout, table: Any) -> Any:
    """Return a table with a column for each class, or each of the top k, instead of lists."""
    columns: dict[str, Any] = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        if name == "probabilities":
            for place, label in enumerate(layout.classes):
                columns[_FLAT + label] = pa.compute.list_element(column, place)
        elif name in ("top_labels", "top_probabilities"):
            stem = "label_" if name == "top_labels" else _FLAT
            for place in range(min(layout.top or 0, len(layout.classes))):
                columns[f"{stem}{place + 1}"] = pa.compute.list_element(column, place)
        else:
            columns[name] = column
    return pa.table(columns)


def _csv(layout: Layout, table: Any) -> bytes:
    """Return CSV (RFC 4180) with a header row; lists and structs are JSON."""
    flat = _flat(layout, table)
    for place, field in enumerate(flat.schema):
        if pa.types.is_nested(field.type) or pa.types.is_binary(field.type):
            values = [_plain_text(value) for value in flat.column(place).to_pylist()]
            flat = flat.set_column(place, field.name, pa.array(values, pa.string()))
    if layout.csv_safe:
        columns = [_safe(flat.column(place)) for place in range(flat.num_columns)]
        flat = pa.table(columns, names=_safe(pa.chunked_array([flat.column_names])).to_pylist())
    buffer = io.BytesIO()
    options = pyarrow.csv.WriteOptions(include_header=True, quoting_style="needed")
    pyarrow.csv.write_csv(flat, buffer, options)
    return buffer.getvalue()


def _safe(column: Any) -> Any:
    """Return a column, its texts with an apostrophe before what a spreadsheet would compute; numbers stay."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column
    matches = pa.compute.match_substring_regex
    is_formula = pa.compute.and_not(matches(column, _FORMULA), matches(column, _NUMBER))
    if not pa.compute.any(is_formula).as_py():
        return column
    return pa.compute.if_else(is_formula, pa.compute.binary_join_element_wise("'", column, ""), column)


def _plain_text(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value, default=_plain, option=_JSON).decode()


_JSON = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


def _jsonl(layout: Layout, table: Any) -> bytes:
    """Return an object per line for each row; numbers have as many digits as a float32 needs."""
    plain = {name: table.column(name).to_pylist() for name in table.column_names if name not in _LISTED}
    names = list(table.column_names)
    labels: Sequence[Any]
    if layout.top is None:
        rows = _float_rows(table.column("probabilities"), len(layout.classes))
        shown = [None if row is None else dict(zip(layout.classes, row, strict=True)) for row in rows]
    else:
        rows = _float_rows(table.column("top_probabilities"), min(layout.top, len(layout.classes)))
        labels = table.column("top_labels").to_pylist()
        shown = [
            None if row is None else dict(zip(label, row, strict=True))
            for label, row in zip(labels, rows, strict=True)
        ]
    confidences = table.column("probability").combine_chunks()
    present = np.asarray(confidences.is_valid())
    values = confidences.fill_null(0).to_numpy()
    plain["probability"] = [value if there else None for value, there in zip(values, present, strict=True)]
    plain["probabilities"] = shown
    order = list(dict.fromkeys(_JSON_NAMES.get(name, name) for name in names))
    lines = (
        orjson.dumps(dict(zip(order, row, strict=True)), default=_plain, option=_JSON)
        for row in zip(*(plain[name] for name in order), strict=True)
    )
    return b"".join(line + b"\n" for line in lines)


_LISTED = ("probability", "probabilities", "top_labels", "top_probabilities")
_JSON_NAMES = {"top_labels": "probabilities", "top_probabilities": "probabilities"}


def _float_rows(column: Any, length: int) -> list[Any]:
    """Return each list as `float32[length]`, which orjson writes with fewer digits than float64."""
    array = column.combine_chunks()
    present = np.asarray(array.is_valid())
    values = iter(array.flatten().to_numpy().reshape(-1, length))
    return [next(values) if there else None for there in present.tolist()]


def _plain(value: Any) -> Any:
    """Return a string for a type that JSON does not have: bytes decoded, others by `str`."""
    return value.decode("utf-8", errors="backslashreplace") if isinstance(value, bytes) else str(value)


_ENCODERS: dict[Format, Callable[[Layout, Any], bytes]] = {"parquet": _parquet, "csv": _csv, "jsonl": _jsonl}
