"""Which columns of a table are the pixels, in which order, and which is the label; told by their names.

    pixel0..pixel783, pixel1..pixel784, pixel0000.., 0..783, 1..784, V1..V784    in the order of their numbers
    1x1..28x28, 0_0..27_27                                                       by row and column
    784 other columns beside the label                                           in the order of the table
    785 columns without a label's name                                           the label is the first or the last

Names were looked up in Kaggle's sets (digit-recognizer, fashionmnist, sign-language-mnist, mnist-in-csv, Kannada-MNIST,
skin-cancer-mnist-ham10000, TMNIST) and in OpenML's mnist_784.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bundle.images.contract import IMAGE_SIZE, PIXELS
from common.configuration import nearest
from common.errors import listing, one_line
from imagesets.errors import DataError

LABEL_NAMES = frozenset(
    {
        "label", "labels", "class", "classes", "class_label", "target", "targets", "y", "category", "cls",
        "digit", "letter", "character", "char",
    }
)  # fmt: skip
"""Names of the column of the labels, in lower case."""
FEWEST = 16
"""Numbered columns that are taken for the pixels of an image of another size."""

_NUMBERED = re.compile(r"(\D*)(\d{1,9})", re.ASCII)
_BY_ROW = re.compile(r"(\D*)(\d{1,9})([^\d.]+)(\d{1,9})", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class TableColumns:
    """The columns of a table of pixels, by their places from 0."""

    pixels: tuple[int, ...]
    """In the order of the pixels; without the first and the last column if one of them is the label."""
    ends: tuple[int, int] | None
    """The first and the last of 785 columns: one is the label, the other a pixel, and no name says which."""
    label: int | None
    others: tuple[int, ...]
    """Columns that are neither pixels nor the label."""
    doubt: str = ""
    """Why no column is taken as the label, where several may be."""


def find_columns(names: Sequence[str], where: str, label_column: str | None) -> TableColumns:
    """Return what the columns of a table are.

    Args:
        names: of the columns; empty for one that is left out.
        where: the table, for messages.
        label_column: the name of the column of the labels, or `first` or `last`; None finds it.

    Raises:
        DataError: no 784 columns are pixels, or there is no such label column.
    """
    label, doubt = label_place(names, where, label_column)
    used = [place for place, name in enumerate(names) if name and place != label]
    numbered = _numbered([(place, names[place]) for place in used])
    pixels: Sequence[int] = numbered
    if len(numbered) != PIXELS:
        pixels = used
    if len(pixels) == PIXELS + 1 and label is None and not doubt:
        ends = (pixels[0], pixels[-1])
        return TableColumns(pixels=tuple(pixels[1:-1]), ends=ends, label=None, others=())
    if len(pixels) != PIXELS:
        raise DataError(f"{where} {_why_not(len(numbered), len(names))}")
    others = tuple(sorted(set(used) - set(pixels)))
    return TableColumns(pixels=tuple(pixels), ends=None, label=label, others=others, doubt=doubt)


def label_place(names: Sequence[str], where: str, label_column: str | None) -> tuple[int | None, str]:
    """Return the place of the column of the labels, None if there is none, and why it is in doubt.

    Raises:
        DataError: there is no column `label_column`.
    """
    if label_column is not None:
        if label_column in names:
            return list(names).index(label_column), ""
        if label_column in ("first", "last"):
            used = [place for place, name in enumerate(names) if name]
            return used[0 if label_column == "first" else -1], ""
        known = [name for name in names if name and not _NUMBERED.fullmatch(name)]
        raise DataError(
            f"{where} has no column '{one_line(label_column, 60)}'{nearest(label_column, known[:50])}"
        )
    usual = [place for place, name in enumerate(names) if name.strip().lower() in LABEL_NAMES]
    if len(usual) > 1:
        found = listing([f"'{names[place]}'" for place in usual], 5)
        return None, f"{where}: the labels may be in {found}: choose with --label-column"
    return (usual[0] if usual else None), ""


def _numbered(columns: Sequence[tuple[int, str]]) -> list[int]:
    """Return the largest group of columns whose names are numbered without a gap, ordered by their numbers."""
    groups: dict[tuple[str, ...], list[tuple[tuple[int, ...], int]]] = defaultdict(list)
    for place, name in columns:
        if match := _NUMBERED.fullmatch(name.strip()):
            groups[match[1].lower(),].append(((int(match[2]),), place))
        elif match := _BY_ROW.fullmatch(name.strip()):
            groups[match[1].lower(), match[3].lower()].append(((int(match[2]), int(match[4])), place))
    largest = max(groups, key=lambda group: len(groups[group]), default=("",))
    ordered = sorted(groups[largest])
    axes = list(zip(*(numbers for numbers, _ in ordered), strict=True))
    cells = math.prod(len(set(axis)) for axis in axes)
    whole = all(min(axis) in (0, 1) and max(axis) - min(axis) + 1 == len(set(axis)) for axis in axes)
    return [place for _, place in ordered] if whole and cells == len(ordered) >= FEWEST else []


def _why_not(numbered: int, columns: int) -> str:
    """Return why a table has no pixels of 28x28."""
    side = math.isqrt(numbered)
    colours = math.isqrt(numbered // 3)
    if numbered == 3 * PIXELS:
        what = f"{numbered} columns of pixels, {IMAGE_SIZE}x{IMAGE_SIZE} in three colours"
    elif side and side * side == numbered:
        what = f"{numbered} columns of pixels, images of {side}x{side}"
    elif colours and 3 * colours * colours == numbered:
        what = f"{numbered} columns of pixels, images of {colours}x{colours} in three colours"
    else:
        what = f"{numbered} columns of pixels" if numbered else f"{columns} columns"
    return (
        f"has {what}: give a table with {PIXELS} columns of pixels ({IMAGE_SIZE}x{IMAGE_SIZE}, gray), and with the "
        "label in another one or without labels"
    )


@contextmanager
def needing_arrow(name: str) -> Iterator[None]:
    """Turn the absence of pyarrow, which the block imports, into a DataError.

    Raises:
        DataError: pyarrow is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pyarrow":
            raise
        raise DataError(
            f'{name} is read by pyarrow, which is not installed: pip install "glyph[data]"'
        ) from None
