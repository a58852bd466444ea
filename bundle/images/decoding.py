"""The image decoder: from the bytes of an image file to `uint8[28, 28]`.

Training, the service and the batch scorer all use `decode`, so that a file means the same image to each of them.
"""

import ctypes
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image, ImageFile, TiffImagePlugin
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from bundle.images import hardening, orientation, plain_png
from bundle.images.contract import IMAGE_SIZE, Polarity, Resize
from bundle.images.errors import ImageError, ImageFault
from bundle.images.hardening import EXACT, MAX_SIDE, RESIZED, Limits
from bundle.images.resizing import resize as resized

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
    "floating_point": "and signed pixels, and those of 32 bits, are rejected, because their range is not known",
    "extra_samples": "of a TIFF that are no opacity are ignored; associated alpha is on black already",
    "offset": "a GIF's frame that leaves parts of the image out leaves them black",
    "other_kinds": "(CIELab, 12 bits, transparency masks and the like) are rejected by their name",
    "metadata": "are ignored but for the orientation, and a fault in them does no harm",
    "size": "any but 28x28 is rejected, unless the request asks to resize it as the model's training images were",
}
"""How each kind of image is converted, in words for the input contract (`GET /metadata`) and docs/service.md."""

FEW_BITS: dict[object, int] = {"L;2": 85, "L;4": 17}
"""Pillow's raw mode of PNG samples of 2 and 4 bits to the factor that scales the largest sample to 255."""
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N")

_UNSUPPORTED = ("Unsupported BMP", "cannot handle ")
"""The start of Pillow's messages about intact BMP and JPEG files of a kind that it does not read."""
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
    (b"II+\0", "a BigTIFF"),
    (b"MM\0+", "a BigTIFF"),
    (b"II\xbc\x01", "a JPEG XR"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000"),
    (b"8BPS", "a Photoshop document (PSD)"),
    (b"\0\0\1\0", "a Windows icon (ICO)"),
    (b"\0\0\2\0", "a Windows cursor (CUR)"),
    (b"gimp xcf", "a GIMP image (XCF)"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"\x76\x2f\x31\x01", "an OpenEXR"),
    (b"#?RADIANCE", "a Radiance HDR"),
    (b"qoif", "a QOI"),
    (b"DDS ", "a DirectDraw surface (DDS)"),
    (b"SIMPLE  =", "a FITS"),
    (b"\x89HDF", "an HDF5"),
    (b"/* XPM */", "an XPM"),
    (b"BPG\xfb", "a BPG"),
    (b"\xd7\xcd\xc6\x9a", "a Windows metafile (WMF)"),
    *((b"P%d" % number, "a Netpbm (PBM, PGM or PPM)") for number in range(1, 8)),
)
_BRANDS = (
    (b"avif", "an AVIF"),
    (b"avis", "an AVIF"),
    *(
        (brand, "a HEIC, as phones take photos")
        for brand in (b"heic", b"heix", b"hevc", b"heim", b"mif1", b"msf1")
    ),
)
"""Brands of ISO base media files (ISO/IEC 14496-12, section 4.3; 23008-12, annex B) to their format."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Lost:
    """What the pixels of a decoded image do not show of its file."""

    alpha: tuple[int, int] | None
    """The least and the greatest, from 0 for transparent to 255 for opaque; None if the file has no transparency."""
    sixteen_bits: bool
    """Whether samples of 16 bits were scaled to 8."""


# Pillow only warns of some damage (a short read, an invalid tag): turn these warnings into errors.
# The filter is global, because setting it for one image is not thread-safe.
warnings.filterwarnings("error", module=r"PIL\.")


def _quiet_libtiff() -> None:
    """Keep libtiff from writing to standard error what Pillow raises as exceptions.

    This works with the library inside Pillow's wheels; a libtiff from elsewhere keeps writing.
    """
    packages = Path(PIL.__file__).parent.parent
    for library in (*packages.glob("pillow.libs/libtiff-*"), *packages.glob("PIL/.dylibs/libtiff*")):
        libtiff = ctypes.CDLL(str(library))
        libtiff.TIFFSetErrorHandler(None)
        libtiff.TIFFSetWarningHandler(None)


_quiet_libtiff()

TiffImagePlugin.READ_LIBTIFF = True
"""Uncompressed pixels too: Pillow's own reader takes planes of 16 bits, and cut tiles, for something else."""


