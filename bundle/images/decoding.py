"""The image decoder: from the bytes of an image file to `uint8[28, 28]`.

Training, the service and the batch scorer all use `decode`, so that a file means the same image to each of them.
"""

import ctypes
import struct
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image, ImageFile, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from bundle.images import hardening, plain_png
from bundle.images.contract import IMAGE_SIZE
from bundle.images.errors import ImageError, ImageFault

PARSERS: dict[str, type[ImageFile.ImageFile]] = {
    "image/png": PngImageFile,
    "image/jpeg": JpegImageFile,
    "image/gif": GifImageFile,
    "image/bmp": BmpImageFile,
    "image/webp": WebPImageFile,
    "image/tiff": TiffImageFile,
}
"""Media type to Pillow's parser of that format.

The parsers are called directly, not through `Image.open`, so that no other parser can be reached by a file's content,
and that an absurd size is returned as a number to reject, instead of raised as Pillow's decompression bomb error.
"""

CONVERSIONS = {
    "colour": "becomes gray by its luma: 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601)",
    "palette": "each pixel becomes the gray of its colour",
    "cmyk": "becomes RGB as (255 - C) (255 - K) / 255, then gray; colour profiles are ignored",
    "alpha": "is composited on black, as is a transparent colour or palette entry",
    "sixteen_bits": "become eight: gray is divided by 257 and rounded, colour keeps its upper byte",
    "one_bit": "becomes 0 and 255",
    "exif_orientation": "is applied",
    "interlaced": "and progressive files are read as others",
    "animated": "files of several frames are rejected",
    "floating_point": "and 32-bit pixels are rejected, because their range is not known",
    "size": "any but 28x28 is rejected; nothing is scaled",
}
"""How each kind of image is converted, in words for the input contract (`GET /metadata`) and docs/service.md."""

FEW_BITS: dict[object, int] = {"L;2": 85, "L;4": 17}
"""Pillow's raw mode of PNG samples of 2 and 4 bits to the factor that scales the largest sample to 255."""
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N")

_NO_MEMORY = "out of memory"
"""The start of Pillow's message when a decoder cannot allocate memory."""

