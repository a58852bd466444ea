"""What a run found: the sum of its parts' statistics, against NumPy over all rows at once."""

import json
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from bundle import drift
from bundle.manifest import Histogram, Reference
from serving.scoring.records import Chunk, Predictions, Receipt
from serving.scoring.reporting.labels import Labels, open_labels
from serving.scoring.reporting.part_statistics import LEAST_KEPT, LOW_CONFIDENCE, PartStatistics
from serving.scoring.reporting.summary import (
    LabelsIdentity,
    Summary,
    interpret_psi,
    labels_identity,
    summary_lines,
)
from tests.serving.scoring.parts import a_chunk, a_receipt, numbered, some_images, some_predictions

CLASSES = ("cat", "dog", "bird", "eel")
COUNT = 900
PART = 256
REFERENCE = Reference(
    mean_ink=Histogram(edges=(0, 120, 127, 128, 135, 256), counts=(5, 10, 20, 30, 5)),
    border_brightness=Histogram(edges=(0, 110, 125, 140, 256), counts=(10, 40, 40, 10)),
    confidence=Histogram(edges=(0, 0.5, 1), counts=(10, 90)),
    predicted=(40, 30, 20, 10),
)
IMAGES = some_images(COUNT)
PREDICTIONS = some_predictions(COUNT, CLASSES)
ERRORS = {3: "a hole", 300: "another", 899: "the last"}
GOOD = np.array([at not in ERRORS for at in range(COUNT)])
TRUE = np.random.default_rng(4).integers(0, len(CLASSES), COUNT)


def part(first: int) -> tuple[Chunk, Predictions]:
    """Return the part that begins at a row."""
    rows = slice(first, min(first + PART, COUNT))
    chunk = a_chunk(
        IMAGES[rows],
        first=first,
        errors={at - first: text for at, text in ERRORS.items() if rows.start <= at < rows.stop},
        warnings={0: "odd"},
    )
    predictions = Predictions(
        probabilities=PREDICTIONS.probabilities[rows],
        indices=PREDICTIONS.indices[rows],
        labels=PREDICTIONS.labels[rows],
        confidences=PREDICTIONS.confidences[rows],
    )
    return chunk, predictions


@pytest.fixture
def labels(tmp_path: Path) -> Labels:
    """Return what the rows truly are."""
    np.save(tmp_path / "labels.npy", TRUE)
    return open_labels(str(tmp_path / "labels.npy"), CLASSES, numbered(len(TRUE)))


@pytest.fixture
def receipts(labels: Labels) -> list[Receipt]:
    """Return the parts' receipts, as they come back from their files."""
    statistics = PartStatistics(classes=CLASSES, reference=REFERENCE, labels=labels)
    made = []
    for number, first in enumerate(range(0, COUNT, PART)):
        chunk, predictions = part(first)
        tally = statistics.compute(chunk, predictions)
        assert tally == statistics.compute(chunk, predictions)
        made.append(a_receipt(number, chunk, json.loads(json.dumps(tally))))
    return made


def summed(receipts: list[Receipt], labels: Labels | None) -> Summary:
    """Return their sum."""
    given = LabelsIdentity(labels.where, labels.sha256) if labels else None
    summary = Summary(classes=CLASSES, reference=REFERENCE, labels=given)
    for receipt in receipts:
        summary.add(receipt)
    return summary


def test_counts_and_confidence(receipts: list[Receipt], labels: Labels) -> None:
    """Rows with an error count as such and as nothing else."""
    summary = summed(receipts, labels)
    confidences = PREDICTIONS.confidences[GOOD]
    assert (summary.rows, summary.errors, summary.scored, summary.warned) == (900, 3, 897, 4)
    assert summary.counts.tolist() == [int((PREDICTIONS.indices[GOOD] == k).sum()) for k in range(4)]
    assert summary.confidence / 897 == pytest.approx(confidences.mean(dtype=np.float64), rel=1e-9)
    assert summary.low_confidence == int((confidences < LOW_CONFIDENCE).sum())
    assert summary.first_errors == [("images", str(at), text) for at, text in ERRORS.items()]


def test_the_least_confident_are_those_of_the_whole_run(receipts: list[Receipt], labels: Labels) -> None:
    """However the parts are cut, the least confident rows are found, with their images and the next class."""
    rows = np.flatnonzero(GOOD)
    expected = rows[np.argsort(PREDICTIONS.confidences[rows], kind="stable")][:LEAST_KEPT]
    found = summed(receipts, labels).least
    assert [int(example.row) for example in found] == expected.tolist()
    for example in found:
        at = int(example.row)
        assert (example.image() == IMAGES[at]).all()
        best, second = np.argsort(-PREDICTIONS.probabilities[at])[:2]
        assert (example.index, example.second, example.true) == (best, second, TRUE[at])
        assert example.second_confidence == PREDICTIONS.probabilities[at, second]


def test_drift_is_that_of_all_images(receipts: list[Receipt], labels: Labels) -> None:
    """The index compares NumPy's histograms of all scored images with the manifest's."""
    pixels = IMAGES[GOOD].astype(np.float64)
    border = np.concatenate(
        [pixels[:, [0, -1]].reshape(897, -1), pixels[:, 1:-1, [0, -1]].reshape(897, -1)], axis=1
    )
    observed = {
        "mean_ink": np.histogram(pixels.mean(axis=(1, 2)), REFERENCE.mean_ink.edges)[0],
        "border_brightness": np.histogram(border.mean(axis=1), REFERENCE.border_brightness.edges)[0],
        "class": np.bincount(PREDICTIONS.indices[GOOD], minlength=4),
    }
    found = summed(receipts, labels).drift()
    for feature, reference in drift.references(REFERENCE).items():
        p, q = observed[feature] + 0.5, reference + 0.5
        p, q = p / p.sum(), q / q.sum()
        assert found[feature] == pytest.approx(((p - q) * np.log(p / q)).sum(), rel=1e-9)