def decode(
    data: bytes,
    resize: Resize | None = None,
    polarity: Polarity | None = None,
    limits: Limits = RESIZED,
) -> npt.NDArray[np.uint8]:
    """Decode a PNG, JPEG, GIF, BMP, WebP or TIFF, recognised by its content, of 28x28 pixels or to be resized.

    Colour, transparency and other depths are converted by `CONVERSIONS`. The size is checked in the header before a
    pixel is decoded; bytes after the image are ignored.

    Args:
        data: the whole file.
        resize: how an image of any size within `limits` becomes 28x28; None rejects all but 28x28.
        polarity: for `resizing.resize`, which makes images of it with `mnist`; None keeps the file's own.
        limits: of files that are resized.

    Returns:
        `uint8[28, 28]`, 0..255, in the file's own polarity; it may be read-only.

    Raises:
        ImageError: the file is empty, of another format or size, damaged or hostile, has more than 1 MiB or several
            frames, or is of a kind that is not read; `kind` says which.
        MemoryError: the process has run out of memory, which says nothing about the file.
    """
    pixels = plain_png.decode(data)
    if resize is not None:
        return resized(_opened(data, _pixels, limits) if pixels is None else pixels, resize, polarity)
    return decode_any(data) if pixels is None else pixels


def decode_all(
    files: Sequence[bytes], resize: Resize | None = None, polarity: Polarity | None = None
) -> tuple[npt.NDArray[np.uint8], dict[int, ImageError]]:
    """Decode files as `decode` does, but plain PNGs in batches where nothing is resized, which is faster.

    Returns:
        `uint8[n, 28, 28]`, black for the files that cannot be decoded; and their errors by index.
    """
    pixels = np.zeros((len(files), IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    errors: dict[int, ImageError] = {}
    plain: dict[int, bytes] = {}
    for index, data in enumerate(files):
        if resize is None and (lines := plain_png.scanlines(data)) is not None:
            plain[index] = lines
            continue
        try:
            pixels[index] = decode_any(data) if resize is None else decode(data, resize, polarity)
        except ImageError as error:
            errors[index] = error
    if plain:
        pixels[list(plain)] = plain_png.unfiltered(list(plain.values()))
    return pixels, errors


def decode_any(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode as `decode` does, always with Pillow's parser."""
    return _opened(data, _pixels)


def check_header(data: bytes, resize: Resize | None = None) -> None:
    """Check a file's header as `decode` does, without decoding a pixel.

    Raises:
        ImageError: as `decode`, except for damage in the pixels.
    """
    _opened(data, lambda *_: None, EXACT if resize is None else RESIZED)


def lost_in_conversion(data: bytes) -> Lost:
    """Return what the conversions of `decode` leave out, for the reason why an image is blank; a second decoding.

    Args:
        data: a file that was decoded before, of 28x28 pixels or resized.

    Raises:
        ImageError: as `decode`.
    """
    return _opened(data, _lost, RESIZED)


def sniff(data: bytes) -> str | None:
    """Return the media type by the file's first bytes, a key of `PARSERS`, or None if it is not supported."""
    for magic, media_type in _IMAGES:
        if data.startswith(magic):
            return media_type
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def guess_format(data: bytes) -> str:
    """Return what a file of an unsupported format looks like, in words for an error message."""
    if data[4:8] == b"ftyp":
        return next((name for brand, name in _BRANDS if brand in data[8:64]), "a video")
    if data[128:132] == b"DICM":
        return "a DICOM"
    start = data[:64]
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith((b"<?xml", b"<!--", b"<!DOCTYPE svg")) and b"<svg" in data[:4096]:
        return "an SVG"
    found = (name for magic, name in _OTHER_FORMATS if start.startswith(magic) or text.startswith(magic))
    return next(found, "something else")


def _opened(
    data: bytes, then: Callable[[ImageFile.ImageFile, hardening.Sanitised], _T], limits: Limits = EXACT
) -> _T:
    """Parse and check the header, then call `then`. Every exception but MemoryError becomes an ImageError."""
    if not data:
        raise ImageError(ImageFault.EMPTY, "the file is empty")
    media_type = sniff(data)
    if media_type is None:
        found = f"it looks like {guess_format(data)}"
        raise ImageError(ImageFault.FORMAT, f"the content is no supported image: {found}", found=found)
    if len(data) > hardening.MAX_FILE_BYTES:
        found = f"{len(data)} bytes"
        allowed = (
            f"the {hardening.MAX_FILE_BYTES} that {'a 28x28' if limits is EXACT else 'an'} image may have"
        )
        detail = f"the file has {found}, more than {allowed}"
        raise ImageError(ImageFault.TOO_LARGE, detail, found=found)
    _check_size(hardening.size(data, media_type), limits)
    try:
        file = hardening.sanitise(data, media_type, limits)
        with PARSERS[media_type](hardening.ReadLimitedFile(file.data, limits.reads)) as image:
            _check_size(image.size, limits)
            if getattr(image, "is_animated", False):
                raise hardening.several_frames()
            _check_kind(image)
            return then(image, file)
    except (ImageError, MemoryError):
        raise
    # Pillow's parsers raise many types: OSError, SyntaxError, struct.error, OverflowError, ...
    except Exception as error:
        if isinstance(error, OSError) and str(error).startswith(_NO_MEMORY):
            raise MemoryError(str(error)) from error
        reason = _reason(error)
        if reason.startswith(_UNSUPPORTED):
            raise _unread(f"{media_type} ({reason})") from error
        raise _damaged(media_type, reason) from error


def _damaged(media_type: str, found: str) -> ImageError:
    detail = f"the {media_type} is truncated or damaged ({found})"
    return ImageError(ImageFault.DAMAGED, detail, found=found)


def _unread(what: str) -> ImageError:
    return ImageError(ImageFault.UNSUPPORTED, f"an image of this kind is not read: {what}", found=what)


def _check_kind(image: ImageFile.ImageFile) -> None:
    """Reject the kinds that Pillow (13.0) would take for another."""
    if isinstance(image, JpegImageFile) and image.mode == "CMYK" and "adobe" not in image.info:
        raise _unread("a CMYK JPEG that does not say whether its inks are inverted (it has no Adobe segment)")
    if isinstance(image, PngImageFile) and image.tile[0].args == "RGB;16B" and "transparency" in image.info:
        raise _unread("a PNG with a transparent colour of 16 bits a channel")


def _check_size(size: tuple[int, int] | None, limits: Limits) -> None:
    """Reject every size but 28x28, or what is too large to be resized; None is a size that only the parser can read."""
    if size is None or limits.allow(*size):
        return
    found = f"{size[0]}x{size[1]}"
    if limits is EXACT:
        detail = f"the image is {found} pixels, the model takes {IMAGE_SIZE}x{IMAGE_SIZE}"
        raise ImageError(ImageFault.SIZE, detail, found=found)
    detail = (
        f"the image is {found} pixels; what is resized has at most {limits.pixels}, and {MAX_SIDE} on a side"
    )
    raise ImageError(ImageFault.PIXELS, detail, found=found)


def _pixels(image: ImageFile.ImageFile, file: hardening.Sanitised) -> npt.NDArray[np.uint8]:
    _scale_transparency(image)
    frame = _frame(image)
    image.load()
    gray = _gray(image)
    if frame is not None and "transparency" not in image.info:
        gray = _within(gray, frame)
    return orientation.upright(255 - gray if file.is_negative else gray, file.orientation)


def _frame(image: ImageFile.ImageFile) -> tuple[int, int, int, int] | None:
    """Return the frame of a GIF, not yet loaded, that leaves parts of the image out."""
    frame = image.tile[0].extents if isinstance(image, GifImageFile) else None
    return None if frame == (0, 0, *image.size) else frame


def _within(gray: npt.NDArray[np.uint8], frame: tuple[int, int, int, int]) -> npt.NDArray[np.uint8]:
    """Return black around a GIF's frame, which browsers leave transparent; Pillow (13.0) fills in the first colour."""
    left, top, right, bottom = frame
    pixels = np.zeros_like(gray)
    pixels[top:bottom, left:right] = gray[top:bottom, left:right]
    return pixels


def _scale_transparency(image: ImageFile.ImageFile) -> None:
    """Scale a PNG's transparent gray value to 0..255: Pillow (13.0) scales the samples, but not this value."""
    if isinstance(image, PngImageFile) and isinstance(gray := image.info.get("transparency"), int):
        image.info["transparency"] = gray * FEW_BITS.get(image.tile[0].args, 1)


def _gray(image: ImageFile.ImageFile) -> npt.NDArray[np.uint8]:
    """Convert a loaded image of any mode with 8 or 16 bits to `uint8[height, width]`."""
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


def _lost(image: ImageFile.ImageFile, _: hardening.Sanitised) -> Lost:
    # Pillow's raw mode has the depth of the file; a BMP's of 16 bits are those of all three colours.
    sixteen_bits = isinstance(image, PngImageFile | TiffImageFile) and ";16" in str(image.tile[0].args)
    _scale_transparency(image)
    frame = _frame(image)
    image.load()
    alpha = None
    if isinstance(transparent := image.info.get("transparency"), int) and image.mode in (
        "1",
        "L",
        *DEEP_MODES,
    ):
        opaque = np.array(image if image.mode in DEEP_MODES else image.convert("L")) != transparent
        alpha = (255 * int(opaque.min()), 255 * int(opaque.max()))
    elif image.has_transparency_data:
        channel = np.array(image.convert("RGBA").getchannel("A"))
        alpha = (int(channel.min()), int(channel.max()))
    elif frame is not None:
        alpha = (0, 255)
    return Lost(alpha, sixteen_bits)


def _reason(error: Exception) -> str:
    """Return Pillow's message on one line, without memory addresses of objects."""
    text = " ".join(str(error).split()) or type(error).__name__
    return type(error).__name__ if " at 0x" in text else text[:200]
