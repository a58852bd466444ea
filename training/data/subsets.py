"""Parts of a training set for learning curves: each inside the next, each with the classes' proportions."""

import numpy as np
import numpy.typing as npt

from training.errors import DataError


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
