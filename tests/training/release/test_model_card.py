"""The model card: true to the metadata, and Markdown whatever the classes are called."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from bundle.images.contract import Resize
from bundle.manifest import Quantisation
from tests.training.subjects import DIGITS, report_data
from training.release.model_card import MAX_LISTED_CLASSES, model_card, plain

ASCII_PUNCTUATION = r"!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~"


def unescaped(markdown: str) -> str:
    """Return what CommonMark shows of backslash escapes."""
    return re.sub(rf"\\([{ASCII_PUNCTUATION}])", r"\1", markdown)


def test_it_states_the_metadata() -> None:
    """Architecture, classes, figures, temperature and lineage are on the card."""
    metadata = report_data(hidden=(300, 100), activation="tanh").metadata
    card = model_card(metadata)
    assert "(784-300-100-10, tanh)" in card
    assert f"{', '.join(DIGITS)}." in card
    assert f"| accuracy | 98.20% | {metadata.test.accuracy:.2%} |" in card
    assert f"softmax(logits / {metadata.temperature:.4f})" in card
    assert metadata.environment.code_revision in card
    assert "white on black" in card


@pytest.mark.parametrize(
    ("how", "said"),
    [("fit", "aspect ratio"), ("pad", "padded"), ("mnist", "fitted into 20x20"), (None, None)],
)
def test_it_states_how_the_training_images_were_resized(how: Resize | None, said: str | None) -> None:
    """A reader of the card must know what an image of another size has to become."""
    metadata = report_data().metadata
    metadata = metadata.model_copy(update={"input": metadata.input.model_copy(update={"resize": how})})
    card = model_card(metadata)
    if said is None:
        assert "resize" not in card
    else:
        assert said in card
        assert f"`resize={how}`" in card


def test_it_states_what_rounding_cost() -> None:
    """The test error and loss before and after, and how many labels differ; or that nothing was rounded."""
    metadata = report_data().metadata
    assert "The first layer's weights are float32." in unescaped(model_card(metadata))
    before = Quantisation(accuracy=0.987, nll=0.0512, labels_differing=7)
    card = unescaped(model_card(metadata.model_copy(update={"quantisation": before})))
    after = metadata.test
    assert (
        f"the test error was 1.30% before and is {1 - after.accuracy:.2%}, the loss 0.0512 and {after.nll:.4f}"
        in card
    )
    assert f"and 7 of {after.images} labels differ." in card


def test_it_states_the_error_on_changed_images() -> None:
    """How the model fares on moved and turned images stands beside how the training images were deformed."""
    metadata = report_data(rotation=10.0).metadata
    card = model_card(metadata)
    for change, error in {
        "as they are": f"{1 - metadata.test.accuracy:.2%}",
        "moved by 2 and 2 pixels": "8.77%",
        "turned by 15 degrees": "12.35%",
    }.items():
        assert f"| {change} | {error} |" in card
    assert "rotated by up to 10 degrees" in unescaped(card)
    assert "An inverted image, black on white, is answered with a warning" in card


def test_softmax_regression_has_no_activation() -> None:
    """Without hidden layers only the two widths are stated."""
    assert "(784-10)" in model_card(report_data(hidden=()).metadata)


@pytest.mark.parametrize(
    "name",
    [
        "a|b",
        "`code`",
        "*bold*",
        "[link](javascript:x)",
        "<img src=x>",
        "&lt;",
        "a\\|b",
        "# title",
        "~~no~~",
        "$x_1$",
    ],
)
def test_a_name_with_markdown_in_it_is_text(name: str) -> None:
    """No character of a class name keeps its meaning in Markdown, and unescaping gives the name back."""
    card = model_card(report_data(classes=[name, *DIGITS[1:]]).metadata)
    line = next(line for line in card.splitlines() if line.endswith("8, 9."))
    shown = line.removesuffix(", 1, 2, 3, 4, 5, 6, 7, 8, 9.")
    assert unescaped(shown) == name
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`*_\[\]<>&#~$]", shown)


@example("a\u2028b \t c\u0085d")
@given(st.text(min_size=1, max_size=60))
def test_any_text_is_one_line(text: str) -> None:
    """Whatever is escaped has no line break, no character without escape that Markdown knows, no control."""
    shown = plain(text)
    assert len(shown.splitlines()) <= 1
    assert not re.search(r"\s\s|^\d+\.", shown)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`*_\[\]<>&#~$]", shown)


def test_very_many_classes_are_counted() -> None:
    """A card lists a hundred classes and says how many more there are."""
    card = model_card(report_data(classes=[f"n{k}" for k in range(130)]).metadata)
    assert f"n{MAX_LISTED_CLASSES - 1}, and 30 more." in card
    assert "into 130 classes" in card


NAMES = (
    *(
        "a|b",
        "|-|",
        "`c`",
        "<b>",
        "<!-- x",
        "&amp;",
        "- x",
        "+ x",
        "* x",
        "1. x",
        "12) x",
        "# x",
        "> x",
        "-",
        "=",
        "===",
    ),
    *(
        "---",
        "___",
        "***",
        "~~~",
        "[x]",
        "![a](b)",
        "[^1]",
        "[ ] x",
        "\\",
        "\\|",
        "http://e.com/x",
        "www.e.com",
    ),
    *("<http://x.y>", "HTTPS://E.COM", "WWW.e.com", ".", "0", "$x$", ":--"),
)


def test_a_reader_of_markdown_shows_the_classes_as_they_are() -> None:
    """Whichever comes first in its line: no list, no heading, no table, no HTML and no link is made of a name."""
    reader = MarkdownIt("commonmark").enable("table").enable("strikethrough")
    plain_card = [token.type for token in reader.parse(model_card(report_data(classes=("a", "b")).metadata))]
    for number in range(len(NAMES)):
        names = (*NAMES[number:], *NAMES[:number])
        tokens = reader.parse(model_card(report_data(classes=names).metadata))
        assert [token.type for token in tokens] == plain_card, names[0]
        (line,) = [token for token in tokens if f"into {len(NAMES)} classes" in token.content]
        assert {child.type for child in line.children or ()} <= {"text", "text_special", "softbreak"}
        shown = "".join(child.content or "\n" for child in line.children or ())
        assert shown.partition("\n")[2] == ", ".join(names) + "."


@pytest.mark.parametrize("name", ["http://e.com", "https://e.com/x", "www.e.com", "WWW.E.com", "ftp://e.com"])
def test_an_address_is_no_link_in_githubs_markdown(name: str) -> None:
    """GFM links `www.` and `://` without any brackets."""
    shown = plain(name)
    assert not re.search(r"\w://", shown)
    assert "www." not in shown.lower()
    assert unescaped(shown) == name
