"""Hardening against decompression bombs and the like: checks of a file's structure before a parser sees it.

Pillow's own protection looks at the size in pixels, which these files get right. They are large in other ways: ten
thousand chunks or segments, texts and profiles that unpack to megabytes, directories of tens of thousands of entries,
a tile of gigabytes. `sanitise` reads the orientation and removes the metadata, so that no parser unpacks them or fails
for a fault in them, and limits the rest; `ReadLimitedFile` stops a parser that reads a file in tiny pieces.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from bundle.images import bmp_palettes, orientation, tiff_kinds
from bundle.images.contract import IMAGE_SIZE
from bundle.images.errors import HostileImageError, ImageError, ImageFault
from bundle.images.tiff_directories import Directory

MAX_FILE_BYTES = 1 << 20
"""A 28x28 image of 16 bits and four channels is 6 KiB; a CMYK profile, the largest common metadata, 600 KiB."""
MAX_PARTS = 1000
"""Most chunks of a PNG or WebP, and most segments of a JPEG before its first scan."""
MAX_PIXEL_BYTES = 256 << 10
"""Most compressed pixel data of a PNG, WebP or TIFF: forty times its uncompressed size."""
MAX_SCANS = 100
"""Most scans of a progressive JPEG; encoders write ten."""
MAX_TABLE_BYTES = 4096
"""Most bytes of a JPEG's quantization tables; there can be four, of at most 129 bytes each."""
MAX_TEXT_BYTES = 128 << 10
"""Most decompressed bytes of a PNG's texts, of those that can hold its orientation."""
MAX_COLOURS = 256
MAX_BMP_PIXEL_BYTES = 4096
"""28x28 pixels take at most 3,136 bytes; 8-bit pixels in run-length encoding, each a run of its own, take 1,626."""
MAX_READS = 4000
"""Most reads of a parser from a file; each is an iteration of a Python loop.

A PNG chunk takes three reads, a GIF block of 255 bytes two.
"""

MAX_PIXELS = 1 << 22
"""Most pixels of an image that is to be resized: 2048x2048. It takes 160 ms at most (16 bits, four channels)."""
SERVED_PIXELS = 1 << 19
"""The same where a stranger sends it: 800x600 has fewer. It takes 20 ms at most, and holds the GIL for 4 ms of them."""
MAX_SIDE = 4096
"""Longest side of an image that is to be resized."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The limits that depend on the image's size in pixels."""

    pixels: int = IMAGE_SIZE * IMAGE_SIZE
    pixel_bytes: int = MAX_PIXEL_BYTES
    bmp_pixel_bytes: int = MAX_BMP_PIXEL_BYTES
    scans: int = MAX_SCANS
    reads: int = MAX_READS
    rows: int = IMAGE_SIZE
    """Most strips that a TIFF can have whose directory does not say how many."""
    tile_samples: int | None = None
    """Most samples in all tiles of a TIFF together; None limits each alone, to `tiff_kinds.MAX_TILE_SAMPLES`."""

    def allow(self, width: int, height: int) -> bool:
        """Return whether an image of this size is read."""
        if self is EXACT:
            return (width, height) == (IMAGE_SIZE, IMAGE_SIZE)
        return max(width, height) <= MAX_SIDE and width * height <= self.pixels


EXACT = Limits()
"""For files of 28x28 pixels."""
RESIZED = Limits(
    pixels=MAX_PIXELS,
    pixel_bytes=MAX_FILE_BYTES,
    bmp_pixel_bytes=MAX_FILE_BYTES,
    scans=20,
    reads=12_000,
    rows=MAX_SIDE,
    tile_samples=4 * MAX_PIXELS,
)
"""For files of any size up to `pixels` and `MAX_SIDE`, each scan of which costs as much as a whole image.

A GIF of 1 MiB is read in 8,400 pieces. Each run of a BMP in run-length encoding is a piece as well, so a large one is
rejected.
"""
SERVED = replace(RESIZED, pixels=SERVED_PIXELS, tile_samples=4 * SERVED_PIXELS)

