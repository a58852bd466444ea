"""Warnings about images that can be decoded and are hardly what the model expects: blank, scaled, or inverted.

An image gets one warning at most. A blank one is neither scaled nor inverted, and only the numbers 0 and 1 are scaled.
"""

from collections.abc import Container, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from bundle.images import brightness, decoding
from bundle.images.contract import BLACK_ON_WHITE, IMAGE_SIZE, PAPER, Polarity
from bundle.images.errors import ImageError

LEAST_CONTRAST = 20
"""Least difference between the darkest and the lightest pixel of an image with content, of 255.

Every image of MNIST has 254, a faint pencil 40; 12 bits in a file of 16 have 16 when they are scaled, and paper with
noise of 2 levels either way has 4.
"""
SCALED_WARNING = "no pixel is above 1: the model expects pixels from 0 to 255, not from 0 to 1"
PROTOCOL_MOST = 8
"""Images that `summary` names; the Open Inference Protocol has one string for all images of a request."""

_PAPER = {polarity: bytes([paper]) * IMAGE_SIZE for polarity, paper in PAPER.items()}
"""A row of paper (background) pixels."""
_FEW = 24
"""Up to so many images the loop takes less time than the vectorised search."""
_PAPER_BITS = {polarity: np.bitwise_and if paper else np.bitwise_or for polarity, paper in PAPER.items()}
"""What leaves of many pixels the bits of paper only if all are paper, which is 0 or 255."""
_UPPER_HALF = np.uint64(0x8080808080808080)
"""The bits of eight pixels that are set from 128 on."""

Images = npt.NDArray[np.uint8]


def warnings_of(images: Images, polarity: Polarity) -> list[tuple[str, ...]]:
    """Return the sentences about each of `uint8[n, 28, 28]` that arrived as numbers."""
    found = warned(images, polarity)
    return [found.get(place, ()) for place in range(len(images))]


def warned(
    images: Images,
    polarity: Polarity,
    files: Sequence[bytes | str] | None = None,
    errors: Container[int] = (),
) -> dict[int, tuple[str, ...]]:
    """Return the sentences about those of `uint8[n, 28, 28]` that have any, by index.

    Args:
        images: decoded.
        polarity: the model's.
        files: that the images were decoded from, for the reason why one is blank; None for numbers.
        errors: indices of what is no image, and is left out.
    """
    places = range(len(images)) if len(images) <= _FEW else _suspects(images, polarity)
    found = {}
    for place in places:
        if place in errors:
            continue
        file = files[place] if files is not None else None
        said = warnings_of_one(images[place], polarity, file if isinstance(file, bytes) else None)
        if said:
            found[place] = said
    return found


def warnings_of_one(pixels: Images, polarity: Polarity, file: bytes | None = None) -> tuple[str, ...]:
    """Return the sentences about `uint8[28, 28]`; `file` is what it was decoded from, None for numbers."""
    content = pixels.tobytes()
    # Without a pixel of 128 or more, or without one of 0, the contrast is measured, which takes longer.
    if content.isascii() or 0 not in content:
        contrast = int(pixels.max()) - int(pixels.min())
        if contrast < LEAST_CONTRAST:
            return (_about_blank(content, contrast, polarity, file),)
    paper = _PAPER[polarity]
    if content.startswith(paper) and content.endswith(paper):
        return ()  # more than half of the border is paper, so the mean of the border is on the right side
    return _inverted_warning(int(pixels.sum()), int(pixels[1:-1, 1:-1].sum()), polarity)


def summary(found: Mapping[int, Sequence[str]]) -> str:
    """Return the sentences about several images as one string, for the Open Inference Protocol."""
    lines = [f"image {place}: {'; '.join(said)}" for place, said in [*found.items()][:PROTOCOL_MOST]]
    if more := len(found) - len(lines):
        lines.append(f"and {more} more images")
    return ". ".join(lines)


def _suspects(images: Images, polarity: Polarity) -> list[int]:
    """Return the indices of the images that may have a warning, at a tenth of the cost of `warnings_of_one`.

    An image whose first and last row are all background has at least half a border of background, so it is not
    inverted, and it is not blank if it has a pixel of the other half of the range.
    """
    flat = np.ascontiguousarray(images).reshape(len(images), -1)
    paper, bits = PAPER[polarity], _PAPER_BITS[polarity]
    halves = bits.reduce(flat.view(np.uint64), axis=1) & _UPPER_HALF
    suspect: npt.NDArray[np.bool_] = halves == (_UPPER_HALF if paper else 0)
    unframed = bits.reduce(bits(images[:, 0], images[:, -1]), axis=1) != paper
    if unframed.any():
        unframed &= ~suspect
        border = brightness.border_brightness(images[unframed])
        # With a pixel of the other half, all pixels of a low contrast are on this side of the bound, too.
        middle = 127.5 + LEAST_CONTRAST if paper else 127.5 - LEAST_CONTRAST
        suspect[unframed] = border < middle if paper else border > middle
    places: list[int] = suspect.nonzero()[0].tolist()
    return places


def _about_blank(content: bytes, contrast: int, polarity: Polarity, file: bytes | None) -> str:
    paper, ink = ("white", "dark ink") if polarity == BLACK_ON_WHITE else ("black", "light ink")
    lost = None if file is None else _lost(file)
    if lost is not None and lost.alpha is not None:
        least, most = lost.alpha
        if most < LEAST_CONTRAST:
            return (
                "looks blank: every pixel is transparent, and becomes black; fill the canvas with "
                f"{paper} before drawing, or export the image without transparency"
            )
        if most - least >= LEAST_CONTRAST:
            return (
                "looks blank: the drawing is in the transparency alone, as transparent pixels become black and the "
                f"drawing is dark, too; fill the canvas with {paper} and draw with {ink} before exporting it"
            )
    if lost is not None and lost.sixteen_bits:
        return (
            "looks blank: 0 to 65535 of its 16 bits become 0 to 255, and its pixels are in a small part of that "
            "range; scale them to the whole range, or save 8 bits"
        )
    if b"\1" in content and not content.translate(None, b"\0\1"):
        return SCALED_WARNING
    return (
        f"looks blank: its darkest and lightest pixel differ by {contrast} of 255, so the prediction says nothing; "
        f"the model expects {ink} on {paper} paper ({polarity})"
    )


def _lost(file: bytes) -> decoding.Lost | None:
    try:
        return decoding.lost_in_conversion(file)
    except ImageError:  # it was decoded before
        return None


def _inverted_warning(total: int, inner_total: int, polarity: Polarity) -> tuple[str, ...]:
    """Compare the paper, which the border shows, with the polarity that the model expects."""
    border = (total - inner_total) / (IMAGE_SIZE**2 - (IMAGE_SIZE - 2) ** 2)
    centre = inner_total / (IMAGE_SIZE - 2) ** 2
    if polarity == BLACK_ON_WHITE:
        border, centre, expected = 255 - border, 255 - centre, "dark ink on light paper (black-on-white)"
    else:
        expected = "light ink on dark paper (white-on-black)"
    # A bright border alone may be an object that fills the image; inverted paper is brighter than the centre, too.
    if border <= 127.5 or border < centre:
        return ()
    return (f"looks inverted: the model expects {expected}; invert the pixels if this image is the opposite",)
