"""Whether each class has images: enough to train on, and some to test with."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from common.errors import listing
from common.progress import Progress
from imagesets.errors import DataError

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


def say_untested(
    where: str, labels: npt.NDArray[np.int64], classes: Sequence[str], progress: Progress
) -> None:
    """Log which classes have no images in a test set."""
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    if missing := [name for name, count in zip(classes, counts, strict=True) if not count]:
        progress.say(
            f"{where} has no images of {', '.join(missing)}: the model is not tested on those classes"
        )