BARE_MARKERS = frozenset((*range(0xC0), 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE), 0xFF))
"""JPEG markers that Pillow (13.0) parses without a length, whatever the standard says."""

_PNG_SIGNATURE = 8
_BMP_HEADERS = 14 + 124 + 4 * MAX_COLOURS
"""Bytes of the longest headers and palette."""
_ANCILLARY = b"tRNS"
"""The ancillary PNG chunk that affects the pixels, and is therefore kept."""
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_METADATA = frozenset(
    b"tEXt zTXt iTXt eXIf iCCP sRGB gAMA cHRM sBIT bKGD hIST pHYs sPLT tIME cICP mDCV cLLI acTL fcTL".split()
)
"""PNG chunks (third edition, section 11.3) that no pixel of a still image depends on, whatever is wrong with them."""
_EXIF_TEXT, _XMP_TEXT = b"Raw profile type exif", b"XML:com.adobe.xmp"
"""Keywords of the PNG texts that can hold an orientation; ImageMagick writes the first."""
_XMP_MARK = b"http://ns.adobe.com/xap/1.0/\0"
"""Prefix of the JPEG's APP1 segments with XMP."""
_XMP_TAG = 700
"""XMP in a TIFF (XMP specification, part 3, section 1.1.4)."""
_APP0, _APP1, _APP14, _APP15, _COM, _DQT, _SOS = 0xE0, 0xE1, 0xEE, 0xEF, 0xFE, 0xDB, 0xDA
_LEAST = {_APP0: 4 + 14, _APP14: 4 + 12}
"""Bytes of the shortest JFIF and Adobe segments (T.871, section 10.1; T.872, section 6.5.3); libjpeg ignores others."""


@dataclass(frozen=True, slots=True)
class Sanitised:
    """A file that is safe to parse."""

    data: bytes
    orientation: int = orientation.UPRIGHT
    """As EXIF numbers them."""
    is_negative: bool = False
    """Whether the parser returns white for black."""


def size(data: bytes, media_type: str) -> tuple[int, int] | None:
    """Return (width, height) where they must be known before `sanitise` or a parser makes room for the pixels."""
    if media_type == "image/webp":
        return _webp_size(data)
    return bmp_palettes.size(data) if media_type == "image/bmp" else None


def sanitise(data: bytes, media_type: str, limits: Limits = EXACT) -> Sanitised:
    """Return a file, whose `size` has been checked, without its metadata, and its orientation.

    Damage is left to the parser, except for a PNG that ends before its last chunk, which Pillow accepts, and for the
    checksums of removed chunks of unknown meaning.

    Raises:
        HostileImageError: the file is unsafe to parse; the message says why, in a few words.
        ImageError: it is of a kind that is not read, or has several frames.
        ValueError: it is damaged; the message says where.
    """
    sanitiser = _SANITISERS.get(media_type)
    return Sanitised(data) if sanitiser is None else sanitiser(data, limits)


