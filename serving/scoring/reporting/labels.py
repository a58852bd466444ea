"""`--labels`: true labels to compare the predictions with, from a file or a column of the input.

    labels.idx1-ubyte, labels.npy          a number or name for each row, in the input's order
    labels.txt, labels.csv                 one per line, in the input's order
    labels.csv with a header               `row,label` (or `file,label`): by row id, in any order
    column:NAME                            a column of the Parquet input

A string is a class name, or else a class index; a number is always a class index, counted from 0.
"""

import csv
import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.configuration import nearest
from imagesets.array_files import read_idx_header
from serving.scoring.errors import InputError
from serving.scoring.inputs.arrays import opener_of
from serving.scoring.records import Chunk

COLUMN = "column:"
UNKNOWN = -1
ROW_HEADINGS = ("row", "file", "image", "path", "id")
LABEL_HEADINGS = ("label", "class", "target")
MAX_SHOWN_NAMES = 10

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """The true labels of the rows."""

    where: str
    """The value of `--labels`."""
    sha256: str
    """Of all labels, to recognize parts that were compared with other ones."""
    indices: Callable[[Chunk], Indices]
    """Returns `int64[n]`: the class of each row of a chunk, `UNKNOWN` for a row without a label."""
    count: int | None
    """Required number of rows; None if labels are matched by row id or are a column of the input."""

    def check(self, rows: int) -> None:
        """Check that there is one label for each row of the input.

        Raises:
            InputError: the numbers differ.
        """
        if self.count is not None and self.count != rows:
            raise InputError(
                f"--labels {self.where} has {self.count:,} labels and the input {rows:,} rows: give one for each "
                "row in the input's order, or a CSV file with the header row,label"
            )


