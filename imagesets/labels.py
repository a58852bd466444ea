"""Label columns: one label for each image, as containers hold them, and what they are in a model's classes.

Whole numbers of any type, names, and one-hot rows become a `LabelColumn`. A number is matched with a class by the name
of the class where classes are named by numbers, else by place from 0; never some labels in one way and some in the
other.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import listing
from imagesets.errors import DataError

UNKNOWN = -1
"""The code of a row without a label."""
MOST_SHOWN = 10

_INTEGER = re.compile(r"[+-]?\d{1,18}(?:\.0*)?", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelColumn:
    """The labels of n images: codes and what they mean, as a categorical column."""

    codes: npt.NDArray[np.int64]
    """`int64[n]`: indices into `values`, `UNKNOWN` for a row without a label."""
    values: tuple[str, ...]
    """The distinct labels: in the set's own order where it has one, else numbers by size or names by their text.
    Names of classes without an image may be among them."""
    numeric: bool
    """Whether the labels are whole numbers."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.codes)

    def numbers(self) -> npt.NDArray[np.int64]:
        """Return the labels as numbers, `int64[n]`; those of `UNKNOWN` rows are meaningless.

        Only for a numeric column.
        """
        return np.array([*map(int, self.values), UNKNOWN], dtype=np.int64)[self.codes]

    def named(self, names: Mapping[int, str], where: str) -> "LabelColumn":
        """Return the column with the names of its numbers, in the order of `names`.

        Raises:
            DataError: a number has no name.
        """
        order = {number: code for code, number in enumerate(names)}
        if unnamed := [value for value in self.values if int(value) not in order]:
            shown = ", ".join(str(number) for number in list(names)[:MOST_SHOWN])
            raise DataError(
                f"{where} has label {unnamed[0]}; there are {len(names)} classes, with labels {shown}"
                + (", ..." if len(names) > MOST_SHOWN else "")
            )
        places = np.array([*(order[int(value)] for value in self.values), UNKNOWN], dtype=np.int64)
        return LabelColumn(codes=places[self.codes], values=tuple(names.values()), numeric=False)

    def take(self, rows: "npt.NDArray[np.integer[Any]] | slice") -> "LabelColumn":
        """Return the labels of some rows."""
        return LabelColumn(codes=self.codes[rows], values=self.values, numeric=self.numeric)


def column_of(values: Any, where: str) -> LabelColumn:
    """Return the label column of an array or sequence of labels.

    Args:
        values: `[n]` or `[n, 1]` of integers, of floats that are whole (NaN for no label), of strings or bytes (UTF-8;
            None or empty for no label), or `[n, classes]` of zeros and one one each. Strings that are all whole
            numbers are numbers.
        where: their source, for messages.

    Raises:
        DataError: they are none of these; the message names the first row that is not.
    """
    array = np.asarray(values) if not isinstance(values, np.ndarray) else values
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2 and array.dtype.kind in "biuf":
        array = _from_one_hot(array, where)
    if array.ndim != 1:
        raise DataError(
            f"{where} has labels of shape {list(array.shape)}; give [n], [n, 1], or one-hot rows [n, classes]"
        )
    if array.dtype.kind in "iu":
        return _of_integers(array)
    if array.dtype.kind == "f":
        return _of_floats(array, where)
    if array.dtype.kind in "OUS":
        return _of_texts(array.tolist(), where)
    raise DataError(f"{where} has labels of type {array.dtype}; give whole numbers or names")


def _of_integers(array: npt.NDArray[Any], known: npt.NDArray[np.bool_] | None = None) -> LabelColumn:
    present = array if known is None else array[known]
    distinct, codes = np.unique(present, return_inverse=True)
    if known is not None:
        every = np.full(len(array), UNKNOWN, dtype=np.int64)
        every[known] = codes
        codes = every
    return LabelColumn(
        codes=codes.astype(np.int64), values=tuple(str(value) for value in distinct.tolist()), numeric=True
    )


def _of_floats(array: npt.NDArray[Any], where: str) -> LabelColumn:
    known = ~np.isnan(array)
    fractional = np.flatnonzero(known & ~((array == np.floor(array)) & (np.abs(array) < 2**53)))
    if len(fractional):
        row = int(fractional[0])
        raise DataError(
            f"{where} has the label {array[row]:g} in row {row}: labels are whole numbers or names"
        )
    return _of_integers(np.where(known, array, 0).astype(np.int64), known)