_IMAGES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)
_OTHER_FORMATS = (
    (b"\x89PNG", "a PNG whose line breaks were changed on the way, as by curl -d (--data-binary keeps them)"),
    (b"%PDF-", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip"),
    (b"<svg", "an SVG"),
    (b"<?xml", "XML"),
    (b"<", "HTML or XML"),
    (b"{", "JSON"),
    (b"\x93NUMPY", "a NumPy array"),
)

_T = TypeVar("_T")

# Pillow only warns of some damage (a short read, an invalid tag): turn these warnings into errors.
# The filter is global, because setting it for one image is not thread-safe.
warnings.filterwarnings("error", module=r"PIL\.")


def _quiet_libtiff() -> None:
    """Keep libtiff from writing to standard error what Pillow raises as exceptions.

    This works with the library inside Pillow's wheels; a libtiff from elsewhere keeps writing.
    """
    for library in Path(PIL.__file__).parent.parent.glob("pillow.libs/libtiff-*"):
        libtiff = ctypes.CDLL(str(library))
        libtiff.TIFFSetErrorHandler(None)
        libtiff.TIFFSetWarningHandler(None)


_quiet_libtiff()


def decode(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode a PNG, JPEG, GIF, BMP, WebP or TIFF of 28x28 pixels, recognised by its content.

    Colour, transparency and other depths are converted by `CONVERSIONS`. The size is checked in the header before a
    pixel is decoded; bytes after the image are ignored.

    Args:
        data: the whole file.

    Returns:
        `uint8[28, 28]`, 0..255, in the file's own polarity; it may be read-only.

    Raises:
        ImageError: the file is empty, of another format or size, damaged or hostile, has more than 1 MiB or several
            frames, or has pixels of other than 8 or 16 bits; `kind` says which.
        MemoryError: the process has run out of memory, which says nothing about the file.
    """
    pixels = plain_png.decode(data)
    return decode_any(data) if pixels is None else pixels


def decode_all(files: Sequence[bytes]) -> tuple[npt.NDArray[np.uint8], dict[int, ImageError]]:
    """Decode files as `decode` does, but plain PNGs in batches, which is faster.

    Returns:
        `uint8[n, 28, 28]`, black for the files that cannot be decoded; and their errors by index.
    """
    pixels = np.zeros((len(files), IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    errors: dict[int, ImageError] = {}
    plain: dict[int, bytes] = {}
    for index, data in enumerate(files):
        if (lines := plain_png.scanlines(data)) is not None:
            plain[index] = lines
            continue
        try:
            pixels[index] = decode_any(data)
        except ImageError as error:
            errors[index] = error
    if plain:
        pixels[list(plain)] = plain_png.unfiltered(list(plain.values()))
    return pixels, errors


def decode_any(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode as `decode` does, always with Pillow's parser."""
    return _opened(data, _pixels)


def check_header(data: bytes) -> None:
    """Check a file's header as `decode` does, without decoding a pixel.

    Raises:
        ImageError: as `decode`, except for damage in the pixels.
    """
    _opened(data, lambda _: None)


def sniff(data: bytes) -> str | None:
    """Return the media type by the file's first bytes, a key of `PARSERS`, or None if it is not supported."""
    for magic, media_type in _IMAGES:
        if data.startswith(magic):
            return media_type
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def guess_format(data: bytes) -> str:
    """Return what a file of an unsupported format looks like, in words for an error message."""
    start = data[:64].lstrip()
    return next((name for magic, name in _OTHER_FORMATS if start.startswith(magic)), "something else")


def _opened(data: bytes, then: Callable[[ImageFile.ImageFile], _T]) -> _T:
    """Parse and check the header, then call `then`. Every exception but MemoryError becomes an ImageError."""
    if not data:
        raise ImageError(ImageFault.EMPTY, "the file is empty")
    media_type = sniff(data)
    if media_type is None:
        found = f"it looks like {guess_format(data)}"
        raise ImageError(ImageFault.FORMAT, f"the content is no supported image: {found}", found=found)
    if len(data) > hardening.MAX_FILE_BYTES:
        found = f"{len(data)} bytes"
        detail = f"the file has {found}, more than the {hardening.MAX_FILE_BYTES} that a 28x28 image may have"
        raise ImageError(ImageFault.TOO_LARGE, detail, found=found)
    if media_type == "image/webp":
        _check_size(_webp_size(data))
    try:
        with PARSERS[media_type](hardening.ReadLimitedFile(hardening.sanitise(data, media_type))) as image:
            _check_size(image.size)
            if getattr(image, "is_animated", False):
                raise ImageError(ImageFault.ANIMATED, "the file has several frames")
            if image.mode in ("I", "F"):
                raise ImageError(
                    ImageFault.PIXEL_RANGE, "the pixels are 32-bit numbers without a known range"
                )
            return then(image)
    except (ImageError, MemoryError):
        raise
    # Pillow's parsers raise many types: OSError, SyntaxError, struct.error, OverflowError, ...
    except Exception as error:
        if isinstance(error, OSError) and str(error).startswith(_NO_MEMORY):
            raise MemoryError(str(error)) from error
        raise _damaged(media_type, _reason(error)) from error


def _damaged(media_type: str, found: str) -> ImageError:
    detail = f"the {media_type} is truncated or damaged ({found})"
    return ImageError(ImageFault.DAMAGED, detail, found=found)


def _check_size(size: tuple[int, int] | None) -> None:
    """Reject every size but 28x28; None is a size that only the parser can read."""
    if size is not None and size != (IMAGE_SIZE, IMAGE_SIZE):
        found = f"{size[0]}x{size[1]}"
        detail = f"the image is {found} pixels, the model takes {IMAGE_SIZE}x{IMAGE_SIZE}"
        raise ImageError(ImageFault.SIZE, detail, found=found)


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) from a WebP header, or None if it does not have them.

    Pillow's WebP parser allocates the whole canvas, up to 2 GiB, when it opens a file, so the size must be known
    before. Sources: the WebP container specification, RFC 9649, section 2.7 (VP8X), the VP8 frame header of RFC 6386,
    section 9.1, and RFC 9649, section 3.4 (VP8L).
    """
    try:
        match data[12:16]:
            case b"VP8X":
                low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", data, 24)
                return 1 + (high_width << 16 | low_width), 1 + (high_height << 16 | low_height)
            case b"VP8 ":
                width, height = struct.unpack_from("<HH", data, 26)
                return width & 0x3FFF, height & 0x3FFF
            case b"VP8L":
                (bits,) = struct.unpack_from("<I", data, 21)
                return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    except struct.error:
        return None
    return None


def _pixels(image: ImageFile.ImageFile) -> npt.NDArray[np.uint8]:
    _scale_transparency(image)
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return _gray(image)


def _scale_transparency(image: ImageFile.ImageFile) -> None:
    """Scale a PNG's transparent gray value to 0..255: Pillow (13.0) scales the samples, but not this value."""
    if isinstance(image, PngImageFile) and isinstance(gray := image.info.get("transparency"), int):
        image.info["transparency"] = gray * FEW_BITS.get(image.tile[0].args, 1)


def _gray(image: ImageFile.ImageFile) -> npt.NDArray[np.uint8]:
    """Convert a loaded image of any mode with 8 or 16 bits to `uint8[28, 28]`."""
    if image.mode in DEEP_MODES:
        deep = _blackened(np.array(image), image).astype(np.uint32)
        return ((deep + 128) // 257).astype(np.uint8)
    if image.mode in ("1", "L"):
        return _blackened(np.array(image.convert("L")), image)
    colour: Image.Image = image
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, (0, 0, 0, 255))
        colour = Image.alpha_composite(opaque, image.convert("RGBA"))
    elif image.mode != "RGB":
        colour = image.convert("RGB")
    return np.array(colour.convert("L"))


def _blackened(samples: npt.NDArray[Any], image: ImageFile.ImageFile) -> npt.NDArray[Any]:
    """Return gray samples with the transparent value, if the file has one, replaced by black."""
    if isinstance(transparent := image.info.get("transparency"), int):
        samples[samples == transparent] = 0
    return samples


def _reason(error: Exception) -> str:
    """Return Pillow's message on one line, without memory addresses of objects."""
    text = " ".join(str(error).split()) or type(error).__name__
    return type(error).__name__ if " at 0x" in text else text[:200]
