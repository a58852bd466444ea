"""Stratified, seeded splits: a held-out test set, a validation set, and nested subsets for learning curves."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from common.progress import Progress
from imagesets.errors import DataError
from training.data.class_names import LEAST_TO_TRAIN, check_counts
from training.data.dataset import DataSet, Images

VALIDATION_SHARE = 12
"""One image in 12 is held out for validation by default."""
TEST_SHARE = 1 / 6
"""Default share of each class for the test set; MNIST's test set is a seventh."""


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

    In each class the images are ranked by the SHA-256 of `"SEED:KEY"`, and the first `round(share * n)`, at least one,
    are held out. The choice therefore depends on seed and keys alone, not on the order of the images or on other
    classes, and when images are added, nearly all held-out images stay held out.

    Args:
        keys: identify the images: relative paths, or indices.
        labels: `int64[n]`, indices into `classes`.
        classes: the class names.
        share: of each class, above 0 and below 1.
        seed: of the choice.
        where: the source of the images, for error messages.

    Returns:
        `bool[n]`, true for the test set.

    Raises:
        DataError: the share is out of range, or a class has too few images for training, validation and testing.
    """
    if not 0 < share < 1:
        raise DataError(f"test_share is {share}: it must be above 0 and below 1")
    check_counts(labels, classes, LEAST_TO_TRAIN + 1, where)
    ranks = [hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogateescape")).digest() for key in keys]
    held_out = np.zeros(len(labels), dtype=bool)
    for label in range(len(classes)):
        members = np.flatnonzero(labels == label)
        count = min(max(1, math.floor(share * len(members) + 0.5)), len(members) - LEAST_TO_TRAIN)
        held_out[sorted(members, key=ranks.__getitem__)[:count]] = True
    return held_out


def say_held_out(where: str, chosen: npt.NDArray[np.bool_], seed: int, progress: Progress) -> None:
    """Log how the test set was chosen."""
    progress.say(
        f"{where} has no test set: {chosen.sum()} of {len(chosen)} images are held out, the same share of each "
        f"class (seed {seed})"
    )


def split_data(data: DataSet, validation: int | None, seed: int) -> tuple[Images, Images]:
    """Return the training and validation images of a data set: its own validation images if it has some, else `split`.

    Raises:
        DataError: the data has validation images of its own, and a number of them is given.
    """
    if data.validation is None:
        return split(data.training, validation, seed)
    if validation is not None:
        raise DataError(
            f"{data.name} has {len(data.validation)} validation images of its own: leave out --validation"
        )
    return data.training, data.validation


def split(images: Images, validation: int | None, seed: int) -> tuple[Images, Images]:
    """Return stratified training and validation sets.

    The default for `validation` is one image in twelve, which is 5,000 of MNIST. Each class contributes its share,
    rounded by largest remainders so that the shares sum to `validation`. The choice depends on the seed alone.

    Raises:
        DataError: `validation` leaves no training images, in total or of a class; or all training images are the same.
    """
    if validation is None:
        validation = len(images) // VALIDATION_SHARE
    if not 0 < validation < len(images):
        raise DataError(
            f"{validation} of {len(images)} images cannot be held out for validation: lower --validation"
        )
    counts = np.bincount(images.labels)
    exact = counts * validation / len(images)
    shares = np.floor(exact).astype(np.int64)
    short = validation - int(shares.sum())
    shares[np.argsort(shares - exact, kind="stable")[:short]] += 1
    emptied = np.flatnonzero((shares == counts) & (counts > 0))
    if len(emptied):
        raise DataError(
            f"with {validation} of {len(images)} images held out for validation no image is left to train on "
            f"of class {emptied[0]}, which has {counts[emptied[0]]}: lower --validation"
        )
    generator = np.random.default_rng(seed)
    held_out = np.zeros(len(images), dtype=bool)
    for label, share in enumerate(shares):
        members = np.flatnonzero(images.labels == label)
        held_out[generator.permutation(members)[:share]] = True
    training = images.take(np.flatnonzero(~held_out))
    if len(training) > 1 and (training.images == training.images[0]).all():
        raise DataError(
            f"all {len(training)} training images are the same, so nothing can be learnt from them: look at them, "
            "and at how they were converted"
        )
    return training, images.take(np.flatnonzero(held_out))


def nested_order(labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """Return an order of all images of which every prefix is stratified, `int64[n]`.

    The k-th image of a class of m, in random order, gets the key (k + 1/2) / m, and all images are sorted by it. The
    first N are thus divided among the classes by Webster's (Sainte-Lague's) method, and are part of the first N + 1.
    """
    generator = np.random.default_rng(seed)
    place = np.empty(len(labels), dtype=np.float64)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(place, kind="stable")


def nested_subset(labels: npt.NDArray[np.int64], count: int, seed: int) -> npt.NDArray[np.int64]:
    """Return the indices of the first `count` images in the nested order, ascending.

    Raises:
        DataError: there are fewer images, or the subset has no image of some class.
    """
    if not 0 < count <= len(labels):
        raise DataError(f"{count} of {len(labels)} training images cannot be taken")
    chosen = np.sort(nested_order(labels, seed)[:count])
    missing = np.setdiff1d(labels, labels[chosen])
    if len(missing):
        raise DataError(f"a subset of {count} images has none of class {missing[0]}, which is too rare")
    return chosen
