"""What the numbers in a set's labels are called: by `--classes`, by a file beside the images, or by a known set.

    --classes FILE               one name a line
    classes.txt                  beside the images: the same
    emnist-letters-mapping.txt   EMNIST's: a label and one or more ASCII codes a line
    k49_classmap.csv             a table with a column of numbers and one of characters

Labels that are names already stay what they are.
"""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

from imagesets.errors import DataError, reading
from imagesets.labels import LabelColumn
from imagesets.names.class_names import NAMES_FILE, checked_names, names_by_number, read_names
from imagesets.names.known_sets import KnownSet, known_by_labels
from imagesets.source import Options, Source

MAX_BYTES = 1 << 20
NUMBER_HEADINGS = ("index", "label", "class", "id", "number")
NAME_HEADINGS = ("char", "name", "class_name", "label_name", "class", "label", "description")

Reader = Callable[[], LabelColumn | None]


def named_labels(labels: LabelColumn, known: KnownSet | None, path: Path) -> LabelColumn:
    """Return the labels of a file by itself, with the names of their numbers where these are known.

    Args:
        labels: of the file.
        known: the set that the file is of, if its name says so.
        path: the file, beside which there may be a file of names.
    """
    if not labels.numeric:
        return labels
    names = _names_beside(path.parent, known, [int(value) for value in labels.values])
    if not names and (found := known or known_by_labels(labels.numbers())):
        names = found.names()
    return labels.named(names, str(path)) if names else labels


def name_labels(
    sources: Sequence[Source], known: KnownSet | None, options: Options, folder: Path | None
) -> Callable[[], KnownSet | None]:
    """Let the sources of a set return labels with the names of their numbers.

    Args:
        sources: of all parts, which are named alike.
        known: the set that they are by name, if that is known. Labels that are those of a known set say more, unless
            the user has chosen one.
        options: `classes` is the user's file.
        folder: in which files of names are looked for.

    Returns:
        The set that they are, when it is called: that may need the labels.
    """
    names = _Names(
        [source.read_labels for source in sources if source.read_labels is not None], known, options, folder
    )
    for source in sources:
        if source.read_labels is not None:
            source.read_labels = partial(names.read, source.read_labels, source.name)
    return names.known_set


class _Names:
    """The names of the numbers in the labels of a set's sources; found when they are first asked for."""

    def __init__(
        self, readers: Sequence[Reader], known: KnownSet | None, options: Options, folder: Path | None
    ) -> None:
        self._readers = readers
        self._known = known
        self._options = options
        self._folder = folder

    def read(self, reader: Reader, where: str) -> LabelColumn | None:
        """Return what a source's reader reads, with the names of its numbers if there are any."""
        labels = reader()
        if labels is None or not labels.numeric or not self._by_number:
            return labels
        return labels.named(self._by_number, where)

    def known_set(self) -> KnownSet | None:
        """Return the known set that the labels are of, None if they are of none."""
        if self._known is not None and self._options.chosen:
            return self._known
        return _known_by_columns(self._columns) or self._known  # KMNIST may well be in a folder called mnist

    @cached_property
    def _columns(self) -> Sequence[LabelColumn]:
        return [column for reader in self._readers if (column := reader()) is not None]

    @cached_property
    def _by_number(self) -> Mapping[int, str]:
        numbers = [int(value) for column in self._columns if column.numeric for value in column.values]
        if (classes := self._options.classes) is not None:
            return names_by_number(read_names(classes), numbers, str(classes))
        if self._folder is not None and (found := _names_beside(self._folder, self._known, numbers)):
            return found
        known = self.known_set()
        return known.names() if known is not None else {}


def _known_by_columns(columns: Sequence[LabelColumn]) -> KnownSet | None:
    """Return the known set; labels with names, as Hugging Face's metadata gives them, have its numbers as codes."""
    numbers = (column.numbers() if column.numeric else column.codes for column in columns)
    return next((known for labels in numbers if (known := known_by_labels(labels))), None)


def _names_beside(folder: Path, known: KnownSet | None, numbers: Sequence[int]) -> Mapping[int, str]:
    """Return the names in a file beside the images; empty if there is none."""
    if (folder / NAMES_FILE).exists():
        return names_by_number(read_names(folder / NAMES_FILE), numbers, str(folder / NAMES_FILE))
    mapping = folder / f"{known.name}-mapping.txt" if known else None
    if known and mapping and mapping.exists():
        first = min(known.names())
        names = checked_names(read_mapping(mapping, first), str(mapping))
        return dict(enumerate(names, start=first))
    maps = sorted(folder.glob("*classmap.csv"))
    return read_class_map(maps[0]) if len(maps) == 1 else {}


def read_class_map(path: Path) -> Mapping[int, str]:
    """Read a table of numbers and the names of their classes, such as Kuzushiji-49's.

    Raises:
        DataError: it cannot be read, or has no such columns.
    """
    with reading(path), path.open("rb") as file:
        text = file.read(MAX_BYTES).decode("utf-8-sig", "replace")
    rows = [row for row in csv.reader(text.splitlines()) if row]
    heading = [cell.strip().lower() for cell in rows[0]] if rows else []
    number = next((heading.index(name) for name in NUMBER_HEADINGS if name in heading), -1)
    name = next((heading.index(name) for name in NAME_HEADINGS if name in heading[number + 1 :]), -1)
    try:
        found = {int(row[number]): row[name].strip() for row in rows[1:]} if number >= 0 <= name else {}
    except (ValueError, IndexError):
        found = {}
    if not found:
        raise DataError(f"{path} is not a table of class names: give it the columns index and char")
    names = checked_names(list(found.values()), str(path))
    return dict(zip(found, names, strict=True))


def read_mapping(path: Path, first_label: int) -> list[str]:
    """Read EMNIST's mapping file: a label and one or more ASCII codes a line.

    If a class has two codes, as in EMNIST Letters, the first, of the upper case, becomes its name.

    Raises:
        DataError: the file cannot be read, or a line is invalid or out of order.
    """
    with reading(path), path.open("rb") as file:
        lines = file.read(MAX_BYTES).decode("ascii", "replace").split("\n")
    names: list[str] = []
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        label = str(first_label + len(names))
        code = int(fields[1]) if fields[1:] and re.fullmatch(r"\d{1,3}", fields[1], re.ASCII) else 0
        if fields[0] != label or not 32 < code < 127:
            raise DataError(
                f"{path}, line {number}, is {line[:50]!r}; label {label} and an ASCII code is expected"
            )
        names.append(chr(code))
    return names
