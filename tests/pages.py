"""Pages taken apart, for the tests of every report."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import numpy.typing as npt
from PIL import Image

VOID = {"meta", "img", "br"}


class Document(HTMLParser):
    """A page taken apart: its elements, its text by element, and whether every tag is closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.tables: list[list[list[str]]] = []
        self.cards: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "li" and "section" in self.open:
            self.cards.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element that closes itself, as SVG has them."""
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        """Check that what ends is what began last."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note text, and in which cell or card it stands."""
        self.texts.append((self.open[-1] if self.open else "", data))
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data
        elif "li" in self.open and self.cards:
            self.cards[-1] += data

    def values(self, attribute: str) -> list[str]:
        """Return an attribute's value wherever it is given."""
        return [given[attribute] for _, given in self.elements if attribute in given]

    def table(self, first: str) -> list[list[str]]:
        """Return the cells of the table whose first column is headed `first`."""
        return next(rows for rows in self.tables if rows and rows[0] and rows[0][0] == first)

    def mistakes(self) -> list[str]:
        """Return the text under each misclassified image, in order."""
        return [card for card in self.cards if card.startswith("t = ")]


def sprite_sheet(source: str) -> npt.NDArray[np.uint8]:
    """Return the sprite sheet of the misclassified images, as greys."""
    found = re.search(r"\.cards i \{[^}]*url\(data:image/png;base64,([^)]+)\)", source)
    assert found
    image = Image.open(io.BytesIO(base64.b64decode(found[1])))
    return np.asarray(image.convert("L"))


def sprites(source: str) -> list[npt.NDArray[np.uint8]]:
    """Return each card's image, cut out of the sprite sheet as the page's style does."""
    places = re.findall(r'<i role="img" aria-label="[^"]*" style="--x:(\d+);--y:(\d+)"', source)
    full = sprite_sheet(source)
    return [full[28 * int(y) : 28 * int(y) + 28, 28 * int(x) : 28 * int(x) + 28] for x, y in places]
