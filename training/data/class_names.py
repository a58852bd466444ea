"""Class names and class counts: what every data set must satisfy, whatever it was read from."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from bundle.manifest import ClassName
from training.errors import DataError

NAMES_FILE = "classes.txt"
MAX_NAMES_BYTES = 1 << 20
LEAST_TO_TRAIN = 2
"""Images that each class needs: one to train on, one to validate with."""

_NAME: TypeAdapter[str] = TypeAdapter(ClassName)


def checked_names(names: Sequence[str], where: str) -> tuple[str, ...]:
    """Return `names` as a tuple, if a bundle can carry them.

    Args:
        names: in the order of the labels.
        where: what they came from, for the error's sentence.

    Raises:
        DataError: there are fewer than two, two are equal (also after Unicode's NFC, as they would
            look the same), or one is empty, longer than a bundle takes, or has control characters
            or bytes that are not UTF-8.
    """
    if len(names) < 2:
        found = f"one class, {names[0]!r}" if names else "no class"
        raise DataError(f"{where} has {found}; a classifier needs two or more")
    seen: set[str] = set()
    for name in names:
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
            raise DataError(f"{where}: class name {name!r} has control characters or is not UTF-8: rename it")
        try:
            _NAME.validate_python(name)
        except ValidationError as error:
            raise DataError(f"{where}: class name {name[:50]!r}: {error.errors()[0]['msg']}") from None
        if (normal := unicodedata.normalize("NFC", name)) in seen:
            raise DataError(f"{where} names class {name!r} twice: names must differ")
        seen.add(normal)
    return tuple(names)


def read_names(path: Path) -> tuple[str, ...]:
    """Read `classes.txt`: UTF-8, one name a line, the first for label 0.

    Raises:
        DataError: it cannot be read, has an empty line, or `checked_names` refuses it.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_NAMES_BYTES + 1)
        if len(data) > MAX_NAMES_BYTES:
            raise DataError(f"{path} is larger than {MAX_NAMES_BYTES} bytes: it should hold one name a line")
        lines = [line.strip() for line in data.decode("utf-8-sig").rstrip().split("\n")]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8: save it as UTF-8 text, one class name a line") from None
    if "" in lines:
        raise DataError(f"{path}, line {lines.index('') + 1} is empty: it should name a class")
    return checked_names(lines, str(path))


def check_counts(labels: npt.NDArray[np.int64], classes: Sequence[str], least: int, where: str) -> None:
    """Make sure that each class has at least `least` images.

    Args:
        labels: `int64[n]`, each an index into `classes`.
        classes: the names.
        least: how many images a class must have.
        where: what they came from, for the error's sentence.

    Raises:
        DataError: a class has fewer; the sentence names up to 20 of them.
    """
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    few = [f"{name!r} has {count}" for name, count in zip(classes, counts, strict=True) if count < least]
    if few:
        more = f", and {len(few) - 20} more" if len(few) > 20 else ""
        raise DataError(
            f"{where}: each class needs at least {least} images to be split, and class "
            f"{', '.join(few[:20])}{more}: add images, or leave the class out"
        )


def check_range(labels: npt.NDArray[np.integer], classes: int, where: str) -> npt.NDArray[np.int64]:
    """Return `labels` as int64, if each is an index below `classes`.

    Raises:
        DataError: one is not, or there are none.
    """
    if not len(labels):
        raise DataError(f"{where} is empty")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise DataError(
            f"{where} has label {wrong}; there are {classes} classes, labelled 0 to {classes - 1}"
        )
    return labels.astype(np.int64)


def absent(labels: npt.NDArray[np.int64], classes: Sequence[str]) -> list[str]:
    """Return the names of the classes that no label stands for."""
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    return [name for name, count in zip(classes, counts, strict=True) if not count]