def open_labels(given: str, classes: Sequence[str]) -> Labels:
    """Open labels from a file or a column of the input.

    Raises:
        InputError: the file cannot be read, or a label is not a class.
    """
    if given.startswith(COLUMN):
        return _column(given, classes)
    path = Path(given)
    try:
        kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
        if kind in ("csv", "txt", "tsv"):
            return _text(given, path, classes)
        if kind == "npy":
            with path.open("rb") as file:
                values = np.load(file, allow_pickle=False)
        else:
            values = _idx(path)
    except (OSError, EOFError, ValueError, zlib.error, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--labels {given} cannot be read: {reason}") from error
    if values.ndim != 1:
        raise InputError(
            f"--labels {given} has shape {list(values.shape)}; one label for each row is required"
        )
    return _in_order(given, _indices(values, classes, given), classes)


def _in_order(given: str, indices: Indices, classes: Sequence[str]) -> Labels:
    kept = indices.astype(np.min_scalar_type(-len(classes)))  # ten million labels take 10 MB

    def indices_of(chunk: Chunk) -> Indices:
        return kept[chunk.first : chunk.first + len(chunk)].astype(np.int64)

    digest = hashlib.sha256(b"in order" + indices.tobytes()).hexdigest()
    return Labels(where=given, sha256=digest, indices=indices_of, count=len(kept))


def _by_row(given: str, known: Mapping[str, int]) -> Labels:
    def indices_of(chunk: Chunk) -> Indices:
        return np.array([known.get(row, UNKNOWN) for row in chunk.rows], np.int64)

    digest = hashlib.sha256(b"by row")
    for row, index in sorted(known.items()):
        digest.update(f"{row}\0{index}\n".encode(errors="surrogatepass"))
    return Labels(where=given, sha256=digest.hexdigest(), indices=indices_of, count=None)


def _column(given: str, classes: Sequence[str]) -> Labels:
    name = given.removeprefix(COLUMN)

    def indices_of(chunk: Chunk) -> Indices:
        parts = []
        for count, table in chunk.columns:
            if table is None or name not in table.column_names:
                known = nearest(name, table.column_names) if table is not None and table.num_columns else ""
                raise InputError(f"--labels {given}: an input has no column '{name}'{known}")
            values = np.array(table.column(name).to_pylist(), dtype=object)
            parts.append(_indices(values, classes, given))
            if len(parts[-1]) != count:
                raise AssertionError("a stretch of columns has as many rows as it says")
        return np.concatenate(parts)

    return Labels(
        where=given, sha256=hashlib.sha256(given.encode()).hexdigest(), indices=indices_of, count=None
    )


def _text(given: str, path: Path, classes: Sequence[str]) -> Labels:
    opener: Callable[..., Any] = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
        delimiter = "\t" if ".tsv" in path.suffixes else ","
        lines: Iterator[list[str]] = (line for line in csv.reader(file, delimiter=delimiter) if line)
        first = next(lines, None)
        if first is None:
            raise InputError(f"--labels {given} is empty")
        heading = [cell.strip().lower() for cell in first]
        if len(first) == 1 and (first[0] in classes or heading[0] not in LABEL_HEADINGS):
            rest: list[str] = [first[0], *(_only(line, given) for line in lines)]
            return _in_order(given, _indices(np.array(rest, dtype=object), classes, given), classes)
        labels = _column_index(heading, LABEL_HEADINGS, given)
        if len(first) == 1 or not set(heading) & set(ROW_HEADINGS):
            rest = [_cell(line, labels, given) for line in lines]
            return _in_order(given, _indices(np.array(rest, dtype=object), classes, given), classes)
        rows = _column_index(heading, ROW_HEADINGS, given)
        pairs = [(_cell(line, rows, given), _cell(line, labels, given)) for line in lines]
    indices = _indices(np.array([label for _, label in pairs], dtype=object), classes, given)
    known = {row: index for (row, _), index in zip(pairs, indices.tolist(), strict=True)}
    if len(known) != len(pairs):
        raise InputError(f"--labels {given} has {len(pairs) - len(known)} rows more than once")
    return _by_row(given, known)


def _only(line: Sequence[str], given: str) -> str:
    if len(line) != 1:
        raise InputError(
            f"--labels {given} has lines of one and of {len(line)} cells: add the header row,label"
        )
    return line[0]


def _cell(line: Sequence[str], place: int, given: str) -> str:
    if place >= len(line):
        raise InputError(f"--labels {given} has a line of {len(line)} cells; {place + 1} are required")
    return line[place]


def _column_index(heading: Sequence[str], names: Sequence[str], given: str) -> int:
    for name in names:
        if name in heading:
            return heading.index(name)
    raise InputError(f"--labels {given} has the columns {', '.join(heading)}: rename one to {names[0]}")


def _indices(values: npt.NDArray[Any], classes: Sequence[str], given: str) -> Indices:
    """Return class indices, `UNKNOWN` for None.

    Raises:
        InputError: a label is not a class.
    """
    if values.dtype.kind in "iu":
        indices: Indices = values.astype(np.int64)
        wrong = np.flatnonzero((indices < 0) | (indices >= len(classes)))
        if len(wrong):
            raise _unknown_label(indices[wrong[0]], int(wrong[0]), classes, given)
        return indices
    if values.dtype.kind not in "OUS":
        raise InputError(f"--labels {given} has {values.dtype}: labels are integers from 0 or class names")
    places = {name: place for place, name in enumerate(classes)}
    found = np.empty(len(values), np.int64)
    for at, value in enumerate(values.tolist()):
        label = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        index = UNKNOWN if label is None else _index(label, places)
        if index is None:
            raise _unknown_label(label, at, classes, given)
        found[at] = index
    return found


def _index(label: Any, places: Mapping[str, int]) -> int | None:
    """Return the index of a class by its name or its number; None if there is no such class."""
    if isinstance(label, str):
        label = label.strip()
        if label in places:
            return places[label]
        if not (label.isascii() and label.isdigit()):
            return None
        label = int(label[:10])
    is_place = isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(places)
    return label if is_place else None


def _unknown_label(label: object, at: int, classes: Sequence[str], given: str) -> InputError:
    shown = ", ".join(classes[:MAX_SHOWN_NAMES]) + (", ..." if len(classes) > MAX_SHOWN_NAMES else "")
    return InputError(
        f"--labels {given}: label {str(label)[:60]!r} of row {at} is not a class; the model has {len(classes)}: "
        f"{shown}, or 0 to {len(classes) - 1} by index"
    )


def _idx(path: Path) -> npt.NDArray[Any]:
    """Read a one-dimensional IDX file of integers, raw or gzip-compressed."""
    with opener_of(path)() as file:
        start, kind, shape = read_idx_header(file)
        if kind is None or kind.kind not in "iu":
            raise ValueError(
                f"it is not an IDX file of labels, it begins with {start.hex(' ') or 'nothing'}; supported are IDX, "
                ".npy, .csv and .txt"
            )
        if len(shape) != 1:
            raise ValueError(
                f"it has {len(shape)} axes, labels have one: this is probably the file of the images"
            )
        (count,) = shape
        data = file.read(count * kind.itemsize + 1)
    if len(data) != count * kind.itemsize:
        raise ValueError(f"it declares {count} labels and has {'more' if len(data) > count else 'fewer'}")
    return np.frombuffer(data, kind)
