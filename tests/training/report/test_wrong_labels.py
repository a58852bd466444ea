"""The labels of MNIST's test set that people have found wrong, and the sentence about them."""

from pathlib import Path

import numpy as np
import pytest

from common.progress import Progress
from tests.training.subjects import DIGITS, an_epoch, some_metadata
from training.data.dataset import Images
from training.data.loading import load
from training.report import wrong_labels
from training.report.page import ReportData, render
from training.report.wrong_labels import MNIST, sentence


@pytest.fixture(scope="module")
def mnist(mnist_directory: Path) -> Images:
    """Return MNIST's test set."""
    return load("mnist", mnist_directory=mnist_directory, progress=Progress(quiet=True)).test()


def test_the_given_labels_are_those_of_the_test_set(mnist: Images) -> None:
    """Each index is of an image that has the label which is said to be wrong, and the corrected one is another."""
    assert len(MNIST) == 15
    for index, label in MNIST.items():
        assert mnist.labels[index] == label.given
        assert label.corrected != label.given


def test_errors_among_wrong_labels_are_counted(mnist: Images) -> None:
    """An error counts where the label is wrong, and apart from that where the prediction is what people agreed on."""
    predicted = mnist.labels.copy()
    predicted[947] = 9  # as people say
    predicted[1621] = 8  # neither as given nor as people say
    predicted[0] = 1  # a plain error
    said = sentence(mnist.labels, predicted)
    assert said.startswith("Among the 3 misclassified images")
    assert "2 of 15" in said
    assert said.endswith("predicted as people agreed: 1.")


def test_other_data_has_no_such_sentence(mnist: Images) -> None:
    """Neither another set's labels nor MNIST's in another order can be told by the indices."""
    assert not sentence(mnist.labels[::-1].copy(), mnist.labels)
    assert not sentence(np.zeros(10_000, np.int64), np.zeros(10_000, np.int64))


def test_the_report_of_mnist_says_it(mnist: Images) -> None:
    """The sentence stands above the misclassified images."""
    logits = np.eye(10, dtype=np.float32)[mnist.labels] * 9
    logits[947] = np.eye(10)[9] * 9
    metadata = some_metadata(mnist, logits, DIGITS)
    subject = ReportData(metadata=metadata, history=[an_epoch()], test=mnist, logits=logits)
    source = render(subject, np.ones((2, 784), np.float32))
    assert wrong_labels.sentence(mnist.labels, logits.argmax(axis=1)) in source