def _of_texts(values: Sequence[Any], where: str) -> LabelColumn:
    texts: list[str | None] = []
    for row, value in enumerate(values):
        if value is None or (isinstance(value, float) and np.isnan(value)):
            texts.append(None)
        elif isinstance(value, bytes | str):
            try:
                text = value.decode() if isinstance(value, bytes) else value
            except UnicodeDecodeError:
                raise DataError(f"{where}: the label of row {row} is not UTF-8: {value[:40]!r}") from None
            texts.append(unicodedata.normalize("NFC", text.strip()) or None)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            texts.append(f"{value:.0f}" if float(value).is_integer() else str(value))
        else:
            raise DataError(
                f"{where}: the label of row {row} is a {type(value).__name__}; labels are whole numbers or names"
            )
    if any(texts) and all(text is None or _INTEGER.fullmatch(text) for text in texts):
        known = np.array([text is not None for text in texts])
        return _of_integers(np.array([int(text.partition(".")[0]) if text else 0 for text in texts]), known)
    names = sorted({text for text in texts if text})
    place = {name: code for code, name in enumerate(names)}
    codes = np.array([place[text] if text else UNKNOWN for text in texts], dtype=np.int64)
    return LabelColumn(codes=codes, values=tuple(names), numeric=False)


def _from_one_hot(array: npt.NDArray[Any], where: str) -> npt.NDArray[np.int64]:
    is_one = array == 1
    wrong = np.flatnonzero((is_one.sum(axis=1) != 1) | ((array != 0).sum(axis=1) != 1))
    if len(wrong):
        raise DataError(
            f"{where} has labels of shape {list(array.shape)} that are not one-hot: row {wrong[0]} has "
            f"{int((array[wrong[0]] != 0).sum())} of {array.shape[1]} columns set; each image has one class"
        )
    places: npt.NDArray[np.int64] = is_one.argmax(axis=1).astype(np.int64)
    return places


def of_codes(codes: npt.NDArray[Any], names: Sequence[str]) -> LabelColumn:
    """Return the column of labels that are indices into `names`, such as the folders of images."""
    return LabelColumn(codes=np.asarray(codes, dtype=np.int64), values=tuple(names), numeric=False)


def merged(columns: Sequence[LabelColumn]) -> LabelColumn:
    """Return the columns of several sources as one.

    If they have the same values, these keep their order; else numbers are sorted by size and names by their text.
    """
    if all(column.values == columns[0].values for column in columns):
        values = columns[0].values
    elif all(column.numeric for column in columns):
        values = tuple(map(str, sorted({int(value) for column in columns for value in column.values})))
    else:
        values = tuple(sorted({value for column in columns for value in column.values}))
    place = {value: code for code, value in enumerate(values)}
    codes = [
        np.array([*(place[value] for value in column.values), UNKNOWN], dtype=np.int64)[column.codes]
        for column in columns
    ]
    return LabelColumn(
        codes=np.concatenate(codes), values=values, numeric=all(column.numeric for column in columns)
    )


def matched(column: LabelColumn, classes: Sequence[str], where: str) -> npt.NDArray[np.int64]:
    """Return the index in `classes` of each label, `int64[n]`, `UNKNOWN` for a row without one.

    Labels that are all names of classes are matched by name. Numbers are otherwise places, counted from 0, if no class
    is named by a number.

    Raises:
        DataError: a label is not a class, or could be one by name and another by place.
    """
    places = {unicodedata.normalize("NFC", name): place for place, name in enumerate(classes)}
    used = set(np.unique(column.codes).tolist()) - {UNKNOWN}
    wanted = {code: column.values[code] for code in used}
    found = np.full(len(column.values) + 1, UNKNOWN, dtype=np.int64)
    unnamed = [value for value in wanted.values() if value not in places]
    if not unnamed:
        for code, value in wanted.items():
            found[code] = places[value]
        return found[column.codes]
    shown = ", ".join(classes[:MOST_SHOWN]) + (", ..." if len(classes) > MOST_SHOWN else "")
    row = int(np.flatnonzero(column.codes == next(c for c, v in wanted.items() if v == unnamed[0]))[0])
    if not column.numeric or any(_INTEGER.fullmatch(name) for name in classes):
        raise DataError(
            f"{where}: label {unnamed[0][:60]!r} of row {row} is not a class; the model has {len(classes)}: {shown}"
        )
    beyond = [value for value in wanted.values() if not 0 <= int(value) < len(classes)]
    if beyond:
        raise DataError(
            f"{where} has the numbers {listing(sorted(wanted.values(), key=int)[:MOST_SHOWN])} as labels, and "
            f"{beyond[0]} is not a place from 0 to {len(classes) - 1}; the model's classes are {shown}: give the "
            "labels by name"
        )
    for code, value in wanted.items():
        found[code] = int(value)
    return found[column.codes]
