"""`idx:DIR`: MNIST and its siblings, found by the names of their files.

A set is two pairs of files, raw or `.gz` (raw is preferred), with an optional prefix: `train-images-idx3-ubyte` and
`train-labels-idx1-ubyte` for training, `t10k-...` or `test-...` for testing. MNIST, Fashion-MNIST and KMNIST have no
prefix; the six sets of EMNIST have `emnist-balanced-` and so on. `idx:DIR#emnist-letters` chooses among several sets in
a directory, and `idx:DIR#kmnist` also identifies files without a prefix whose labels do not.

Class names are the lines of `classes.txt` in the directory, or those of EMNIST's mapping file
(`emnist-letters-mapping.txt`), or those known for the set, or else the labels.

**EMNIST stores its images column by column**, that is transposed, and torchvision returns them so. Here they are
transposed to be upright, like the images that clients send to the service. EMNIST Letters counts labels from 1; here
they count from 0. Source of the data: G. Cohen, S. Afshar, J. Tapson, A. van Schaik, "EMNIST: an extension of MNIST to
handwritten letters", arXiv:1702.05373.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.progress import Progress
from training.data.class_names import (
    LEAST_TO_TRAIN,
    NAMES_FILE,
    check_counts,
    check_range,
    checked_names,
    read_names,
    say_untested,
)
from training.data.dataset import DataSet, Images
from training.data.formats.idx import read_idx, read_pair
from training.data.formats.idx_files import choose, hashes, parse
from training.data.formats.known_sets import KnownSet, read_mapping, recognised
from training.data.splits import hold_out_images
from training.errors import DataError

LABELS = 256
"""Largest number of classes: labels are bytes."""


def load_idx(path: str, *, seed: int, test_share: float, progress: Progress) -> DataSet:
    """Read a set of IDX files; `path` is `DIR` or `DIR#SET`.

    The test images are not parsed before `DataSet.test()`: until then the files are only hashed, and the header is
    compared with the number of labels. The test labels are read and checked.

    The SHA-256s of the data set are those of the uncompressed files.

    Raises:
        DataError: there is no set, or several; a file of it is missing or invalid; images are not 28x28; or a class has
            too few images.
    """
    directory, chosen = parse(path)
    prefix, files, known = choose(directory, chosen)
    images_file, labels_file = files[("train", "images")], files[("train", "labels")]
    stored = read_pair(images_file, labels_file, LABELS)
    sha256 = hashes(files, "train", len(stored))
    known = known or recognised(labels_file, sha256[labels_file])
    classes = _classes(directory, prefix, known, int(stored.labels.max(initial=0)))
    training = _upright(stored, known, len(classes), labels_file)
    if ("test", "images") in files:
        check_counts(training.labels, classes, LEAST_TO_TRAIN, str(labels_file))
        images_file, labels_file = files[("test", "images")], files[("test", "labels")]
        labels = _from_zero(read_idx(labels_file, 1), known, len(classes), labels_file)
        say_untested(str(labels_file), labels, classes, progress)
        test_sha256 = hashes(files, "test", len(labels))
    else:
        training, held_out = hold_out_images(
            training, classes, share=test_share, seed=seed, where=str(directory), progress=progress
        )
        test_sha256 = {}

    def read_test() -> Images:
        if not test_sha256:
            return held_out
        if hashes(files, "test", len(labels)) != test_sha256:
            raise DataError(f"{images_file} or its labels were changed during training: train again")
        return _upright(read_pair(images_file, labels_file, LABELS), known, len(classes), labels_file)

    return DataSet(
        name=known.name if known else prefix or directory.resolve().name or "idx",
        classes=classes,
        sha256={file.name.removesuffix(".gz"): value for file, value in (sha256 | test_sha256).items()},
        training=training,
        read_test=read_test,
        is_handwriting=known is not None and known.handwriting,
    )


def _classes(directory: Path, prefix: str, known: KnownSet | None, highest: int) -> tuple[str, ...]:
    if (directory / NAMES_FILE).exists():
        return read_names(directory / NAMES_FILE)
    mapping = directory / f"{prefix}-mapping.txt"
    if known and known.prefixed and mapping.exists():
        return checked_names(read_mapping(mapping, known.first_label), str(mapping))
    if known:
        return known.classes
    return checked_names([str(label) for label in range(highest + 1)], str(directory))


def _upright(stored: Images, known: KnownSet | None, classes: int, where: Path) -> Images:
    """Return the images upright and the labels counted from 0."""
    labels = _from_zero(stored.labels, known, classes, where)
    if known and known.transposed:
        return Images(images=np.ascontiguousarray(stored.images.transpose(0, 2, 1)), labels=labels)
    return Images(images=stored.images, labels=labels)


def _from_zero(
    labels: npt.NDArray[np.integer], known: KnownSet | None, classes: int, where: Path
) -> npt.NDArray[np.int64]:
    first = known.first_label if known else 0
    return check_range(labels.astype(np.int64) - first, classes, str(where))
