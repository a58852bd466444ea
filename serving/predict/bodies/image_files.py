"""One image file of a request: its declared type is checked, its pixels are decoded, and warnings collected."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bundle.images import decoding
from bundle.images.contract import Polarity, Resize
from bundle.images.errors import ImageError, ImageFault
from bundle.images.hardening import SERVED
from serving.errors import (
    BrokenImageError,
    ImageTooLargeError,
    ProblemError,
    UnsupportedImageError,
    UnsupportedMediaTypeError,
    WrongSizeError,
)
from serving.predict.bodies.image_warnings import warnings_of_one
from serving.predict.bodies.media_types import IMAGES, remedy

_CONVERT = f"Convert the image to PNG, or to another of {IMAGES}."

PROBLEMS: dict[ImageFault, tuple[type[ProblemError], str | None]] = {
    ImageFault.EMPTY: (BrokenImageError, "Send a file with an image."),
    ImageFault.FORMAT: (UnsupportedMediaTypeError, _CONVERT),
    ImageFault.SIZE: (WrongSizeError, None),
    ImageFault.PIXELS: (ImageTooLargeError, "Scale the image down before it is sent."),
    ImageFault.TOO_LARGE: (ImageTooLargeError, None),
    ImageFault.ANIMATED: (UnsupportedImageError, None),
    ImageFault.PIXEL_RANGE: (UnsupportedImageError, "Save the image with 8 or 16 bits per channel."),
    ImageFault.UNSUPPORTED: (UnsupportedImageError, "Save the image as a PNG with 8 bits per channel."),
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


class Resizing(NamedTuple):
    """Whether an image file of another size becomes 28x28."""

    asked: Resize | None = None
    """By the request; the model offers it."""
    offered: Resize | None = None
    """By the model: how its training images were resized."""


NOT_RESIZED = Resizing()
MAX_RESIZED = 32
"""Most image files of a request that are resized: each may take 20 ms."""
RESIZED_REMEDY = f"Send at most {MAX_RESIZED} files with ?resize= in one request."


def decode(
    data: bytes, media_type: str | None, polarity: Polarity, resizing: Resizing = NOT_RESIZED
) -> Decoded:
    """Decode one image file as `bundle.images.decoding.decode` does.

    Args:
        data: the complete file.
        media_type: the declared one, a key of `bundle.images.decoding.PARSERS`; None to recognise it by content.
        polarity: the model's, for the warnings; an image that looks inverted is never inverted, but by `mnist`.
        resizing: how an image of another size becomes 28x28.

    Raises:
        UnsupportedMediaTypeError: the content is not an image of the declared type.
        WrongSizeError: the image is not 28x28, and is not to be resized.
        ImageTooLargeError: the file has more than 1 MiB, or more pixels than are resized.
        UnsupportedImageError: the image has several frames, or is of a kind that is not read.
        BrokenImageError: the file is empty, truncated or damaged.
    """
    if data and media_type is not None:
        _check_declared(data, media_type)
    try:
        pixels = decoding.decode(data, resizing.asked, polarity, SERVED)
    except ImageError as error:
        problem, advice = PROBLEMS[error.kind]
        if error.kind is ImageFault.SIZE and resizing.offered:
            advice = f"Ask for ?resize={resizing.offered}, which resizes it as the training images were, or send 28x28."
        elif error.kind is ImageFault.FORMAT:
            advice = remedy(data) or advice
        raise problem(error.detail, remedy=advice) from error
    return Decoded(pixels=pixels, warnings=warnings_of_one(pixels, polarity, data))


def _check_declared(data: bytes, media_type: str) -> None:
    found = decoding.sniff(data)
    if found is None:
        raise UnsupportedMediaTypeError(
            f"the content is not a supported image: it is declared as {media_type}, but looks like "
            f"{decoding.guess_format(data)}",
            remedy=remedy(data) or _CONVERT,
        )
    if found != media_type:
        raise UnsupportedMediaTypeError(
            f"the content is declared as {media_type}, but it is {found}",
            remedy=f"Declare the actual type: Content-Type: {found}.",
        )
