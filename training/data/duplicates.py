"""Exact duplicates of images, above all test images that are also in the training set."""

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass

from training.data.dataset import Images


@dataclass(frozen=True, kw_only=True, slots=True)
class Duplicates:
    """The number of exact duplicates: images with equal 784 bytes.

    Duplicates conflict if their classes differ: at least one label is wrong, or the image is ambiguous.
    """

    within_training: int
    """Training images that repeat an earlier one: the number of images less that of distinct images."""
    within_training_conflicting: int
    """Training images with a duplicate of another class in the training set."""
    between: int
    """Test images with a duplicate in the training set, so that the model has seen them."""
    between_conflicting: int
    """Test images with a duplicate of another class in the training set."""

    def sentence(self) -> str:
        """Return a sentence for the log and the report."""
        return (
            f"{self.between} test images are also training images "
            f"({self.between_conflicting} of them with another class); "
            f"{self.within_training} training images repeat an earlier one "
            f"({self.within_training_conflicting} have a duplicate of another class)"
        )


def duplicates(training: Images, test: Images) -> Duplicates:
    """Count exact duplicates by the SHA-256 of each image's 784 bytes.

    Args:
        training: the training and validation images.
        test: the test set.
    """
    labels_by_digest: defaultdict[bytes, Counter[int]] = defaultdict(Counter)
    for digest, label in zip(_digests(training), training.labels.tolist(), strict=True):
        labels_by_digest[digest][label] += 1
    between = [
        (labels_by_digest[digest], label)
        for digest, label in zip(_digests(test), test.labels.tolist(), strict=True)
        if digest in labels_by_digest
    ]
    return Duplicates(
        within_training=len(training) - len(labels_by_digest),
        within_training_conflicting=sum(
            labels.total() for labels in labels_by_digest.values() if len(labels) > 1
        ),
        between=len(between),
        between_conflicting=sum(1 for labels, label in between if set(labels) != {label}),
    )


def _digests(images: Images) -> list[bytes]:
    return [hashlib.sha256(image.tobytes()).digest() for image in images.images]
