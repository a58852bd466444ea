"""The page about a run: complete, self-contained, and safe with whatever names rows and classes have."""

import re
from pathlib import Path

import numpy as np
import pytest

from bundle.manifest import Histogram, Reference
from serving.scoring import report
from serving.scoring.errors import WriteError
from serving.scoring.labels import open_labels
from serving.scoring.summary import LEAST_KEPT, LabelsGiven, Summary, Tallier
from tests.pages import Document, cuttings
from tests.serving.scoring.parts import a_chunk, a_receipt, some_answers, some_images

NASTY = (
    "<script>alert(1)</script>",
    "a & b",
    "\"quoted\" 'twice'",
    "שלום",
    "turned \u202eback",
    "$title ${sheet}",
)
COUNT = 300


def a_page(tmp_path: Path, classes: tuple[str, ...], rows: list[str]) -> tuple[Summary, str]:
    """Return a summary with all that can be in it, and its page."""
    bins = Histogram(edges=(0, 127, 256), counts=(5, 5))
    reference = Reference(
        mean_ink=bins, border_brightness=bins, confidence=bins, predicted=(1,) * len(classes)
    )
    true = tmp_path / "labels.npy"
    np.save(true, np.random.default_rng(2).integers(0, len(classes), COUNT))
    labels = open_labels(str(true), classes)
    chunk = a_chunk(some_images(COUNT), rows=rows, errors={7: "no image: <b>"}, warnings={})
    tally = Tallier(classes=classes, reference=reference, labels=labels).of(
        chunk, some_answers(COUNT, classes)
    )
    given = LabelsGiven(labels.where, labels.sha256)
    summary = Summary(classes=classes, reference=reference, labels=given)
    summary.add(a_receipt(0, chunk, tally))
    page = report.render(
        summary, title="Scored: <x>", when="now", seconds=2.0, rows_now=COUNT, facts={"input <a>": "b & c"}
    )
    return summary, page


@pytest.mark.parametrize(
    ("classes", "rows"),
    [
        (tuple("0123456789"), [str(row) for row in range(COUNT)]),
        (NASTY, [f"{NASTY[row % 6]}/{'long' * 40}/{row}.png" for row in range(COUNT)]),
    ],
)
def test_nothing_comes_from_outside(classes: tuple[str, ...], rows: list[str], tmp_path: Path) -> None:
    """The page is well formed, has no script, refers only to itself, and shows names as they are."""
    _, page = a_page(tmp_path, classes, rows)
    document = Document(page)
    assert {tag for tag, _ in document.elements} & {
        "script",
        "link",
        "iframe",
        "object",
        "base",
        "img",
    } == set()
    references = [*document.values("href"), *re.findall(r"url\(([^)]*)\)", page)]
    assert [given for given in references if not given.startswith(("#", "data:image/png;base64,"))] == []
    assert "http" not in page
    ids = document.values("id")
    assert len(ids) == len(set(ids))
    assert {given[1:] for given in references if given[0] == "#"} <= set(ids)
    assert "\u202e" not in page


def test_the_least_confident_images_are_shown(tmp_path: Path) -> None:
    """Each picture is the image that the summary names, the least confident first, with its two classes."""
    summary, page = a_page(tmp_path, tuple("0123456789"), [str(row) for row in range(COUNT)])
    shown = [card for card in Document(page).cards if "label" in card]
    assert len(shown) == LEAST_KEPT == len(cuttings(page))
    for doubt, card, picture in zip(summary.least, shown, cuttings(page), strict=True):
        assert (picture == some_images(COUNT)[int(doubt.row)]).all()
        assert card.startswith(f"{doubt.index}: {doubt.confidence:.1%}\n{doubt.second}: ")
        assert card.endswith(f"label {doubt.true}\nimages {doubt.row}")


def test_what_the_summary_has_is_on_the_page(tmp_path: Path) -> None:
    """Counts, confidence, drift, accuracy, the confusion matrix, errors and facts."""
    summary, page = a_page(tmp_path, tuple("0123456789"), [str(row) for row in range(COUNT)])
    document = Document(page)
    said = " ".join(text for _, text in document.texts)
    assert f"{summary.confusion.right / 299:.2%}" in said
    assert f"{summary.confidence / 299:.4f}" in said
    assert document.table("class")[1][:2] == ["0", str(summary.counts[0])]
    assert [row[0] for row in document.table("feature")[1:]] == [
        "mean pixel of an image",
        "mean of an image's border",
        "predicted class",
    ]
    assert document.table("row")[1] == ["images 7", "no image: <b>"]
    assert "input <a>" in said
    assert "Images by true class" in said


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    """The sentence names the place; folders on the way are made."""
    report.write(tmp_path / "a" / "b.html", "x")
    assert (tmp_path / "a" / "b.html").read_text() == "x"
    with pytest.raises(WriteError, match=r"--report .* cannot be written: Is a directory"):
        report.write(tmp_path / "a", "x")
