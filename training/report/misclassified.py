"""The section of misclassified test images, with target and prediction, within a size budget."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.html import frame, sprite_sheet
from training.data.dataset import Images
from training.model.evaluation import Logits, log_softmax

BEST = 3
NAME_LIMIT = 16
"""Most characters of a class name beside an image; the table of classes has the full name."""
OPEN = 300
"""Images that are shown at first; the others are in a collapsed section."""
LEVELS = 16
"""Grey levels if 256 would make the page too large."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mistakes:
    """The section's HTML and its sprite sheet."""

    body: str
    sprites: str
    sprites_width: int
    shown: int
    in_all: int


def mistakes(
    test: Images, logits: Logits, temperature: float, classes: Sequence[str], budget: int
) -> Mistakes:
    """Show the misclassified images, the most confident first.

    Args:
        test: the test set.
        logits: `float32[n, classes]` of the test set.
        temperature: of the calibration.
        classes: the class names.
        budget: most bytes of the section. If 256 grey levels exceed it, 16 are used, and if those exceed it, the least
            confident images are omitted; the text says so.
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
        f"<p>{in_all} of {images} test images, the most confident first. <b>t</b> is the target: the one-hot vector "
        "that is 1 at the named class and 0 elsewhere. <b>p</b> is the prediction: the vector of calibrated "
        "probabilities, of which the three largest are shown, the predicted class first. # is the index of the image "
        "in the test set, from 0.</p>"
    )
    if greys < 256:
        said += f'<p class="quiet">The images have {greys} grey levels, to keep the page below 2 MB.</p>'
    if len(cards) < in_all:
        said += (
            f"<p><strong>{in_all - len(cards)} images are omitted</strong>, those with the lowest confidence, to keep "
            "the page below 2 MB.</p>"
        )
    first, rest = cards[:OPEN], cards[OPEN:]
    said += _list(first)
    if rest:
        said += f"<details><summary>{len(rest)} more, with lower confidence</summary>{_list(rest)}</details>"
    return said


def _list(cards: Sequence[str]) -> str:
    return f'<ul class="cards">{"".join(cards)}</ul>' if cards else ""
