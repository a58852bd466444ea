"""Class names: their validation, the file that lists them, and which number each of them has."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from bundle.manifest import ClassName
from imagesets.errors import DataError, reading

NAMES_FILE = "classes.txt"
MAX_NAMES_BYTES = 1 << 20

_NAME: TypeAdapter[str] = TypeAdapter(ClassName)


def checked_names(names: Sequence[str], where: str) -> tuple[str, ...]:
    """Return `names` as a tuple if they are valid in a bundle.

    Args:
        names: in the order of the labels.
        where: their source, for error messages.

    Raises:
        DataError: there are fewer than two; two are equal after Unicode normalisation (NFC), so that they look the
            same; or one is empty, too long, not UTF-8, or has control characters.
    """
    if len(names) < 2:
        found = f"one class, {names[0]!r}" if names else "no class"
        raise DataError(f"{where} has {found}; a classifier needs at least two")
    seen: set[str] = set()
    for name in names:
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
            raise DataError(f"{where}: class name {name!r} has control characters or is not UTF-8: rename it")
        try:
            _NAME.validate_python(name)
        except ValidationError as error:
            raise DataError(f"{where}: class name {name[:50]!r}: {error.errors()[0]['msg']}") from None
        if (normal := unicodedata.normalize("NFC", name)) in seen:
            raise DataError(f"{where} has the class name {name!r} twice: class names must be unique")
        seen.add(normal)
    return tuple(names)


def read_names(path: Path) -> tuple[str, ...]:
    """Read `classes.txt`: UTF-8, one class name a line, the first for label 0.

    Raises:
        DataError: it cannot be read, has an empty line, or `checked_names` rejects it.
    """
    with reading(path), path.open("rb") as file:
        data = file.read(MAX_NAMES_BYTES + 1)
    if len(data) > MAX_NAMES_BYTES:
        raise DataError(f"{path} is larger than {MAX_NAMES_BYTES} bytes: write one class name a line")
    try:
        lines = [line.strip() for line in data.decode("utf-8-sig").rstrip().split("\n")]
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8: save it as UTF-8 text, one class name a line") from None
    if "" in lines:
        raise DataError(f"{path}, line {lines.index('') + 1} is empty: write a class name there")
    return checked_names(lines, str(path))


def names_by_number(names: Sequence[str], numbers: Sequence[int], where: str) -> dict[int, str]:
    """Return the name of each number, in the order of the names.

    A name's number is its line, counted from 0, if every number that occurs has a line; else, if there is a name for
    each number that occurs (labels that count from 1 or have gaps), they are taken in order.

    Args:
        names: of the classes.
        numbers: that occur as labels, in all parts of the set.
        where: the source of the names, for messages.

    Raises:
        DataError: there are too few names, or too many to tell.
    """
    distinct = sorted(set(numbers))
    if not distinct or (distinct[0] >= 0 and distinct[-1] < len(names)):
        return dict(enumerate(names))
    if len(distinct) == len(names):
        return dict(zip(distinct, names, strict=True))
    raise DataError(
        f"{where} has {len(names)} class names; the labels are {len(distinct)} numbers from {distinct[0]} to "
        f"{distinct[-1]}: give one name for each of them in order, or one for each number from 0"
    )
