"""The page about a run: complete, self-contained, and safe with whatever names rows and classes have."""

import re
from pathlib import Path

import pytest

from serving.scoring.errors import WriteError
from serving.scoring.reporting import report
from serving.scoring.reporting.part_statistics import LEAST_KEPT
from tests.pages import Document, sprites
from tests.serving.scoring.parts import some_images
from tests.serving.scoring.reporting.reports import COUNT, NASTY, a_page


@pytest.mark.parametrize(
    ("classes", "rows"),
    [
        (tuple("0123456789"), [str(row) for row in range(COUNT)]),
        (NASTY, [f"{'long' * 40}/{NASTY[row % 6]}/{row}.png" for row in range(COUNT)]),
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
    assert len(shown) == LEAST_KEPT == len(sprites(page))
    for example, card, picture in zip(summary.least, shown, sprites(page), strict=True):
        assert (picture == some_images(COUNT)[int(example.row)]).all()
        assert card.startswith(f"{example.index}: {example.confidence:.1%}\n{example.second}: ")
        assert card.endswith(f"label {example.true}\nimages {example.row}")


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


def test_a_page_takes_the_place_of_a_file_only(tmp_path: Path) -> None:
    """It is whole or not there, behind a link too; what is no file, as a terminal, is written to."""
    (tmp_path / "link.html").symlink_to(tmp_path / "page.html")
    for text in ("first", "second"):
        report.write(tmp_path / "link.html", text)
    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "page.html").read_text() == "second"
    report.write(Path("/dev/null"), "x")
    assert Path("/dev/null").is_char_device()
    assert [path.name for path in tmp_path.iterdir() if path.name[0] == "."] == []
