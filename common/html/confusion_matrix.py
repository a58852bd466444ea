"""The confusion matrix, and precision, recall and F1 by class, as a report shows them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from common.html.frame import NOTHING, Html, name, scroll, table, text

MAX_MATRIX_CLASSES = 100
"""Most classes of which the whole matrix is drawn: 10,000 cells. Of more, only the largest confusions are listed."""
MAX_LISTED_CLASSES = 500
"""Most rows of the table of classes."""
FREQUENT_CONFUSIONS = 10
DARKEST = 62
"""Percent of colour behind the largest off-diagonal count; more would hide the number."""


@dataclass(slots=True)
class Confusion:
    """Counts of images by true and predicted class, sparse: only pairs that occur take memory."""

    classes: Sequence[str]
    counts: Counter[tuple[int, int]] = field(default_factory=Counter)
    """`(true class, predicted class)` to images."""

    def add(self, labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64]) -> None:
        """Count images: `int64[n]` each, indices of classes."""
        pairs, counts = np.unique(labels * len(self.classes) + predicted, return_counts=True)
        for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
            self.counts[divmod(pair, len(self.classes))] += count

    @property
    def images(self) -> int:
        """The number of images counted."""
        return self.counts.total()

    @property
    def right(self) -> int:
        """The number of images whose predicted class is their true class."""
        return sum(count for (true, guess), count in self.counts.items() if true == guess)

    def confusions(self) -> Iterator[tuple[str, str, int]]:
        """Yield true class, predicted class and count of each off-diagonal pair, the most frequent first."""
        for (true, guess), count in sorted(self.counts.items(), key=lambda item: (-item[1], item[0])):
            if true != guess:
                yield self.classes[true], self.classes[guess], count

    def totals(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return, each `int64[classes]`: the images of a class, the predictions of it, and the correct ones."""
        true, guessed, right = np.zeros((3, len(self.classes)), np.int64)
        for (a, b), count in self.counts.items():
            true[a] += count
            guessed[b] += count
            right[a] += count * (a == b)
        return true, guessed, right


def matrix(confusion: Confusion, images: str) -> str:
    """Return the HTML of the confusion matrix and its most frequent confusions; `images` names the images counted."""
    classes, found = confusion.classes, confusion.counts
    off = list(confusion.confusions())
    largest = [(Html(name(true, 40)), Html(name(guess, 40)), count) for true, guess, count in off]
    listed = (
        table(
            largest[:FREQUENT_CONFUSIONS],
            ("true class", "predicted", "images"),
            caption="Most frequent confusions",
        )
        if off
        else ""
    )
    count = len(classes)
    if count > MAX_MATRIX_CLASSES:
        return f"<p>The matrix of {count} classes is not drawn: it would have {count**2} cells.</p>{listed}"
    most = off[0][2] if off else 1
    is_short = is_short_named(classes)
    rows = []
    for true, label in enumerate(classes):
        cells = []
        for guess in range(count):
            number = found.get((true, guess), 0)
            if true == guess:
                cells.append(f'<td class="d">{number}</td>')
            elif number:
                shade = DARKEST * (number / most) ** 0.5
                cells.append(f'<td class="x" style="--s:{shade:.0f}">{number}</td>')
            else:
                cells.append("<td></td>")
        title = "" if is_short else f' title="{text(label)}"'
        rows.append(f'<tr><th scope="row"{title}>{name(label, 40)}</th>{"".join(cells)}</tr>')
    drawn = (
        f'<table class="matrix"><caption>{text(images)} by true class (rows) and predicted class (columns); '
        f"an empty cell is 0</caption><thead><tr><td></td>{class_heads(classes)}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
    return f'<div class="beside">{scroll(drawn, "confusion matrix")}{listed}</div>'


def is_short_named(classes: Sequence[str]) -> bool:
    """Return whether the names fit into columns as they are."""
    return max(map(len, classes)) <= 3


def class_heads(classes: Sequence[str]) -> str:
    """Return the HTML of a table's column headings, one for each class; long names are written upwards."""
    if is_short_named(classes):
        return "".join(f'<th scope="col">{name(label)}</th>' for label in classes)
    return "".join(
        f'<th scope="col" title="{text(label)}"><span class="tall">{name(label, 40)}</span></th>'
        for label in classes
    )


def by_class(confusion: Confusion, images: str, caption: str) -> str:
    """Return the HTML of precision, recall and F1 of each class; `images` heads the column of their number."""
    classes = confusion.classes
    count = len(classes)
    true, guessed, right = confusion.totals()
    with np.errstate(divide="ignore", invalid="ignore"):  # a class without images, or never predicted
        precision, recall, f1 = right / guessed, right / true, 2 * right / (true + guessed)

    def share(value: float) -> str:
        return f"{value:.2%}" if np.isfinite(value) else NOTHING

    order = np.argsort(np.nan_to_num(f1, nan=-1.0), kind="stable")[:MAX_LISTED_CLASSES]
    rows: list[Sequence[object]] = [
        (
            Html(name(classes[k])),
            int(true[k]),
            int(guessed[k]),
            share(precision[k]),
            share(recall[k]),
            share(f1[k]),
        )
        for k in (np.sort(order) if count <= MAX_LISTED_CLASSES else order)
    ]
    means = [share(float(np.mean(v[np.isfinite(v)]))) for v in (precision, recall, f1)]
    rows.append(("mean of the classes", int(true.sum()), int(guessed.sum()), *means))
    head = ("class", images, "predicted", "precision", "recall", "F1")
    left_out = (
        f"<p>The {MAX_LISTED_CLASSES} classes with the lowest F1; the other {count - MAX_LISTED_CLASSES} are not "
        "listed.</p>"
        if count > MAX_LISTED_CLASSES
        else ""
    )
    note = f'<p class="quiet">{NOTHING}: the class was never predicted, or none of the {text(images)} has it.</p>'
    return left_out + table(rows, head, caption=caption) + note