class ReadLimitedFile(io.BytesIO):
    """A file in memory with a limited number of reads."""

    def __init__(self, data: bytes, most: int = MAX_READS) -> None:
        super().__init__(data)
        self._most = self._left = most

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as `io.BytesIO` does.

        Raises:
            HostileImageError: there were too many reads.
        """
        self._left -= 1
        if self._left < 0:
            raise HostileImageError(f"it is read in more than {self._most} pieces")
        return super().read(size)


def _png(data: bytes, limits: Limits) -> Sanitised:
    """Walk the chunks (PNG, third edition, section 5.3) up to IEND, and drop what follows it."""
    at = kept = _PNG_SIGNATURE
    pieces = [data[:kept]]
    metadata = _PngMetadata()
    packed = 0
    for _ in range(MAX_PARTS):
        if at + 12 > len(data):
            raise HostileImageError("it ends too early")
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if kind == b"IEND":
            pieces.append(data[kept:end])
            return Sanitised(b"".join(pieces), metadata.orientation())
        if kind == b"IDAT":
            packed += length
            if packed > limits.pixel_bytes:
                raise HostileImageError(f"its pixels have more than {limits.pixel_bytes} bytes")
        elif kind == b"fdAT":
            raise several_frames()
        elif kind.isalpha() and kind[:1].islower() and kind != _ANCILLARY:
            is_whole = zlib.crc32(data[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")
            if is_whole:
                metadata.add(kind, data[at + 8 : end - 4])
            elif kind not in _METADATA:
                raise HostileImageError(f"the checksum of its {kind.decode()} chunk is wrong")
            pieces.append(data[kept:at])
            kept = end
        at = end
    raise HostileImageError(f"it has more than {MAX_PARTS} chunks")


class _PngMetadata:
    """The chunks of a PNG that can hold its orientation."""

    def __init__(self) -> None:
        self._exif: list[bytes] = []
        self._exif_texts: list[bytes] = []
        self._xmp: list[bytes] = []
        self._unpacked = 0

    def add(self, kind: bytes, content: bytes) -> None:
        """Keep a chunk if it is one of them."""
        if kind == b"eXIf":
            self._exif.append(content)
        elif kind in _TEXTS and (keyword := content.partition(b"\0")[0]) in (_EXIF_TEXT, _XMP_TEXT):
            text = _text(kind, content, MAX_TEXT_BYTES - self._unpacked)
            self._unpacked += len(text)
            if keyword == _XMP_TEXT:
                self._xmp.append(text)
            else:
                self._exif_texts.append(_from_hexadecimals(text))

    def orientation(self) -> int:
        """Return what EXIF data say, then those in texts, then XMP."""
        return orientation.of([*self._exif, *self._exif_texts], self._xmp)


def several_frames() -> ImageError:
    """Return the error of an animation."""
    return ImageError(ImageFault.ANIMATED, "the file has several frames")


def _text(kind: bytes, content: bytes, most: int) -> bytes:
    """Return the text of a chunk (PNG, third edition, section 11.3.3); empty if it cannot be unpacked."""
    text = content.partition(b"\0")[2]
    is_packed = kind == b"zTXt" or (kind == b"iTXt" and text[:1] != b"\0")
    if kind == b"zTXt":
        text = text[1:]
    elif kind == b"iTXt":
        text = text[2:].partition(b"\0")[2].partition(b"\0")[2]
    if not is_packed:
        return text
    try:
        text = zlib.decompressobj().decompress(text, most + 1)
    except zlib.error:
        return b""
    if len(text) > most:
        raise HostileImageError(f"its texts unpack to more than {MAX_TEXT_BYTES} bytes")
    return text


def _from_hexadecimals(text: bytes) -> bytes:
    """Return EXIF data as ImageMagick writes them into a text: an empty line, a name, a length, hexadecimals."""
    try:
        return bytes.fromhex(text.split(b"\n", 3)[-1].decode("latin-1"))
    except ValueError:
        return b""


def _jpeg(data: bytes, limits: Limits) -> Sanitised:
    """Remove the comments and the application segments that do not affect the colour."""
    kept = tables = 0
    pieces, exif, xmp = [], [], []
    for marker, at, end in _segments(data, limits):
        if marker == _DQT:
            tables += end - at
            if tables > MAX_TABLE_BYTES:
                raise HostileImageError(f"its tables have more than {MAX_TABLE_BYTES} bytes")
        elif marker in (_COM, _APP15) or _APP1 <= marker < _APP14 or end - at < _LEAST.get(marker, 0):
            if marker == _APP1 and data.startswith(orientation.EXIF_MARK, at + 4):
                exif.append(data[at + 10 : end])
            elif marker == _APP1 and data.startswith(_XMP_MARK, at + 4):
                xmp.append(data[at + 4 : end])
            pieces.append(data[kept:at])
            kept = end
    pieces.append(data[kept:])
    return Sanitised(b"".join(pieces), orientation.of([b"".join(exif)], xmp))


def _segments(data: bytes, limits: Limits) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment (ITU-T T.81, annex B.1.1) before the first scan.

    Fill bytes and garbage between segments, which Pillow skips byte by byte, count as segments.
    """
    at = 2
    for _ in range(MAX_PARTS):
        if at + 4 > len(data):
            return
        marker = data[at + 1]
        if data[at] != 0xFF or marker == 0xFF:
            at += 1
        elif marker == _SOS:
            _check_scans(data, at, limits.scans)
            return
        elif marker in BARE_MARKERS:
            at += 2
        else:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            yield marker, at, end
            at = end
    raise HostileImageError(f"it has more than {MAX_PARTS} segments before its first scan")


