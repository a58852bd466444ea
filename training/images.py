"""Decode one image file, exactly as the service does, so that a model is trained on what it will see.

Source of the rules: `serving/images.py`; a test compares the two over formats and pixel modes.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from bundle.manifest import IMAGE_SIZE

PNG_END = b"IEND\xaeB`\x82"
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N")

_PARSERS: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"\xff\xd8\xff", JpegImageFile),
    (b"GIF87a", GifImageFile),
    (b"GIF89a", GifImageFile),
    (b"BM", BmpImageFile),
    (b"II*\x00", TiffImageFile),
    (b"MM\x00*", TiffImageFile),
)
"""How a file begins, and Pillow's parser of that one format: no other can be reached."""


class BadImageError(Exception):
    """A file that is no image to train on."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind} ({detail})" if detail else kind)
        self.kind = kind
        """A few words, the same for all files with this trouble, to count by."""


def decode(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode one PNG, JPEG, GIF, BMP, WebP or TIFF of 28x28 pixels, recognised by content.

    Colour becomes gray by ITU-R 601 luma, 16 bits become 8, alpha is composited on black, the EXIF
    orientation is applied.

    Call it with Pillow's warnings turned into errors: what it only warns of is damage.

    Returns:
        `uint8[28, 28]`.

    Raises:
        BadImageError: it is empty, no image, of another size, damaged, has several frames, or has
            32-bit pixels.
    """
    with _opened(data) as image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _gray(image)


def check_header(data: bytes) -> None:
    """Raise what `decode` would, as far as the header tells: no pixel is decoded.

    Raises:
        BadImageError: as `decode` does, but for damage in the pixels.
    """
    with _opened(data):
        pass


@contextmanager
def _opened(data: bytes) -> Iterator[ImageFile.ImageFile]:
    """Parse the header and check it; whatever is raised then is the file's fault."""
    parser = _parser(data)
    try:
        with parser(io.BytesIO(data)) as image:
            if image.size != (IMAGE_SIZE, IMAGE_SIZE):
                raise BadImageError("not 28x28", f"{image.width}x{image.height}")
            if getattr(image, "is_animated", False):
                raise BadImageError("several frames")
            if image.mode in ("I", "F"):
                raise BadImageError("pixels of 32 bits, without a known range")
            if parser is PngImageFile and PNG_END not in data:  # Pillow reads on without it
                raise BadImageError("damaged", "it ends too early")
            yield image
    except BadImageError:
        raise
    # Pillow's parsers raise whatever they stumble over: OSError, SyntaxError, struct.error,
    # OverflowError, MemoryError, ...
    except Exception as error:
        raise BadImageError("damaged", _reason(error)) from error


def _parser(data: bytes) -> type[ImageFile.ImageFile]:
    if not data:
        raise BadImageError("empty file")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WebPImageFile
    for magic, parser in _PARSERS:
        if data.startswith(magic):
            return parser
    raise BadImageError("not a PNG, JPEG, GIF, BMP, WebP or TIFF image")


def _gray(image: ImageFile.ImageFile) -> npt.NDArray[np.uint8]:
    """Return `uint8[28, 28]` of a loaded image of any mode."""
    gray: Image.Image = image
    if image.mode in DEEP_MODES:
        deep: npt.NDArray[Any] = np.asarray(image).astype(np.uint32)
        if isinstance(transparent := image.info.get("transparency"), int):
            deep[deep == transparent] = 0
        return ((deep + 128) // 257).astype(np.uint8)
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, (0, 0, 0, 255))
        gray = Image.alpha_composite(opaque, image.convert("RGBA"))
    elif image.mode not in ("L", "1", "RGB"):
        gray = image.convert("RGB")
    return np.array(gray.convert("L"), dtype=np.uint8)


def _reason(error: Exception) -> str:
    """Return what Pillow said, on one line and without the addresses of its objects."""
    text = " ".join(str(error).split()) or type(error).__name__
    return type(error).__name__ if " at 0x" in text else text[:200]
