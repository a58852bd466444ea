"""The table of the test error after each change of the images, for all classes together and for each."""

from collections.abc import Mapping, Sequence

import numpy as np

from common.html.confusion_matrix import DARKEST, MAX_MATRIX_CLASSES, class_heads
from common.html.frame import scroll, table, text
from training.model.evaluation import Labels

CAPTION = "Test error in percent by change (rows), of all images and of those of each class"
UNCHANGED = "as they are"


def robustness_table(classes: Sequence[str], labels: Labels, predicted: Mapping[str, Labels]) -> str:
    """Return the HTML of the table; the darker a cell, the larger its error.

    Args:
        classes: the names of the classes; of more than 100 only the error of all images is listed.
        labels: `int64[n]`, the true classes.
        predicted: change to predicted classes, `int64[n]`.
    """
    wrong = {change: found != labels for change, found in predicted.items()}
    if len(classes) > MAX_MATRIX_CLASSES:
        listed = [(change, f"{_percent(missed)}%") for change, missed in wrong.items()]
        return table(listed, ("test images", "error"), caption="Test error by change")
    members = [labels == index for index in range(len(classes))]
    rows = [
        f'<tr><th scope="row">{text(change)}</th>{_cell(missed)}'
        + "".join(_cell(missed[there]) for there in members)
        + "</tr>"
        for change, missed in wrong.items()
    ]
    drawn = (
        f'<table class="matrix wide"><caption>{CAPTION}</caption><thead><tr><td></td><th scope="col">all</th>'
        f"{class_heads(classes)}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )
    return scroll(drawn, "test error by change and class")


def _cell(missed: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> str:
    """Return a cell with the share of `bool[n]`; a class without test images has none."""
    if not len(missed):
        return "<td></td>"
    return f'<td class="x" style="--s:{DARKEST * missed.mean() ** 0.5:.0f}">{_percent(missed)}</td>'


def _percent(missed: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> str:
    share = 100 * float(missed.mean())
    return f"{share:.2f}" if share < 10 else f"{share:.1f}"
