"""Image formats by list: their media types, how their bytes begin, and who parses them."""

import struct

from PIL import ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

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

ALIASES = {"image/jpg": "image/jpeg", "image/x-ms-bmp": "image/bmp", "image/x-png": "image/png"}
"""Names that clients send for the registered ones."""

SUPPORTED = ", ".join(PARSERS)

_IMAGES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)
_STRANGERS = (
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


def canonical(media_type: str) -> str:
    """Return the registered name of a media type, in lower case."""
    media_type = media_type.lower()
    return ALIASES.get(media_type, media_type)


def sniff(data: bytes) -> str | None:
    """Return the media type that the first bytes say, or None if it is no supported image."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((media_type for magic, media_type in _IMAGES if data.startswith(magic)), None)


def stranger(data: bytes) -> str:
    """Say, for a refusal, what bytes that are no supported image look like."""
    start = data[:64].lstrip()
    return next((name for magic, name in _STRANGERS if start.startswith(magic)), "something else")


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) from a WebP header, None if it cannot be read there.

    Pillow's WebP parser allocates the whole canvas when it opens a file, 2 GiB at the largest, so
    the size has to be known before. Source: the WebP container specification, RFC 9649, section 2.7
    (VP8X), the VP8 frame header of RFC 6386, section 9.1, and RFC 9649, section 3.4 (VP8L).
    """
    try:
        match data[12:16]:
            case b"VP8X":
                return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
            case b"VP8 ":
                width, height = struct.unpack_from("<HH", data, 26)
                return width & 0x3FFF, height & 0x3FFF
            case b"VP8L":
                (bits,) = struct.unpack_from("<I", data, 21)
                return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    except struct.error:
        return None
    return None
