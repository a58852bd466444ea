"""Decode: from the bytes of an image file to `uint8[28, 28]`, or an error that says what to do."""

import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps

from bundle.manifest import BLACK_ON_WHITE, IMAGE_SIZE, Polarity
from serving.errors import (
    BrokenImageError,
    ProblemError,
    UnsupportedImageError,
    UnsupportedMediaTypeError,
    WrongSizeError,
)
from serving.formats import PARSERS, SUPPORTED, sniff, stranger, webp_size

PNG_END = b"IEND\xaeB`\x82"
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N")

# What Pillow only warns of (a short read, a tag that makes no sense) is damage: refuse it, always.
# The filter is set once, because to set it for one request is not safe beside other threads.
warnings.filterwarnings("error", module=r"PIL\.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """One image as the model takes it."""

    pixels: npt.NDArray[np.uint8]
    """`uint8[28, 28]`, 0..255, in the file's own polarity."""
    warnings: tuple[str, ...]
    """What the caller should know, in sentences."""


def decode(data: bytes, media_type: str | None, polarity: Polarity) -> Decoded:
    """Decode one image file.

    Colour becomes gray by ITU-R 601 luma, 16 bits become 8, alpha is composited on black, the
    EXIF orientation is applied. The size is read from the header before a pixel is decoded.

    Args:
        data: the file, whole.
        media_type: as declared, one of `formats.PARSERS`; None is recognised by content.
        polarity: what the model expects; the opposite is answered with a warning, never flipped.

    Raises:
        UnsupportedMediaTypeError: the bytes are no image of the declared type.
        WrongSizeError: the image is not 28x28.
        UnsupportedImageError: it has several frames, or pixels that are not 8 or 16 bit.
        BrokenImageError: it is empty, truncated or damaged.
    """
    found = _recognise(data, media_type)
    try:
        if found == "image/webp":
            _check_size(webp_size(data))
        with PARSERS[found](io.BytesIO(data)) as image:
            _check_size(image.size)
            if getattr(image, "is_animated", False):
                raise UnsupportedImageError(
                    "the file has several frames", remedy="Send one frame, as a file or form part of its own."
                )
            image.load()
            if found == "image/png" and PNG_END not in data:  # Pillow reads on without it
                raise BrokenImageError(f"the {found} ends too early", remedy=_SEND_WHOLE)
            ImageOps.exif_transpose(image, in_place=True)
            pixels = _gray(image)
    except ProblemError:
        raise
    # Pillow's parsers raise whatever they stumble over (OSError, SyntaxError, struct.error,
    # OverflowError, MemoryError, ...): all of it is the file's fault, none of it is the service's.
    except Exception as error:
        raise BrokenImageError(
            f"the {found} is truncated or damaged ({_reason(error)})", remedy=_SEND_WHOLE
        ) from error
    return Decoded(pixels=pixels, warnings=_looks_inverted(pixels, polarity))


_SEND_WHOLE = "Send the whole file; with curl that is --data-binary @FILE, not -d @FILE."


def _recognise(data: bytes, media_type: str | None) -> str:
    if not data:
        raise BrokenImageError("the file is empty", remedy="Send a file that has an image in it.")
    found = sniff(data)
    if found is None:
        declared = f"declared as {media_type}, but it" if media_type else "and it"
        raise UnsupportedMediaTypeError(
            f"the content is no supported image: {declared} looks like {stranger(data)}",
            remedy=f"Convert it to one of {SUPPORTED}.",
        )
    if media_type is not None and media_type != found:
        raise UnsupportedMediaTypeError(
            f"the content is declared as {media_type}, but it is {found}",
            remedy=f"Declare what it is: Content-Type: {found}.",
        )
    return found


def _check_size(size: tuple[int, int] | None) -> None:
    """Refuse everything but 28x28; None is a header that only the parser can judge."""
    if size is not None and size != (IMAGE_SIZE, IMAGE_SIZE):
        raise WrongSizeError(
            f"the image is {size[0]}x{size[1]} pixels, the model takes {IMAGE_SIZE}x{IMAGE_SIZE}",
            remedy=f"Scale it to {IMAGE_SIZE}x{IMAGE_SIZE} as the training images were made.",
        )


def _gray(image: ImageFile.ImageFile) -> npt.NDArray[np.uint8]:
    """Return `uint8[28, 28]` of a loaded image of any mode."""
    gray: Image.Image = image
    if image.mode in DEEP_MODES:
        deep: npt.NDArray[Any] = np.asarray(image).astype(np.uint32)
        if isinstance(transparent := image.info.get("transparency"), int):
            deep[deep == transparent] = 0
        return ((deep + 128) // 257).astype(np.uint8)
    if image.mode in ("I", "F"):
        raise UnsupportedImageError(
            "the pixels are 32-bit numbers without a known range", remedy="Save it with 8 or 16 bits a pixel."
        )
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, (0, 0, 0, 255))
        gray = Image.alpha_composite(opaque, image.convert("RGBA"))
    elif image.mode not in ("L", "1", "RGB"):
        gray = image.convert("RGB")
    return np.array(gray.convert("L"), dtype=np.uint8)


def _looks_inverted(pixels: npt.NDArray[np.uint8], polarity: Polarity) -> tuple[str, ...]:
    """Compare the paper, which is what the border shows, with what the model expects."""
    inner = pixels[1:-1, 1:-1]
    total, inner_total = int(pixels.sum()), int(inner.sum())
    border = (total - inner_total) / (pixels.size - inner.size)
    centre = inner_total / inner.size
    if polarity == BLACK_ON_WHITE:
        border, centre, expected = 255 - border, 255 - centre, "dark ink on light paper (black-on-white)"
    else:
        expected = "light ink on dark paper (white-on-black)"
    # A bright border alone may be an object that fills the image; paper is brighter than what is on it.
    if border <= 127.5 or border < centre:
        return ()
    return (f"looks inverted: the model expects {expected}; invert the pixels if this image is the opposite",)


def _reason(error: Exception) -> str:
    """Return what Pillow said, on one line and without the addresses of its objects."""
    text = " ".join(str(error).split()) or type(error).__name__
    return type(error).__name__ if " at 0x" in text else text[:200]
