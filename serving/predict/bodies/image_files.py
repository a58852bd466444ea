"""A request's image: what was declared against what it is, its pixels, and what to say of them."""

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
"""Names that clients send for the registered ones."""

SUPPORTED = ", ".join(decoding.PARSERS)

SCALED_WARNING = ("no pixel is above 1: the model takes pixels from 0 to 255, not from 0 to 1",)

_PAPER = {polarity: bytes([paper]) * IMAGE_SIZE for polarity, paper in PAPER.items()}
"""A row of nothing but paper."""

_CONVERT = f"Convert it to one of {SUPPORTED}."

PROBLEMS: dict[ImageFault, tuple[type[ProblemError], str]] = {
    ImageFault.EMPTY: (BrokenImageError, "Send a file that has an image in it."),
    ImageFault.FORMAT: (UnsupportedMediaTypeError, _CONVERT),
    ImageFault.SIZE: (
        WrongSizeError,
        f"Scale it to {IMAGE_SIZE}x{IMAGE_SIZE} as the training images were made.",
    ),
    ImageFault.TOO_LARGE: (
        ImageTooLargeError,
        f"Scale it to {IMAGE_SIZE}x{IMAGE_SIZE}, and save it without metadata: that is a few KiB.",
    ),
    ImageFault.ANIMATED: (UnsupportedImageError, "Send one frame, as a file or form part of its own."),
    ImageFault.PIXEL_RANGE: (UnsupportedImageError, "Save it with 8 or 16 bits a pixel."),
    ImageFault.DAMAGED: (
        BrokenImageError,
        "Send the whole file; with curl that is --data-binary @FILE, not -d @FILE.",
    ),
}
"""What the decoder refuses, as the problem (with its status) and the remedy that are answered."""


@dataclass(kw_only=True, slots=True)
class Decoded:
    """One image as the model takes it."""

    pixels: npt.NDArray[np.uint8]
    """`uint8[28, 28]`, 0..255, in the file's own polarity."""
    warnings: tuple[str, ...]
    """What the caller should know, in sentences."""


def decode(data: bytes, media_type: str | None, polarity: Polarity) -> Decoded:
    """Decode one image file as `bundle.images.decoding.decode` does.

    Args:
        data: the file, whole.
        media_type: as declared, a key of `bundle.images.decoding.PARSERS`; None is recognised by content.
        polarity: what the model expects; the opposite is answered with a warning, never flipped.

    Raises:
        UnsupportedMediaTypeError: the bytes are no image of the declared type.
        WrongSizeError: the image is not 28x28.
        ImageTooLargeError: the file has more than 1 MiB.
        UnsupportedImageError: it has several frames, or pixels that are not 8 or 16 bit.
        BrokenImageError: it is empty, truncated or damaged.
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
            f"the content is no supported image: declared as {media_type}, but it looks like "
            f"{decoding.guess_format(data)}",
            remedy=_CONVERT,
        )
    if found != media_type:
        raise UnsupportedMediaTypeError(
            f"the content is declared as {media_type}, but it is {found}",
            remedy=f"Declare what it is: Content-Type: {found}.",
        )


def warnings_of(images: npt.NDArray[np.uint8], polarity: Polarity) -> list[tuple[str, ...]]:
    """Return what a caller should know of each of `uint8[n, 28, 28]` that came as numbers."""
    return [looks_inverted(pixels, polarity) + _looks_scaled(pixels) for pixels in images]


def _looks_scaled(pixels: npt.NDArray[np.uint8]) -> tuple[str, ...]:
    content = pixels.tobytes()
    return SCALED_WARNING if b"\1" in content and not content.translate(None, b"\0\1") else ()


def looks_inverted(pixels: npt.NDArray[np.uint8], polarity: Polarity) -> tuple[str, ...]:
    """Return the warning that paper and ink seem to be the wrong way round, or nothing, for `uint8[28, 28]`."""
    paper = _PAPER[polarity]
    content = pixels.tobytes()
    if content.startswith(paper) and content.endswith(paper):
        return ()  # more than half of the border is paper as it should be, so its mean is on the right side
    return _inverted_warning(int(pixels.sum()), int(pixels[1:-1, 1:-1].sum()), polarity)


def _inverted_warning(total: int, inner_total: int, polarity: Polarity) -> tuple[str, ...]:
    """Compare the paper, which is what the border shows, with what the model expects."""
    border = (total - inner_total) / (IMAGE_SIZE**2 - (IMAGE_SIZE - 2) ** 2)
    centre = inner_total / (IMAGE_SIZE - 2) ** 2
    if polarity == BLACK_ON_WHITE:
        border, centre, expected = 255 - border, 255 - centre, "dark ink on light paper (black-on-white)"
    else:
        expected = "light ink on dark paper (white-on-black)"
    # A bright border alone may be an object that fills the image; paper is brighter than what is on it.
    if border <= 127.5 or border < centre:
        return ()
    return (f"looks inverted: the model expects {expected}; invert the pixels if this image is the opposite",)
