"""Hold out a test set where the data has none: stratified, by seed, and independent of any order."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bundle.progress import Progress
from training.data.class_names import LEAST_TO_TRAIN, check_counts
from training.data.dataset import Images
from training.errors import DataError

TEST_SHARE = 1 / 6
"""Of each class; MNIST's own test set is a seventh of it."""


def hold_out(
    keys: Sequence[str],
    labels: npt.NDArray[np.int64],
    classes: Sequence[str],
    *,
    share: float,
    seed: int,
    where: str,
) -> npt.NDArray[np.bool_]:
    """Choose the images of the test set.

    Within each class the images are ranked by SHA-256 of `"SEED:KEY"` and the first
    `round(share * n)`, at least one, are held out. So the choice depends on the seed, on the keys and on
    nothing else: not on the order of the images, not on other classes; and with images added,
    nearly all of those held out stay so.

    Args:
        keys: what identifies each image: its relative path, or its index.
        labels: `int64[n]`, each an index into `classes`.
        classes: the names.
        share: of each class, above 0 and below 1.
        seed: another one holds out other images.
        where: what they came from, for the error's sentence.

    Returns:
        `bool[n]`, true for the test set.

    Raises:
        DataError: the share is out of range, or a class is too small for one image to test with,
            one to train on and one to validate with.
    """
    if not 0 < share < 1:
        raise DataError(f"{share} is no share to hold out as test set: it must be above 0 and below 1")
    check_counts(labels, classes, LEAST_TO_TRAIN + 1, where)
    ranks = [hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogateescape")).digest() for key in keys]
    held_out = np.zeros(len(labels), dtype=bool)
    for label in range(len(classes)):
        members = np.flatnonzero(labels == label)
        count = min(max(1, math.floor(share * len(members) + 0.5)), len(members) - LEAST_TO_TRAIN)
        held_out[sorted(members, key=ranks.__getitem__)[:count]] = True
    return held_out


def hold_out_images(
    images: Images, classes: Sequence[str], *, share: float, seed: int, where: str, progress: Progress
) -> tuple[Images, Images]:
    """Return what is left to train on and the test set; an image's key is its place in the file.

    Raises:
        DataError: as `hold_out`.
    """
    keys = [str(index) for index in range(len(images))]
    chosen = hold_out(keys, images.labels, classes, share=share, seed=seed, where=where)
    say_held_out(where, chosen, seed, progress)
    return images.take(np.flatnonzero(~chosen)), images.take(np.flatnonzero(chosen))


def say_held_out(where: str, chosen: npt.NDArray[np.bool_], seed: int, progress: Progress) -> None:
    """Say that and how a test set was made."""
    progress.say(
        f"{where} has no test set: {chosen.sum()} of {len(chosen)} images are held out as one, of each "
        f"class the same share (seed {seed})"
    )