def _check_scans(data: bytes, at: int, most: int) -> None:
    """Limit the scans, each of which is a pass over the image; their marker cannot occur in compressed pixels."""
    if data.count(b"\xff\xda", at) > most:
        raise HostileImageError(f"it has more than {most} scans")


def _tiff(data: bytes, limits: Limits) -> Sanitised:
    directory = Directory(data)
    if directory.has_next():
        raise several_frames()
    plain, is_negative = tiff_kinds.plain(data, directory, limits.tile_samples)
    if tiff_kinds.packed_bytes(data, directory, limits.rows) > limits.pixel_bytes:
        raise HostileImageError(f"its pixels have more than {limits.pixel_bytes} bytes")
    for jpeg in tiff_kinds.jpegs(data, directory):
        _check_scans(jpeg, 0, limits.scans)
    way = orientation.of_directory(directory) or orientation.of([], directory.texts(_XMP_TAG))
    return Sanitised(plain, way, is_negative)


def _bmp(data: bytes, limits: Limits) -> Sanitised:
    """Check the number of colours, and remove what follows the pixels, because runs are read one by one.

    Source: Microsoft, BITMAPFILEHEADER and BITMAPINFOHEADER.
    """
    bits, colours = int.from_bytes(data[28:30], "little"), int.from_bytes(data[46:50], "little")
    if int.from_bytes(data[14:18], "little") >= 40 and bits <= 8 and colours > MAX_COLOURS:
        raise HostileImageError(f"its palette has more than {MAX_COLOURS} colours")
    offset = int.from_bytes(data[10:14], "little")
    short = data[: max(offset, _BMP_HEADERS) + limits.bmp_pixel_bytes]
    return Sanitised(bmp_palettes.plain(short, limits.reads))


def _webp(data: bytes, limits: Limits) -> Sanitised:
    """Walk the chunks (RFC 9649, section 2.3)."""
    at, end, packed = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little")), 0
    exif: list[bytes] = []
    xmp: list[bytes] = []
    for _ in range(MAX_PARTS):
        if at + 8 > end:
            return Sanitised(data, orientation.of(exif, xmp))
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind in (b"VP8 ", b"VP8L", b"ALPH", b"ANMF"):
            packed += length
            if packed > limits.pixel_bytes:
                raise HostileImageError(f"its pixels have more than {limits.pixel_bytes} bytes")
        elif kind in (b"EXIF", b"XMP "):
            (exif if kind == b"EXIF" else xmp).append(data[at + 8 : at + 8 + length])
        at += 8 + length + (length & 1)
    raise HostileImageError(f"it has more than {MAX_PARTS} chunks")


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


_SANITISERS: dict[str, Callable[[bytes, Limits], Sanitised]] = {
    "image/png": _png,
    "image/jpeg": _jpeg,
    "image/tiff": _tiff,
    "image/bmp": _bmp,
    "image/webp": _webp,
}
