"""The training report: complete, self-contained, small, and safe with any class name."""

import dataclasses
import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundle.manifest import Metrics
from common.html.confusion_matrix import MAX_LISTED_CLASSES, MAX_MATRIX_CLASSES
from common.html.frame import page, visible
from common.html.sprite_sheet import COLUMNS
from tests.idx_arrays import read_idx
from tests.pages import Document, sprite_sheet, sprites
from tests.training.subjects import DIGITS, an_epoch, report_data
from training.data.dataset import Images
from training.data.duplicates import Duplicates
from training.loop.state import Epoch
from training.model.evaluation import expected_calibration_error, log_softmax
from training.report.figures import Bins
from training.report.page import (
    MAX_BYTES,
    ReportData,
    render,
    training_sample,
)
from training.report.robustness_table import robustness_table

pytestmark = pytest.mark.service  # a report's figures take half a second to draw

WEIGHTS = np.random.default_rng(0).normal(0, 0.05, (256, 784)).astype(np.float32)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)
"""A manifest takes no lone surrogates."""
NASTY = (
    "<script>alert(1)</script>",
    "a & b",
    "\"quoted\" 'twice'",
    "</table></style>",
    "שלום",
    "turned \u202eback",
    "naïve 日本語 👩\u200d🚀",
    "x" * 200,
    "a|b`c*d_e",
    "$title ${sprites}",
)


@pytest.fixture(scope="module")
def subject() -> ReportData:
    """Return a model of ten classes with 40 mistakes in 600 answers."""
    return report_data()


@pytest.fixture(scope="module")
def source(subject: ReportData) -> str:
    """Return its report."""
    return render(subject, WEIGHTS)


def test_nothing_comes_from_outside(source: str) -> None:
    """The page has no script, and every reference in it is to itself."""
    document = Document(source)
    assert {tag for tag, _ in document.elements} & {"script", "link", "iframe", "object", "base"} == set()
    references = [*document.values("src"), *document.values("href"), *document.values("xlink:href")]
    references += re.findall(r"url\(([^)]*)\)", source)
    assert len(references) > 20
    assert [given for given in references if not given.startswith(("#", "data:image/png;base64,"))] == []
    assert set(re.findall(r"https?://[^\"\s]*", source)) == {"http://www.w3.org/1999/xlink"}
    assert not [name for _, given in document.elements for name in given if name.startswith("on")]


def test_it_is_well_formed(source: str) -> None:
    """Every tag is closed, every id is there once, and everything that is referred to exists."""
    document = Document(source)
    ids = document.values("id")
    assert len(ids) == len(set(ids))
    referred = [*document.values("href"), *document.values("xlink:href")]
    referred += re.findall(r"url\((#[^)]*)\)", source)
    assert {given[1:] for given in referred if given[0] == "#"} <= set(ids)
    assert set(document.values("aria-labelledby")) <= set(ids)


def test_it_can_be_read_without_seeing(source: str) -> None:
    """Every picture has a text, every table its headings, and headings skip no level."""
    document = Document(source)
    for tag, told in document.elements:
        if tag == "img":
            assert told["alt"]
        if tag == "svg" or told.get("role") in ("img", "region"):
            assert told["aria-label"]
    assert ("html", {"lang": "en"}) in document.elements
    headings = [int(tag[1]) for tag, _ in document.elements if re.fullmatch(r"h\d", tag)]
    assert headings[0] == 1
    assert all(level <= before + 1 for before, level in pairwise(headings))
    assert all(given["scope"] in ("row", "col") for tag, given in document.elements if tag == "th")


