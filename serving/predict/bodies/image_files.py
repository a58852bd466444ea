"""One image file of a request: its declared type is checked, its pixels are decoded, and warnings collected."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bundle.images import decoding
from bundle.images.contract import BLACK_ON_WHITE, IMAGE_SIZE, PAPER, Polarity
from bundle.images.errors import ImageError, ImageFault
from serving.errors import (
    BrokenImageError,
    ImageTooLargeError,
    ProblemError,
    UnsupportedImageError,
    UnsupportedMediaTypeError,
    WrongSizeError,
)

ALIASES = {"image/jpg": "image/jpeg", "image/x-ms-bmp": "image/bmp", "image/x-png": "image/png"}
"""Unregistered names that clients send, and the registered ones."""

SUPPORTED = ", ".join(decoding.PARSERS)

SCALED_WARNING = ("no pixel is above 1: the model expects pixels from 0 to 255, not from 0 to 1",)

_PAPER = {polarity: bytes([paper]) * IMAGE_SIZE for polarity, paper in PAPER.items()}
"""A row of paper (background) pixels."""

_CONVERT = f"Convert the image to one of {SUPPORTED}."

PROBLEMS: dict[ImageFault, tuple[type[ProblemError], str | None]] = {
    ImageFault.EMPTY: (BrokenImageError, "Send a file with an image."),
    ImageFault.FORMAT: (UnsupportedMediaTypeError, _CONVERT),
    ImageFault.SIZE: (WrongSizeError, None),
    ImageFault.TOO_LARGE: (ImageTooLargeError, None),
    ImageFault.ANIMATED: (UnsupportedImageError, None),
    ImageFault.PIXEL_RANGE: (UnsupportedImageError, "Save the image with 8 or 16 bits per channel."),
    ImageFault.DAMAGED: (BrokenImageError, None),
}
"""The problem for each error of the decoder, and its remedy unless it is the default one."""


@dataclass(kw_only=True, slots=True)
class Decoded:
    """One decoded image."""

    pixels: npt.NDArray[np.uint8]
    """`uint8[28, 28]`, 0..255, in the polarity of the file."""
    warnings: tuple[str, ...]
    """Sentences for the client."""


def decode(data: bytes, media_type: str | None, polarity: Polarity) -> Decoded:
    """Decode one image file as `bundle.images.decoding.decode` does.

    Args:
        data: the complete file.
        media_type: the declared one, a key of `bundle.images.decoding.PARSERS`; None to recognise it by content.
        polarity: the model's; an image that looks inverted gets a warning and is never inverted.

    Raises:
        UnsupportedMediaTypeError: the content is not an image of the declared type.
        WrongSizeError: the image is not 28x28.
        ImageTooLargeError: the file has more than 1 MiB.
        UnsupportedImageError: the image has several frames, or pixels that are not of 8 or 16 bits.
        BrokenImageError: the file is empty, truncated or damaged.
    """
    if data and media_type is not None:
        _check_declared(data, media_type)
    try:
        pixels = decoding.decode(data)
    except ImageError as error:
        problem, remedy = PROBLEMS[error.kind]
        raise problem(error.detail, remedy=remedy) from error
    return Decoded(pixels=pixels, warnings=looks_inverted(pixels, polarity))


def canonical(media_type: str) -> str:
    """Return the registered name of a media type, in lower case."""
    media_type = media_type.lower()
    return ALIASES.get(media_type, media_type)


def _check_declared(data: bytes, media_type: str) -> None:
    found = decoding.sniff(data)
    if found is None:
        raise UnsupportedMediaTypeError(
            f"the content is not a supported image: it is declared as {media_type}, but looks like "
            f"{decoding.guess_format(data)}",
            remedy=_CONVERT,
        )
    if found != media_type:
        raise UnsupportedMediaTypeError(
            f"the content is declared as {media_type}, but it is {found}",
            remedy=f"Declare the actual type: Content-Type: {found}.",
        )


def warnings_of(images: npt.NDArray[np.uint8], polarity: Polarity) -> list[tuple[str, ...]]:
    """Return the warnings for each of `uint8[n, 28, 28]` that arrived as numbers."""
    return [looks_inverted(pixels, polarity) + _looks_scaled(pixels) for pixels in images]


def _looks_scaled(pixels: npt.NDArray[np.uint8]) -> tuple[str, ...]:
    content = pixels.tobytes()
    return SCALED_WARNING if b"\1" in content and not content.translate(None, b"\0\1") else ()


def looks_inverted(pixels: npt.NDArray[np.uint8], polarity: Polarity) -> tuple[str, ...]:
    """Return a warning if `uint8[28, 28]` seems to have ink and paper exchanged, else nothing."""
    paper = _PAPER[polarity]
    content = pixels.tobytes()
    if content.startswith(paper) and content.endswith(paper):
        return ()  # more than half of the border is paper, so the mean of the border is on the right side
    return _inverted_warning(int(pixels.sum()), int(pixels[1:-1, 1:-1].sum()), polarity)


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
