"""Parts of a data set, stratified and by seed: for testing where it has no test set, validation, learning curves."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from common.progress import Progress
from training.data.class_names import LEAST_TO_TRAIN, check_counts
from training.data.dataset import Images
from training.errors import DataError

VALIDATION_SHARE = 12
"""One image in so many is held out for validation where no number is given."""
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


def split(images: Images, validation: int | None, seed: int) -> tuple[Images, Images]:
    """Split into a training and a validation part that keep the classes' proportions.

    None holds out one image in twelve, which of MNIST is 5,000.

    Each class gives its share of `validation`, rounded by largest remainder so that the shares sum
    to exactly that. Which images are held out depends on the seed alone.

    Raises:
        DataError: `validation` leaves nothing to train on, in all or of one class.
    """
    if validation is None:
        validation = len(images) // VALIDATION_SHARE
    if not 0 < validation < len(images):
        raise DataError(f"{validation} of {len(images)} images cannot be held out for validation")
    counts = np.bincount(images.labels)
    exact = counts * validation / len(images)
    shares = np.floor(exact).astype(np.int64)
    short = validation - int(shares.sum())
    shares[np.argsort(shares - exact, kind="stable")[:short]] += 1
    emptied = np.flatnonzero((shares == counts) & (counts > 0))
    if len(emptied):
        raise DataError(
            f"with {validation} of {len(images)} images held out for validation nothing is left to train on "
            f"of class {emptied[0]}, which has {counts[emptied[0]]}: lower --validation"
        )
    generator = np.random.default_rng(seed)
    held_out = np.zeros(len(images), dtype=bool)
    for label, share in enumerate(shares):
        members = np.flatnonzero(images.labels == label)
        held_out[generator.permutation(members)[:share]] = True
    return images.take(np.flatnonzero(~held_out)), images.take(np.flatnonzero(held_out))


def nested_order(labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """Return an order of all images of which every beginning is stratified, `int64[n]`.

    The k-th image of a class of m, in random order, is placed at (k + 1/2) / m on a common scale
    from 0 to 1, and all are sorted by that. So the first N are shared among the classes as seats
    are by Webster's rule, also Sainte-Lague's, and the first N are part of the first N + 1.
    """
    generator = np.random.default_rng(seed)
    place = np.empty(len(labels), dtype=np.float64)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(place, kind="stable")


def nested_subset(labels: npt.NDArray[np.int64], count: int, seed: int) -> npt.NDArray[np.int64]:
    """Return the indices of `count` images, ascending, with at least one image of each class.

    Raises:
        DataError: so small a part would leave a class out, or there are not as many images.
    """
    if not 0 < count <= len(labels):
        raise DataError(f"{count} of {len(labels)} training images cannot be taken")
    chosen = np.sort(nested_order(labels, seed)[:count])
    missing = np.setdiff1d(labels, labels[chosen])
    if len(missing):
        raise DataError(f"{count} images leave out class {missing[0]}: it is too rare for so small a part")
    return chosen
