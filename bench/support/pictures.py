"""Image files: a digit in every supported format."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """Return an image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, format=file_format, **options)
    return buffer.getvalue()


def png(pixels: Pixels, **options: Any) -> bytes:
    """Return pixels as a PNG file."""
    return encoded(Image.fromarray(pixels), "PNG", **options)


def a_digit() -> Pixels:
    """Return an image like MNIST's: light ink in the middle of dark paper."""
    pixels = np.zeros((28, 28), np.uint8)
    pixels[6:22, 6:22] = np.random.default_rng(3).integers(1, 256, (16, 16), dtype=np.uint8)
    return pixels


def webp_bomb() -> bytes:
    """Return 30 bytes that declare a WebP canvas of 16383x16383 pixels."""
    canvas = (16382).to_bytes(3, "little") * 2
    return b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0" + canvas


def in_mode(file_format: str, mode: str, **options: Any) -> bytes:
    """Return random pixels of a mode as a file; the same for the same arguments."""
    random = np.random.default_rng(5)
    if mode.startswith("I;16"):
        return encoded(
            Image.fromarray(random.integers(0, 65536, (28, 28), np.uint16)), file_format, **options
        )
    bands = Image.fromarray(random.integers(0, 256, (28, 28, 4), np.uint8))
    return encoded(bands.convert(mode), file_format, **options)


LOSSLESS: dict[str, Callable[[Image.Image], bytes]] = {
    "image/png": lambda image: encoded(image, "PNG"),
    "image/bmp": lambda image: encoded(image, "BMP"),
    "image/gif": lambda image: encoded(image, "GIF"),
    "image/tiff": lambda image: encoded(image, "TIFF"),
    "image/webp": lambda image: encoded(image, "WEBP", lossless=True),
}
EVERY_FORMAT = LOSSLESS | {"image/jpeg": lambda image: encoded(image, "JPEG", quality=95)}
SAMPLES = {media_type: save(Image.fromarray(a_digit())) for media_type, save in EVERY_FORMAT.items()}
"""The digit by media type."""

_ROTATED = Image.Exif()
_ROTATED[0x0112] = 6
EVERY_MODE = [
    *[in_mode("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")],
    in_mode("PNG", "L", transparency=7),
    in_mode("PNG", "RGB", exif=_ROTATED),
    *[in_mode("JPEG", mode) for mode in ("L", "RGB", "CMYK")],
    in_mode("JPEG", "RGB", exif=_ROTATED),
    *[in_mode("GIF", mode) for mode in ("L", "P", "RGB")],
    *[in_mode("BMP", mode) for mode in ("1", "L", "RGB", "P")],
    *[in_mode("WEBP", mode, lossless=True) for mode in ("RGB", "RGBA")],
    *[in_mode("TIFF", mode) for mode in ("1", "L", "RGB", "RGBA", "CMYK", "I;16")],
]
"""Files of every pixel mode of each format."""


def odd_tiff() -> bytes:
    """Return a valid TIFF with one malformed tag, for which Pillow only warns."""
    tag = b"\x1a\x01\x05\x00\x01\x00\x00\x00"  # horizontal resolution, a fraction, one of them
    whole = in_mode("TIFF", "L", dpi=(72, 72))
    if whole.count(tag) != 1:
        raise ValueError("Pillow writes the resolution otherwise than this function looks for it")
    return whole.replace(tag, b"\x1a\x01\x05\x00\x02\x00\x00\x00")
