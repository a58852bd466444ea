"""Validation of class names, labels and class sizes, for data sets of every format."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from bundle.manifest import ClassName
from common.errors import listing
from common.progress import Progress
from training.errors import DataError, reading

NAMES_FILE = "classes.txt"
MAX_NAMES_BYTES = 1 << 20
LEAST_TO_TRAIN = 2
"""Images that each class needs: one for training and one for validation."""

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


def check_counts(labels: npt.NDArray[np.int64], classes: Sequence[str], least: int, where: str) -> None:
    """Check that each class has at least `least` images.

    Args:
        labels: `int64[n]`, indices into `classes`.
        classes: the class names.
        least: the number of images that a class needs.
        where: their source, for error messages.

    Raises:
        DataError: a class has fewer; the message names up to 20 classes.
    """
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    few = [f"{name!r} has {count}" for name, count in zip(classes, counts, strict=True) if count < least]
    if few:
        raise DataError(
            f"{where}: each class needs at least {least} images to be split, but class {listing(few)}: "
            "add images, or remove the class"
        )


def check_range(labels: npt.NDArray[np.integer], classes: int, where: str) -> npt.NDArray[np.int64]:
    """Return `labels` as int64 if all are in 0 to `classes` - 1.

    Raises:
        DataError: a label is out of range, or there are none.
    """
    if not len(labels):
        raise DataError(f"{where} is empty")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise DataError(
            f"{where} has label {wrong}; there are {classes} classes, with labels 0 to {classes - 1}"
        )
    return labels.astype(np.int64)


def say_untested(
    where: str, labels: npt.NDArray[np.int64], classes: Sequence[str], progress: Progress
) -> None:
    """Log which classes have no images in a test set."""
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    if missing := [name for name, count in zip(classes, counts, strict=True) if not count]:
        progress.say(
            f"{where} has no images of {', '.join(missing)}: the model is not tested on those classes"
        )
