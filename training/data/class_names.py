"""Validation of class names, labels and class sizes, for data sets of every format."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from common.errors import listing
from common.progress import Progress
from imagesets.errors import DataError

NAMES_FILE = "classes.txt"
MAX_NAMES_BYTES = 1 << 20
LEAST_TO_TRAIN = 2
"""Images that each class needs: one for training and one for validation."""


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
