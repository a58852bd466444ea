"""`--labels`: true labels to compare the predictions with, from a file or from the input itself.

    input                     the input's own: of IDX, .npz, .mat, tables, .cls files, or the images' folders
    column:NAME               a column of the input's tables
    FILE                      IDX, .npy, .npz, .mat: one label a row, in the input's order
    FILE.csv, .parquet, .txt  by the one column that fits the rows' names, in any order; without one, by place

A label is matched with a class by name; numbers are matched by name too if classes are named by numbers, and are else
places, counted from 0 (`imagesets/labels.py`).
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from imagesets.errors import DataError
from imagesets.label_files import read_labels
from imagesets.label_table_files import read_label_table
from imagesets.labels import LabelColumn, matched, merged
from imagesets.names.known_sets import known_by_name
from imagesets.names.naming import named_labels
from imagesets.opening import kind_of
from imagesets.source import Source
from serving.scoring.records import Chunk
from serving.scoring.settings import LABEL_COLUMN

INPUT = "input"

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """The true labels of all rows."""

    where: str
    """The value of `--labels`."""
    sha256: str
    """Of all labels, to recognize parts that were compared with other ones."""
    classes: npt.NDArray[np.signedinteger]
    """`[rows]`: the class of each row of the input, `UNKNOWN` for a row without a label."""

    def indices(self, chunk: Chunk) -> Indices:
        """Return `int64[n]`: the class of each row of a chunk."""
        return self.classes[chunk.first : chunk.first + len(chunk)].astype(np.int64)


def open_labels(given: str, classes: Sequence[str], sources: Sequence[Source]) -> Labels:
    """Read the labels of all rows.

    Args:
        given: the value of `--labels`.
        classes: the model's.
        sources: the input.

    Raises:
        DataError: the labels cannot be read, are not those of the rows, or one is not a class.
    """
    where = f"--labels {given}"
    if given == INPUT or given.startswith(LABEL_COLUMN):
        column = _of_input(given, sources)
    else:
        column = _of_file(Path(given), given, sources, classes)
    rows = sum(source.count for source in sources)
    if len(column) != rows:
        raise DataError(
            f"{where} has {len(column):,} labels and the input {rows:,} rows: give one for each row in the input's "
            "order, or a CSV file with the header row,label"
        )
    indices = matched(column, classes, where)
    return Labels(
        where=given,
        sha256=hashlib.sha256(indices.tobytes()).hexdigest(),
        classes=indices.astype(np.min_scalar_type(-len(classes))),  # ten million labels take 10 MB
    )


def _of_input(given: str, sources: Sequence[Source]) -> LabelColumn:
    columns = []
    for source in sources:
        if (labels := source.labels()) is None:
            raise DataError(
                f"--labels {given}: {source.name} has no labels of its own: give a file of labels, or the "
                "input that has them"
            )
        columns.append(labels)
    return merged(columns)


def _of_file(path: Path, given: str, sources: Sequence[Source], classes: Sequence[str]) -> LabelColumn:
    if not path.is_file():
        raise DataError(f"--labels {given} is no file: give a file, input, or column:NAME")
    if kind_of(str(path), path) in ("text", "csv", "parquet"):
        table = read_label_table(path, name=f"--labels {given}", classes=classes)
        return replace(table, choosable=False).match([*_row_names(sources)], "the input", partial=True)
    return named_labels(read_labels(path), known_by_name(path.name), path)


def _row_names(sources: Sequence[Source]) -> Iterator[str]:
    for source in sources:
        for first in range(0, source.count, 1 << 16):
            if source.needs_decoding and source.columns is None:
                yield from source.take(first, min(1 << 16, source.count - first)).rows
            else:
                yield from map(str, range(first, min(first + (1 << 16), source.count)))
