"""Known sets: their class names, and by what they are known."""

import struct

import numpy as np
import pytest
import torchvision.datasets as torchvision_datasets

from common.atomic_files import sha256_bytes
from imagesets.names import known_sets
from imagesets.names.class_names import checked_names
from imagesets.names.known_sets import (
    KNOWN,
    LABEL_COUNTS,
    LABELS_SHA256,
    known_by_labels,
    known_by_name,
)

FILES = {
    "emnist-mnist-train-images-idx3-ubyte.gz": "emnist-mnist",
    "emnist-letters-test.csv": "emnist-letters",
    "emnist-byclass.mat": "emnist-byclass",
    "kmnist-train-imgs.npz": "kmnist",
    "k49-train-imgs.npz": "kuzushiji-49",
    "X_kannada_MNIST_train-idx3-ubyte.gz": "kannada-mnist",
    "y_dig_MNIST.npz": "dig-mnist",
    "Dig-MNIST.csv": "dig-mnist",
    "qmnist-train-labels-idx2-int.gz": "qmnist",
    "xnist-images-idx3-ubyte.xz": "xnist",
    "fashion-mnist_train.csv": "fashion-mnist",
    "FashionMNIST": "fashion-mnist",
    "sign_mnist_test.csv": "sign-mnist",
    "A_Z Handwritten Data.csv": "az-handwritten",
    "csvTrainImages 60k x 784.csv": "arabic-digits",
    "csvTestLabel 10k x 1.csv": "arabic-digits",
    "pneumoniamnist.npz": "pneumoniamnist",
    "mnist": "mnist",
    "MNIST": "mnist",
    "mnist-letters.csv": None,
    "train-images-idx3-ubyte": None,
    "emnist.csv": None,
    "hmnist_28_28_L.csv": None,
    "ham10000": "ham10000",
    "colorectal-histology": "colorectal-histology",
}
"""A file's, folder's or set's name to the known set."""


@pytest.mark.parametrize("name", FILES)
def test_a_set_is_known_by_the_names_of_its_files(name: str) -> None:
    """Two sets are published as hmnist_28_28_L.csv, and three as train-images-idx3-ubyte."""
    known = known_by_name(name)
    assert (known.name if known else None) == FILES[name]


@pytest.mark.parametrize("name", KNOWN)
def test_the_names_of_a_known_sets_classes_are_valid_in_a_bundle(name: str) -> None:
    """And there is a number for each."""
    known = KNOWN[name]
    assert checked_names(known.classes, name) == known.classes
    assert len(known.names()) == len(known.classes)


def test_class_names_are_in_the_order_of_torchvisions() -> None:
    """Of EMNIST, whose letters have an unused first class there, and of Fashion-MNIST."""
    for split, classes in torchvision_datasets.EMNIST.classes_split_dict.items():
        expected = [name.upper() for name in classes[1:]] if split == "letters" else list(classes)
        assert list(KNOWN[f"emnist-{split}"].classes) == expected
    assert list(KNOWN["fashion-mnist"].classes) == torchvision_datasets.FashionMNIST.classes


def test_every_hash_and_count_of_labels_is_that_of_a_known_set() -> None:
    """Each set is there with its training and test part; QMNIST's training labels are MNIST's."""
    names = [*LABELS_SHA256.values(), *LABEL_COUNTS.values()]
    assert set(names) <= set(KNOWN)
    assert all(len(KNOWN[name].classes) == len(counts) for counts, name in LABEL_COUNTS.items())
    assert {name for name in names if names.count(name) == 2} == {
        *("mnist", "fashion-mnist", "kmnist", "kannada-mnist"),
        *(name for name in KNOWN if name.startswith("emnist-")),
    }


def test_kannada_mnists_labels_are_known_by_their_content() -> None:
    """They are 0 to 9, over and over: 60,000 in the training part, 10,000 in the test part, 10,240 in Dig-MNIST."""
    for count, name in ((60_000, "kannada-mnist"), (10_000, "kannada-mnist"), (10_240, "dig-mnist")):
        known = known_by_labels(np.arange(count) % 10)
        assert known is not None
        assert known.name == name
    assert known_by_labels(np.arange(60_001) % 10) is None
    assert known_by_labels(np.arange(0)) is None
    assert known_by_labels(np.array([-1, 300])) is None


def test_labels_are_known_in_their_order_and_ham10000s_by_their_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The hash is that of the labels as an IDX file."""
    labels = np.array([2, 0, 1])
    digest = sha256_bytes(struct.pack(">2I", 0x801, 3) + bytes([2, 0, 1]))
    monkeypatch.setattr(known_sets, "LABELS_SHA256", {digest: "kmnist"})
    assert known_by_labels(labels) is KNOWN["kmnist"]
    assert known_by_labels(labels[::-1]) is None
    counts = next(iter(LABEL_COUNTS))
    assert sum(counts) == 10_015
    assert known_by_labels(np.repeat(np.arange(7), counts)[::-1]) is KNOWN["ham10000"]
