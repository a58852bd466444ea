"""Decode: from the bytes of an image file to `uint8[28, 28]`.

The one decoder of all three: what a model is trained on, what the service is asked about and what
the batch scorer reads go through `decode`, so that one file cannot mean two images.
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
"""Media type to Pillow's parser of that one format.

The parsers are used directly, not through `Image.open`: nothing else can be reached by content,
and an absurd size comes back as a number to refuse instead of as Pillow's own bomb error.
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
    "animated": "files of several frames are refused",
    "floating_point": "and 32-bit pixels are refused, because their range is not known",
    "size": "any but 28x28 is refused; nothing is scaled",
}
"""What becomes of each kind of image, in words for the input contract (`GET /metadata`) and the README."""

FEW_BITS: dict[object, int] = {"L;2": 85, "L;4": 17}
"""Pillow's name for a PNG's samples of 2 and 4 bits: what the largest must be multiplied by to be 255."""
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N")

_NO_MEMORY = "out of memory"
"""How Pillow's word for a decoder that got no memory begins."""

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

# What Pillow only warns of (a short read, a tag that makes no sense) is damage: refuse it, always.
# The filter is set once, because to set it for one image is not safe beside other threads.
warnings.filterwarnings("error", module=r"PIL\.")


def _quiet_libtiff() -> None:
    """Keep libtiff from writing to standard error, between the lines of a log, what Pillow raises anyway.

    Pillow's wheels bring the library with them; where it comes from elsewhere, it goes on writing.
    """
    for library in Path(PIL.__file__).parent.parent.glob("pillow.libs/libtiff-*"):
        libtiff = ctypes.CDLL(str(library))
        libtiff.TIFFSetErrorHandler(None)
        libtiff.TIFFSetWarningHandler(None)


_quiet_libtiff()


def decode(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode one PNG, JPEG, GIF, BMP, WebP or TIFF of 28x28 pixels, recognised by content.

    What becomes of what the model does not know is `CONVERSIONS`. The size is read from the header
    before a pixel is decoded; what follows the image in the file is not looked at.

    Args:
        data: the file, whole.

    Returns:
        `uint8[28, 28]`, 0..255, in the file's own polarity; it may be read-only.

    Raises:
        ImageError: it is empty, of no such format, of another size, damaged or made to be a burden,
            has more than 1 MiB or several frames, or has pixels that are not of 8 or 16 bits;
            `kind` says which.
        MemoryError: this process has none left; that says nothing of the file.
    """
    pixels = plain_png.decode(data)
    return decode_any(data) if pixels is None else pixels


def decode_all(files: Sequence[bytes]) -> tuple[npt.NDArray[np.uint8], dict[int, ImageError]]:
    """Decode files as `decode` does, in less time than one by one takes.

    Returns:
        `uint8[n, 28, 28]`, black where there is no image; and by the file's place why there is none.
    """
    pixels = np.zeros((len(files), IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    refused: dict[int, ImageError] = {}
    plain: dict[int, bytes] = {}
    for place, data in enumerate(files):
        if (lines := plain_png.scanlines(data)) is not None:
            plain[place] = lines
            continue
        try:
            pixels[place] = decode_any(data)
        except ImageError as error:
            refused[place] = error
    if plain:
        pixels[list(plain)] = plain_png.unfiltered(list(plain.values()))
    return pixels, refused


def decode_any(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode as `decode` does, by Pillow's parser whatever the file is."""
    return _opened(data, _pixels)


def check_header(data: bytes) -> None:
    """Raise what `decode` would, as far as the header tells: no pixel is decoded.

    Raises:
        ImageError: as `decode` does, but for damage in the pixels.
    """
    _opened(data, lambda _: None)


def sniff(data: bytes) -> str | None:
    """Return the media type that the first bytes say, a key of `PARSERS`, or None if they say none."""
    for magic, media_type in _IMAGES:
        if data.startswith(magic):
            return media_type
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def guess_format(data: bytes) -> str:
    """Say, for a refusal, what bytes that are no supported image look like."""
    start = data[:64].lstrip()
    return next((name for magic, name in _OTHER_FORMATS if start.startswith(magic)), "something else")


def _opened(data: bytes, then: Callable[[ImageFile.ImageFile], _T]) -> _T:
    """Parse the header, check it, and go on with `then`; what either raises is the file's fault, unless memory ends."""
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
    except (ImageError, MemoryError):  # no memory is this process's trouble, and says nothing of the file
        raise
    # Pillow's parsers raise whatever they stumble over: OSError, SyntaxError, struct.error, OverflowError, ...
    except Exception as error:
        if isinstance(error, OSError) and str(error).startswith(_NO_MEMORY):
            raise MemoryError(str(error)) from error
        raise _damaged(media_type, _reason(error)) from error


def _damaged(media_type: str, found: str) -> ImageError:
    detail = f"the {media_type} is truncated or damaged ({found})"
    return ImageError(ImageFault.DAMAGED, detail, found=found)


def _check_size(size: tuple[int, int] | None) -> None:
    """Refuse everything but 28x28; None is a header that only the parser can judge."""
    if size is not None and size != (IMAGE_SIZE, IMAGE_SIZE):
        found = f"{size[0]}x{size[1]}"
        detail = f"the image is {found} pixels, the model takes {IMAGE_SIZE}x{IMAGE_SIZE}"
        raise ImageError(ImageFault.SIZE, detail, found=found)


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) from a WebP header, None if it cannot be read there.

    Pillow's WebP parser allocates the whole canvas when it opens a file, 2 GiB at the largest, so
    the size has to be known before. Source: the WebP container specification, RFC 9649, section 2.7
    (VP8X), the VP8 frame header of RFC 6386, section 9.1, and RFC 9649, section 3.4 (VP8L).
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
    """Spread a PNG's transparent gray to 0..255 as Pillow (13.0) spreads its samples, but not this."""
    if isinstance(image, PngImageFile) and isinstance(gray := image.info.get("transparency"), int):
        image.info["transparency"] = gray * FEW_BITS.get(image.tile[0].args, 1)


def _gray(image: ImageFile.ImageFile) -> npt.NDArray[np.uint8]:
    """Return `uint8[28, 28]` of a loaded image of any mode with 8 or 16 bits."""
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
    """Return gray samples with the one that the file calls transparent, if there is one, as black."""
    if isinstance(transparent := image.info.get("transparency"), int):
        samples[samples == transparent] = 0
    return samples


def _reason(error: Exception) -> str:
    """Return what Pillow said, on one line and without the addresses of its objects."""
    text = " ".join(str(error).split()) or type(error).__name__
    return type(error).__name__ if " at 0x" in text else text[:200]
