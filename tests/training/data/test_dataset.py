"""The data set: what is checked on reading, and how it is split."""

import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.progress import Progress
from imagesets.errors import DataError
from training.data.dataset import DataSet, Images, polarity
from training.data.loading import load_mnist
from training.data.splits import split


def numbered(labels: list[int]) -> Images:
    """Return images that can be told apart: each has its index in its first pixels."""
    images = np.zeros((len(labels), 28, 28), dtype=np.uint8)
    for index, image in enumerate(images):
        image[0, :4] = list(struct.pack(">I", index))
    return Images(images=images, labels=np.array(labels, dtype=np.int64))


def numbers(images: Images) -> list[int]:
    """Return the indices that `numbered` gave."""
    return [struct.unpack(">I", image[0, :4].tobytes())[0] for image in images.images]


def write_idx(path: Path, array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Path:
    """Write an IDX file by hand."""
    sizes = b"".join(struct.pack(">I", size) for size in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())
    return path


labelled = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(lambda labels: labels * 2)
"""Each class at least twice, so that half of the images can be held out without emptying one."""


@settings(deadline=None)
@given(labels=labelled, data=st.data(), seed=st.integers(0, 2**31 - 1))
def test_a_split_is_exact_complete_and_proportional(
    labels: list[int], data: st.DataObject, seed: int
) -> None:
    """Every image is in one part, the sizes are as asked, and each class gives its share within one image."""
    asked = data.draw(st.integers(1, len(labels) // 2))
    train, validation = split(numbered(labels), asked, seed)
    assert len(validation) == asked
    assert sorted(numbers(train) + numbers(validation)) == list(range(len(labels)))
    for part in (train, validation):
        assert part.labels.tolist() == [labels[index] for index in numbers(part)]
    for label in set(labels):
        share = Fraction(labels.count(label) * asked, len(labels))
        assert abs(int((validation.labels == label).sum()) - share) < 1


@settings(deadline=None)
@given(labels=labelled, seed=st.integers(0, 2**31 - 1))
def test_a_split_is_decided_by_the_seed_alone(labels: list[int], seed: int) -> None:
    """The same seed holds out the same images, whatever random numbers were drawn before."""
    first = numbers(split(numbered(labels), 1, seed)[1])
    np.random.seed(seed % 1000)  # noqa: NPY002 - the global generator must not matter
    torch.rand(3)
    assert numbers(split(numbered(labels), 1, seed)[1]) == first


def test_another_seed_holds_out_other_images() -> None:
    """Over many seeds, every image is held out sometimes and none always."""
    images = numbered([0, 1] * 10)
    held_out = [set(numbers(split(images, 6, seed)[1])) for seed in range(60)]
    assert set.union(*held_out) == set(range(20))
    assert set.intersection(*held_out) == set()


@pytest.mark.parametrize("validation", [0, -1, 10, 11])
def test_a_split_that_leaves_nothing_is_rejected(validation: int) -> None:
    """Holding out nothing, everything or more is a DataError that says both numbers."""
    with pytest.raises(DataError, match=f"{validation} of 10 images"):
        split(numbered([0, 1] * 5), validation, 0)


def test_a_split_that_empties_a_class_is_rejected() -> None:
    """No class is left without an image to train on; the error names it."""
    with pytest.raises(DataError, match="no image is left to train on of class 1, which has 2"):
        split(numbered([0] * 10 + [1] * 2), 11, 0)


def test_without_a_number_one_image_in_twelve_is_held_out() -> None:
    """Of 36 images that is 3."""
    assert len(split(numbered([0, 1] * 18), None, 0)[1]) == 3


def test_mnist_is_split_55000_to_5000(mnist_directory: Path) -> None:
    """MNIST has its classes, its counts and its polarity, and its split keeps every class's share."""
    mnist = load_mnist(mnist_directory, Progress(quiet=True))
    assert (mnist.name, mnist.classes) == ("mnist", tuple("0123456789"))
    assert mnist.training.images.shape == (60_000, 28, 28)
    assert polarity(mnist.training.images) == "white-on-black"
    train, validation = split(mnist.training, 5000, 0)
    assert (len(train), len(validation)) == (55_000, 5000)
    # Class counts of MNIST's training set, by its own description.
    counts = np.array([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])
    assert (np.bincount(mnist.training.labels) == counts).all()
    assert (np.abs(np.bincount(validation.labels) - counts / 12) < 1).all()
    assert len(mnist.test()) == 10_000


def test_the_test_set_is_read_once() -> None:
    """Reading it is put off until it is asked for; asking a second time is a programming error."""
    reads = []

    def read() -> Images:
        reads.append(1)
        return numbered([0, 1])

    data = DataSet(name="x", classes=("a", "b"), sha256={}, training=numbered([0, 1]), read_test=read)
    assert reads == []
    assert len(data.test()) == 2
    with pytest.raises(RuntimeError, match="read once"):
        data.test()
    assert reads == [1]


def test_resident_tensors_stay_bytes() -> None:
    """On the device the images are uint8 and the labels int64, with the same content."""
    images = numbered([0, 1, 1])
    resident = images.to(torch.device("cpu"))
    assert (resident.images.dtype, resident.labels.dtype) == (torch.uint8, torch.int64)
    assert (resident.images.numpy() == images.images).all()
    assert resident.labels.tolist() == [0, 1, 1]
    assert len(resident) == len(images) == 3


def test_polarity_is_what_most_borders_show() -> None:
    """Dark paper is white on black, bright paper black on white, and a few odd images change nothing."""
    dark = np.full((10, 28, 28), 3, dtype=np.uint8)
    dark[:, 10:18, 10:18] = 255
    assert polarity(dark) == "white-on-black"
    assert polarity(255 - dark) == "black-on-white"
    dark[:4] = 255 - dark[:4]
    assert polarity(dark) == "white-on-black"
