"""Reads labels that are in a file of their own: IDX, `.npy`, `.npz`, `.mat`, or text."""

from pathlib import Path

from imagesets.errors import DataError
from imagesets.formats.arrays.idx import read_idx_labels
from imagesets.formats.arrays.mat import read_mat_labels
from imagesets.formats.arrays.numpy_files import read_npy_labels, read_npz_labels
from imagesets.formats.tables.csv_files import read_csv_labels
from imagesets.labels import LabelColumn
from imagesets.opening import kind_of


def read_labels(path: Path, label_column: str | None = None) -> LabelColumn:
    """Read a file of labels, one for each image in their order.

    Raises:
        DataError: it cannot be read, is of another kind, or names its rows.
    """
    match kind := kind_of(str(path), path):
        case "idx":
            return read_idx_labels(path)
        case "npy":
            return read_npy_labels(path)
        case "npz":
            return read_npz_labels(path)
        case "mat":
            return read_mat_labels(path)
        case "text" | "csv":
            return read_csv_labels(path, label_column)
        case _:
            raise DataError(
                f"{path} is {kind}, and no file of labels: give IDX, .npy, .npz, .mat, .csv or .txt"
            )