def test_its_colours_can_be_told_apart() -> None:
    """Text on its background has a contrast of 4.5 and more (WCAG 2.2, 1.4.3), on light and on dark pages."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    def contrast(one: str, other: str) -> float:
        high, low = sorted((luminance(one), luminance(other)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    roots = re.findall(r":root \{([^}]*--paper[^}]*)\}", page("", "", []))
    assert len(roots) == 3  # light, dark, print
    for root in roots:
        colours: dict[str, str] = dict(re.findall(r"--(\w+): (#\w+);", root))
        for ink in ("ink", "quiet", "link"):
            for paper in ("paper", "panel"):
                assert contrast(colours[ink], colours[paper]) >= 4.5
        for line in ("training", "validation", "good", "bad"):
            assert contrast(colours[line], colours["paper"]) >= 3


def test_the_same_subject_gives_the_same_bytes(subject: ReportData, source: str) -> None:
    """A report holds no time of its own and no random names."""
    assert render(subject, WEIGHTS) == source


def test_every_mistake_is_shown_with_target_and_prediction(subject: ReportData, source: str) -> None:
    """Each card has the image itself, t, the three best classes of p, and the place in the test set."""
    probabilities = np.exp(log_softmax(subject.logits, subject.metadata.temperature))
    predicted = subject.logits.argmax(axis=1)
    wrong = np.flatnonzero(predicted != subject.test.labels)
    order = sorted(wrong, key=lambda index: -probabilities[index].max())
    cards = Document(source).mistakes()
    assert len(cards) == len(wrong) == 40
    for card, pixels, index in zip(cards, sprites(source), order, strict=True):
        best = np.argsort(-probabilities[index])[:3]
        said = re.fullmatch(r"t = (\d)\np = (\d): (\S+)\n(\d): (\S+)\n(\d): (\S+)\n#(\d+)", card)
        assert said
        assert int(said[1]) == subject.test.labels[index]
        assert [int(said[k]) for k in (2, 4, 6)] == best.tolist()
        assert int(said[8]) == index
        for shown, probability in zip((said[3], said[5], said[7]), probabilities[index, best], strict=True):
            assert abs(float(shown.strip("<%")) / 100 - probability) <= 0.01
        assert np.array_equal(pixels, subject.test.images[index])


def test_a_model_without_mistakes_has_a_report() -> None:
    """Where every answer is right the page says so."""
    source = render(report_data(wrong=0), WEIGHTS)
    assert "None: all 600 test images are classified correctly." in source
    assert Document(source).mistakes() == []


def test_four_thousand_mistakes_fit(mnist_directory: Path) -> None:
    """A bad model of MNIST shows 4,000 mistakes, all of them, on less than 2 MB."""
    images = read_idx(mnist_directory / "t10k-images-idx3-ubyte", 3)
    subject = report_data(count=10_000, wrong=4_000)
    subject = dataclasses.replace(subject, test=Images(images=images, labels=subject.test.labels))
    source = render(subject, WEIGHTS)
    document = Document(source)
    assert len(document.mistakes()) == 4_000
    assert "omitted" not in source
    assert len(source.encode()) < MAX_BYTES
    first = int(document.mistakes()[0].rsplit("#", 1)[1])
    shades = np.unique(np.abs(sprites(source)[0].astype(int) - images[first]))
    assert shades.max() <= 9  # at worst half a step of 16 greys


def test_what_does_not_fit_is_left_out_and_counted() -> None:
    """With 12,000 mistakes that cannot be compressed, 62 classes and long names the page stays under 2 MB."""
    names = [f"class {number:02d} " + "ß<&" * 40 for number in range(62)]
    source = render(report_data(count=12_000, wrong=12_000, classes=names, noise=True), WEIGHTS)
    shown = len(Document(source).mistakes())
    assert MAX_BYTES * 0.9 < len(source.encode()) <= MAX_BYTES
    assert 1_000 < shown < 12_000
    assert f"<strong>{12_000 - shown} images are omitted</strong>, those with the lowest confidence" in source
    assert "have 16 grey levels" in source
    assert sprite_sheet(source).shape == (28 * -(-shown // COLUMNS), 28 * COLUMNS)


def test_62_classes_stay_small() -> None:
    """The size of an EMNIST report is what its mistakes take: the matrix of 62 classes is a small part."""
    names = (*DIGITS, *(chr(65 + k) for k in range(26)), *(chr(97 + k) for k in range(26)))
    source = render(report_data(count=5_000, wrong=500, classes=names), WEIGHTS)
    assert len(source.encode()) < MAX_BYTES / 2
    assert len(Document(source).table("")) > 0


@pytest.mark.parametrize("count", [MAX_MATRIX_CLASSES + 1, MAX_LISTED_CLASSES + 100])
def test_very_many_classes_are_listed_and_not_drawn(count: int) -> None:
    """Beyond 100 classes the matrix gives way to its largest entries, and beyond 500 the table is cut."""
    names = [f"n{number}" for number in range(count)]
    source = render(report_data(count=2_000, wrong=300, classes=names), WEIGHTS)
    assert f"The matrix of {count} classes is not drawn" in source
    rows = Document(source).table("class")
    assert len(rows) == 2 + min(count, MAX_LISTED_CLASSES)
    assert ("are not listed" in source) == (count > MAX_LISTED_CLASSES)


def test_class_names_are_text() -> None:
    """Names with HTML, quotes, other scripts and turned directions appear as they are, wherever they stand."""
    source = render(report_data(classes=NASTY), WEIGHTS)
    document = Document(source)
    assert "script" not in {tag for tag, _ in document.elements}
    shown = [row[0] for row in document.table("class")[1:-1]]
    assert shown == [visible(name) for name in NASTY]
    assert "\u202e" not in source
    assert "<bdi>שלום</bdi>" in source


@cache
def usual_elements(classes: int) -> set[str]:
    """Return the kinds of elements of a report with so many plain names."""
    subject = report_data(count=60, wrong=9, classes=[f"{k:04d}" for k in range(classes)])
    return {tag for tag, _ in Document(render(subject, WEIGHTS[:4])).elements}


@settings(max_examples=8, deadline=None)
@given(names=st.lists(NAMES, min_size=2, max_size=3, unique=True))
def test_any_class_name_leaves_the_page_whole(names: list[str]) -> None:
    """Whatever characters names have, the page is well-formed UTF-8 with no kinds of elements but the usual."""
    source = render(report_data(count=60, wrong=9, classes=names), WEIGHTS[:4])
    assert {tag for tag, _ in Document(source).elements} <= usual_elements(len(names)) | {"bdi", "span"}
    assert len(source.encode()) < MAX_BYTES


def test_precision_recall_and_f1_are_those_of_a_plain_loop(subject: ReportData, source: str) -> None:
    """The table of classes has what counting image by image gives."""
    rows = Document(source).table("class")[1:-1]
    predicted = subject.logits.argmax(axis=1)
    for label, row in enumerate(rows):
        hits = sum(1 for t, p in zip(subject.test.labels, predicted, strict=True) if t == p == label)
        true = sum(1 for t in subject.test.labels if t == label)
        guessed = sum(1 for p in predicted if p == label)
        assert row[1:3] == [str(true), str(guessed)]
        expected = [hits / guessed, hits / true, 2 * hits / (guessed + true)]
        assert row[3:] == [f"{value:.2%}" for value in expected]


def test_the_confusion_matrix_counts(subject: ReportData, source: str) -> None:
    """Rows are true classes, columns predicted ones, and empty cells are zeros."""
    matrix = next(rows for rows in Document(source).tables if len(rows) == 11 and len(rows[0]) == 11)
    counts = [[int(cell or 0) for cell in row[1:]] for row in matrix[1:]]
    predicted = subject.logits.argmax(axis=1)
    for true in range(10):
        for guess in range(10):
            expected = ((subject.test.labels == true) & (predicted == guess)).sum()
            assert counts[true][guess] == expected


def test_a_class_that_is_never_there_has_no_shares() -> None:
    """A class without test images and predictions has a dash where a share would divide by nothing."""
    subject = report_data(wrong=0)
    keep = subject.test.labels != 9
    subject = dataclasses.replace(
        subject, test=subject.test.take(np.flatnonzero(keep)), logits=subject.logits[keep], changed={}
    )
    row = Document(render(subject, WEIGHTS)).table("class")[10]
    assert row == ["9", "0", "0", *3 * ["\N{EN DASH}"]]


def test_bins_are_those_of_the_calibration_error(subject: ReportData) -> None:
    """The reliability diagram's bins give the ECE that the manifest states, before and after calibration."""
    for temperature in (1.0, 0.5, 3.0):
        bins = Bins.of(subject.logits, subject.test.labels, temperature)
        expected = expected_calibration_error(subject.logits, subject.test.labels, temperature)
        assert bins.error == pytest.approx(expected, abs=1e-12)
        assert bins.count.sum() == len(subject.test)