def test_labels_are_compared(receipts: list[Receipt], labels: Labels) -> None:
    """The confusion matrix is that of all rows with an answer."""
    confusion = summed(receipts, labels).confusion
    expected = np.zeros((4, 4), int)
    np.add.at(expected, (TRUE[GOOD], PREDICTIONS.indices[GOOD]), 1)
    assert [[confusion.counts[t, p] for p in range(4)] for t in range(4)] == expected.tolist()
    assert confusion.images == 897
    assert confusion.right == np.trace(expected)


def test_rows_without_a_label_are_not_compared(tmp_path: Path) -> None:
    """Where only some rows have a label, the others count neither as right nor as wrong."""
    path = tmp_path / "labels.csv"
    path.write_text("row,label\n" + "".join(f"{at},{TRUE[at]}\n" for at in range(0, PART, 2)))
    some = open_labels(str(path), CLASSES, numbered(len(TRUE)))
    chunk, predictions = part(0)
    tally = PartStatistics(classes=CLASSES, reference=REFERENCE, labels=some).compute(chunk, predictions)
    summary = summed([a_receipt(0, chunk, tally)], some)
    compared = np.arange(0, PART, 2)
    assert summary.confusion.images == len(compared)
    assert summary.confusion.right == int((TRUE[compared] == PREDICTIONS.indices[compared]).sum())
    said = "\n".join(summary_lines(summary, seconds=1, rows_now=1))
    assert f"{PART - 1 - len(compared)} rows have no label" in said


def test_the_order_of_the_parts_changes_nothing(receipts: list[Receipt], labels: Labels) -> None:
    """Parts that end in any order give the same words."""
    expected = [*summary_lines(summed(receipts, labels), seconds=10, rows_now=900)]
    for order in permutations(receipts):
        assert [*summary_lines(summed([*order], labels), seconds=10, rows_now=900)] == expected


def test_the_summary_in_words(receipts: list[Receipt], labels: Labels) -> None:
    """Everything is printed: counts, confidence, drift, accuracy with its matrix, rate and errors."""
    summary = summed(receipts, labels)
    said = "\n".join(summary_lines(summary, seconds=2, rows_now=500))
    right = summary.confusion.right
    assert "900 rows, 897 scored, 3 with an error, 4 with a warning" in said
    assert "images 300: another" in said
    assert f"  cat  {summary.counts[0]:14,}" in said
    assert f"accuracy: {right / 897:.2%}, {right:,} of 897 equal --labels {labels.where}" in said
    assert said.count("(predicted)") == 1
    assert "drift of class: PSI " in said
    assert "rate: 250 images/s; 500 images in 0:02, 400 were complete before" in said


def test_parts_of_a_run_with_other_labels_are_not_compared(receipts: list[Receipt], labels: Labels) -> None:
    """What an earlier life compared with other labels, or with none, is left out, and said."""
    other = replace(labels, sha256="f" * 64)
    assert "4 parts were written by a run with other labels" in "\n".join(
        summary_lines(summed(receipts, other), seconds=1, rows_now=0)
    )
    without = PartStatistics(classes=CLASSES, reference=REFERENCE, labels=None)
    chunk, predictions = part(0)
    mixed = [a_receipt(0, chunk, without.compute(chunk, predictions)), *receipts[1:]]
    summary = summed(mixed, labels)
    assert (summary.uncompared, summary.confusion.images) == (1, 900 - 256 - 2)
    assert labels_identity(mixed) == LabelsIdentity(labels.where, labels.sha256)
    assert labels_identity(mixed[:1]) is None


def test_few_images_have_no_drift() -> None:
    """Below a hundred images the index is not printed."""
    chunk, predictions = part(768 + 64)
    statistics = PartStatistics(classes=CLASSES, reference=REFERENCE, labels=None)
    summary = summed([a_receipt(0, chunk, statistics.compute(chunk, predictions))], None)
    said = "\n".join(summary_lines(summary, seconds=1, rows_now=1))
    assert "PSI" not in said
    assert "fewer than 100 images" in said


def test_a_run_without_any_answer() -> None:
    """Where every row has an error there is nothing to divide by."""
    chunk = a_chunk(some_images(2), errors={0: "a", 1: "b"})
    tally = PartStatistics(classes=CLASSES, reference=REFERENCE, labels=None).compute(
        chunk, some_predictions(2, CLASSES)
    )
    summary = summed([a_receipt(0, chunk, tally)], None)
    assert "2 rows, 0 scored, 2 with an error" in "\n".join(summary_lines(summary, seconds=0, rows_now=2))
    assert summary.least == []


def test_thresholds_of_the_stability_index() -> None:
    """The usual limits are 0.1 and 0.25."""
    assert [interpret_psi(value) for value in (0.05, 0.2, 0.3)] == [
        "as in the validation set",
        "moderate drift",
        "strong drift: the images differ from the validation set",
    ]
