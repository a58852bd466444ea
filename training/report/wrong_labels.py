"""The labels of MNIST's test set that people have found wrong, and how many of a model's errors are among them.

Source: Northcutt, Athalye and Mueller, "Pervasive Label Errors in Test Sets Destabilize Machine Learning Benchmarks",
NeurIPS 2021 Datasets and Benchmarks (arXiv 2103.14749), table 1: 15 of the 100 images that they had checked. The facts
are from `mturk/mnist_mturk.json` of github.com/cleanlab/label-errors (Apache License 2.0): five people each were shown
an image and asked whether it has the given label, the guessed one, both or neither. A label is wrong where fewer than
three of the five chose the given one. The corrected label is the guessed one where at least three chose it; else it is
None, because the people did not agree on one.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from imagesets.names.known_sets import known_by_labels
from training.model.evaluation import Labels

TEST_IMAGES = 10_000


class WrongLabel(NamedTuple):
    """The label that an image has, and the one that three or more of five people gave it, if any."""

    given: int
    corrected: int | None


MNIST: Mapping[int, WrongLabel] = {
    947: WrongLabel(8, 9),
    1621: WrongLabel(0, 6),
    1901: WrongLabel(9, 4),
    2130: WrongLabel(4, None),
    2462: WrongLabel(2, 0),
    2597: WrongLabel(5, 3),
    2654: WrongLabel(6, None),
    3520: WrongLabel(6, None),
    3558: WrongLabel(5, 0),
    5937: WrongLabel(5, 3),
    6651: WrongLabel(0, 6),
    6783: WrongLabel(1, 6),
    8527: WrongLabel(4, None),
    9679: WrongLabel(6, None),
    9729: WrongLabel(5, 6),
}
"""Index of an image in the test set, from 0, to its labels."""


def sentence(labels: Labels, predicted: npt.NDArray[np.int64]) -> str:
    """Return how many of the misclassified images have a wrong label, or nothing if the data is not MNIST's test set.

    Args:
        labels: `int64[n]` of the whole test set, in its order.
        predicted: `int64[n]`.
    """
    known = known_by_labels(labels)
    if known is None or known.name != "mnist" or len(labels) != TEST_IMAGES:
        return ""
    found = [index for index in MNIST if predicted[index] != labels[index]]
    corrected = sum(bool(predicted[index] == MNIST[index].corrected) for index in found)
    return (
        f"Among the {int((predicted != labels).sum())} misclassified images, those whose labels people have found "
        f"wrong: {len(found)} of {len(MNIST)} (Northcutt, Athalye and Mueller, 2021); predicted as people agreed: "
        f"{corrected}."
    )