def test_changed_images_have_their_errors_by_class(subject: ReportData, source: str) -> None:
    """The test error as the images are and after each change, of all and of each class, by a plain count."""
    (rows,) = (rows for rows in Document(source).tables if rows[0][:2] == ["", "all"])
    assert rows[0][2:] == list(subject.metadata.classes)
    labels = subject.test.labels
    guesses = {"as they are": subject.logits.argmax(1), **subject.changed}
    assert [row[0] for row in rows[1:]] == list(guesses)
    for row, guess in zip(rows[1:], guesses.values(), strict=True):
        groups = [labels >= 0, *(labels == index for index in range(len(subject.metadata.classes)))]
        for cell, group in zip(row[1:], groups, strict=True):
            expected = 100 * sum(guess[group] != labels[group]) / sum(group)
            assert float(cell) == pytest.approx(expected, abs=0.05)
    assert "The training images were not augmented." in source
    assert "expects" not in rows[0]
    assert "trained on white on black: an inverted image" in source


def test_the_errors_of_very_many_classes_are_not_split(subject: ReportData) -> None:
    """A table of 101 columns would help nobody; a class without test images has an empty cell."""
    labels, guesses = np.array([0, 0, 1, 1]), {"inverted": np.array([0, 1, 1, 1])}
    assert "25.0%" in robustness_table([str(index) for index in range(101)], labels, guesses)
    assert "<td></td></tr>" in robustness_table(["0", "1", "2"], labels, guesses)


