"""Every misclassified test image on one sheet, with its target and its prediction, in a given number of bytes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.html import frame, sprite_sheet
from training.data.dataset import Images
from training.model.evaluation import Logits, log_softmax

BEST = 3
NAME_LIMIT = 16
"""Characters of a class name under an image; the table of classes has the whole name."""
OPEN = 300
"""Mistakes shown at once; the rest unfolds."""
LEVELS = 16
"""Shades of grey, where 256 would make the page too large."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mistakes:
    """The section's HTML and the sheet that its pictures are cut from."""

    body: str
    sprites: str
    sprites_width: int
    shown: int
    in_all: int


def mistakes(
    test: Images, logits: Logits, temperature: float, classes: Sequence[str], budget: int
) -> Mistakes:
    """Show every misclassified image, the most confident mistake first.

    Args:
        test: the test set.
        logits: `float32[n, classes]`, the answers to it.
        temperature: the calibration's.
        classes: their names.
        budget: bytes that all of it may take. Where 256 greys are too much it is 16, and where that
            is too much the least confident mistakes are left out; the text says so.
    """
    probabilities = np.exp(log_softmax(logits, temperature))
    predicted = logits.argmax(axis=1)
    wrong = np.flatnonzero(predicted != test.labels)
    order = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")]
    cards = [
        _card(position, int(index), int(test.labels[index]), probabilities[index], classes)
        for position, index in enumerate(order)
    ]
    sizes = np.cumsum([0, *(len(card.encode()) for card in cards)])
    count, greys = len(order), 256
    while True:
        picture = sprite_sheet.render(test.images[order[:count]], greys)
        used = len(picture) + int(sizes[count])
        if used <= budget or not count:
            break
        if greys > LEVELS:
            greys = LEVELS
        else:
            count = min(count - 1, int(count * budget / used))
    return Mistakes(
        body=_body(cards[:count], len(order), len(test), greys),
        sprites=picture,
        sprites_width=sprite_sheet.WIDTH,
        shown=count,
        in_all=len(order),
    )


def _card(
    position: int, index: int, target: int, probabilities: npt.NDArray[np.float64], classes: Sequence[str]
) -> str:
    best = np.argsort(-probabilities, kind="stable")[:BEST]
    said = [f"{frame.name(classes[k], NAME_LIMIT)}: {_share(probabilities[k])}" for k in best]
    answer = "\n".join([f"t = <b>{frame.name(classes[target], NAME_LIMIT)}</b>", f"p = {said[0]}", *said[1:]])
    return f"<li>{sprite_sheet.sprite(position, f'test image {index}')}<p>{answer}\n<small>#{index}</small></p></li>"


def _share(probability: float) -> str:
    if probability > 0.995:
        return f"{min(probability, 0.9999):.2%}"
    return "&lt;1%" if probability < 0.005 else f"{probability:.0%}"


def _body(cards: Sequence[str], in_all: int, images: int, greys: int) -> str:
    if not in_all:
        return f"<p>None: all {images} test images are classified correctly.</p>"
    said = (
        f"<p>{in_all} of {images} test images, the most confident mistake first. <b>t</b> is the target: the "
        "one-hot vector that is 1 at the class named and 0 elsewhere. <b>p</b> is the prediction: the vector "
        "of calibrated probabilities, of which the three largest are given, the predicted class first. "
        "# is the image's place in the test set, from 0.</p>"
    )
    if greys < 256:
        said += (
            f'<p class="quiet">So that the page stays under 2 MB, the images are shown in {greys} greys.</p>'
        )
    if len(cards) < in_all:
        said += (
            f"<p><strong>{in_all - len(cards)} mistakes are left out</strong>, those of least confidence: "
            f"{in_all} do not fit into a page of 2 MB.</p>"
        )
    first, rest = cards[:OPEN], cards[OPEN:]
    said += _list(first)
    if rest:
        said += f"<details><summary>{len(rest)} more mistakes, of less confidence</summary>{_list(rest)}</details>"
    return said


def _list(cards: Sequence[str]) -> str:
    return f'<ul class="cards">{"".join(cards)}</ul>' if cards else ""
