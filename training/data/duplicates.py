"""Count images that occur more than once, above all those of the test set that were trained on."""

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass

from training.data.dataset import Images


@dataclass(frozen=True, kw_only=True, slots=True)
class Duplicates:
    """How many images have an exact twin: all 784 bytes equal.

    A conflict is a twin of another class: at least one of the two labels is wrong, or the picture
    cannot be told.
    """

    within_training: int
    """Training images that repeat an earlier one: the number of images less that of different ones."""
    within_training_conflicting: int
    """Training images that have a twin of another class in the training set."""
    between: int
    """Test images that have a twin in the training set: their answers were seen."""
    between_conflicting: int
    """Test images that have a twin of another class in the training set."""

    def sentence(self) -> str:
        """Say it on one line, for the log and the report."""
        return (
            f"{self.between} test images are also training images "
            f"({self.between_conflicting} of them under another class); "
            f"{self.within_training} training images repeat an earlier one "
            f"({self.within_training_conflicting} have a twin of another class)"
        )


def duplicates(training: Images, test: Images) -> Duplicates:
    """Count exact duplicates, by SHA-256 of each image's 784 bytes.

    Args:
        training: all that was trained on and validated with.
        test: the test set, after it was read for good.
    """
    twins: defaultdict[bytes, Counter[int]] = defaultdict(Counter)
    for digest, label in zip(_digests(training), training.labels.tolist(), strict=True):
        twins[digest][label] += 1
    between = [
        (twins[digest], label)
        for digest, label in zip(_digests(test), test.labels.tolist(), strict=True)
        if digest in twins
    ]
    return Duplicates(
        within_training=len(training) - len(twins),
        within_training_conflicting=sum(labels.total() for labels in twins.values() if len(labels) > 1),
        between=len(between),
        between_conflicting=sum(1 for labels, label in between if set(labels) != {label}),
    )


def _digests(images: Images) -> list[bytes]:
    return [hashlib.sha256(image.tobytes()).digest() for image in images.images]