def test_a_temperature_of_one_says_why(subject: ReportData, source: str) -> None:
    """Where no temperature held up on held-out images, the report says that nothing was calibrated."""
    metadata = subject.metadata.model_copy(update={"temperature": 1.0})
    assert "no other had a lower log loss" in render(dataclasses.replace(subject, metadata=metadata), WEIGHTS)
    assert "no other had a lower log loss" not in source


def test_changed_settings_stand_out() -> None:
    """What differs from the default is listed first with that default, and everything else is there too."""
    subject = report_data(epochs=7, hidden=(300, 100))
    document = Document(render(subject, WEIGHTS))
    rows = [rows for rows in document.tables if rows[0][0] == "setting"]
    assert [row[:3] for row in rows[0][1:]] == [["epochs", "7", "20"], ["hidden", "300,100", "512,256"]]
    assert {row[0] for table in rows for row in table[1:]} == set(subject.metadata.hyperparameters)


def test_lineage_is_complete(subject: ReportData) -> None:
    """Run, code, data and packages are named, and duplicates where they were counted."""
    twins = Duplicates(within_training=3, within_training_conflicting=1, between=2, between_conflicting=0)
    source = render(dataclasses.replace(subject, duplicates=twins), WEIGHTS)
    metadata = subject.metadata
    for stated in (metadata.run_id, metadata.environment.code_revision, "a" * 64, "2.14.1", metadata.created):
        assert stated in source
    assert "2 test images are also training images" in source
    assert "also training images" not in render(subject, WEIGHTS)


def test_the_teachers_of_a_distilled_model_are_its_lineage(subject: ReportData) -> None:
    """Each is named with its digest."""
    metadata = subject.metadata.model_copy(update={"teachers": {"mnist/3": "c" * 64}})
    document = Document(render(dataclasses.replace(subject, metadata=metadata), WEIGHTS))
    assert ["teacher mnist/3", "c" * 64] in [row for rows in document.tables for row in rows]


def test_the_gap_is_measured_at_rest(subject: ReportData) -> None:
    """With the published weights measured on training images the gap is theirs, and the curves show them."""
    at_rest = Metrics(images=10_000, accuracy=0.999, nll=0.01, ece=0, nll_calibrated=0.01, ece_calibrated=0)
    source = render(dataclasses.replace(subject, training=at_rest), WEIGHTS)
    assert "a generalisation gap of 1.70 percentage points" in source  # 99.9% - 98.2%
    assert "training, published weights" in source
    assert "training, published weights" not in render(subject, WEIGHTS)


@pytest.mark.parametrize(
    ("history", "weights"),
    [
        ([an_epoch(1)], WEIGHTS),
        ([an_epoch(n, train_accuracy=1.0, train_loss=0.0) for n in (1, 2)], WEIGHTS),
        ([an_epoch(n) for n in range(1, 401)], WEIGHTS[:10]),
        ([an_epoch(n, train_loss=100.0 / n**4) for n in range(1, 30)], np.zeros_like(WEIGHTS)),
    ],
    ids=["one epoch", "nothing wrong in training", "400 epochs, softmax regression", "dead weights"],
)
def test_unusual_runs_have_reports(
    subject: ReportData, history: list[Epoch], weights: npt.NDArray[np.float32]
) -> None:
    """One epoch, a perfect training loss, hundreds of epochs and weights of 0 are drawn like any other."""
    source = render(dataclasses.replace(subject, history=history), weights)
    Document(source)
    assert "nan" not in " ".join(re.findall(r' d="([^"]*)"', source)).lower()


def test_a_training_sample_is_spread_evenly() -> None:
    """At most 10,000 images are taken, from the first to the last, and all where there are fewer."""
    labels = np.arange(30_001)
    images = Images(images=np.zeros((30_001, 28, 28), dtype=np.uint8), labels=labels)
    chosen = training_sample(images)
    assert len(chosen) == 10_000
    assert (chosen.labels[0], chosen.labels[-1]) == (0, 30_000)
    assert set(np.diff(chosen.labels)) <= {3, 4}
    few = images.take(np.arange(7))
    assert np.array_equal(training_sample(few).labels, few.labels)
