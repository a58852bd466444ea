"""Hardening against decompression bombs and the like: checks of a file's structure before a parser sees it.

Pillow's own protection looks at the size in pixels, which these files get right. They are large in other ways: ten
thousand chunks or segments, texts and profiles that unpack to megabytes, directories of tens of thousands of entries,
a tile of gigabytes. `sanitise` removes the metadata that no pixel depends on, so that no parser unpacks it, and limits
the rest; `ReadLimitedFile` stops a parser that reads a file in tiny pieces.
"""

import contextlib
import io
import struct
import zlib
from collections.abc import Callable, Iterator

from bundle.images.errors import HostileImageError
from bundle.images.tiff_directories import Directories, packed_bytes

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
MAX_TEXT_LINES = 2048
MAX_COLOURS = 256
MAX_BMP_PIXEL_BYTES = 4096
"""28x28 pixels take at most 3,136 bytes; 8-bit pixels in run-length encoding, each a run of its own, take 1,626."""
MAX_READS = 4000
"""Most reads of a parser from a file; each is an iteration of a Python loop.

A PNG chunk takes three reads, a GIF block of 255 bytes two.
"""

BARE_MARKERS = frozenset((*range(0xC0), 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE), 0xFF))
"""JPEG markers that Pillow (13.0) parses without a length, whatever the standard says."""

_PNG_SIGNATURE = 8
_BMP_HEADERS = 14 + 124 + 4 * MAX_COLOURS
"""Bytes of the longest headers and palette."""
_ANCILLARY = (b"tRNS", b"acTL", b"fcTL", b"fdAT")
"""Ancillary PNG chunks that affect the pixels or add frames, and are therefore kept."""
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_EXIF_TEXT, _XMP_TEXT = b"Raw profile type exif", b"XML:com.adobe.xmp"
"""Keywords of the PNG texts from which Pillow reads an orientation."""
_EXIF_MARK = b"Exif\0\0"
_ORIENTED = (_EXIF_MARK, b"http://ns.adobe.com/xap/1.0/\0")
"""Prefixes of the JPEG's APP1 segments from which Pillow reads an orientation."""
_APP1, _APP14, _APP15, _COM, _DQT, _SOS = 0xE1, 0xEE, 0xEF, 0xFE, 0xDB, 0xDA


def sanitise(data: bytes, media_type: str) -> bytes:
    """Return a file without the metadata that no pixel depends on, so that no parser unpacks it.

    Damage is left to the parser, except for a PNG that ends before its last chunk, which Pillow accepts, and for the
    checksums of removed chunks.

    Raises:
        HostileImageError: the file is unsafe to parse; the message says why, in a few words.
    """
    sanitiser = _SANITISERS.get(media_type)
    return data if sanitiser is None else sanitiser(data)


class ReadLimitedFile(io.BytesIO):
    """A file in memory with a limited number of reads."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as `io.BytesIO` does.

        Raises:
            HostileImageError: there were too many reads.
        """
        self._left -= 1
        if self._left < 0:
            raise HostileImageError(f"it is read in more than {MAX_READS} pieces")
        return super().read(size)


def _png(data: bytes) -> bytes:
    """Walk the chunks (PNG, third edition, section 5.3) up to IEND, and drop what follows it."""
    at = kept = _PNG_SIGNATURE
    pieces = [data[:kept]]
    directories = Directories()
    unpacked = packed = 0
    for _ in range(MAX_PARTS):
        if at + 12 > len(data):
            raise HostileImageError("it ends too early")
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if kind == b"IEND":
            pieces.append(data[kept:end])
            return b"".join(pieces)
        content = data[at + 8 : end - 4] if kind in (b"eXIf", *_TEXTS) else b""
        if kind == b"IDAT":
            packed += length
            if packed > MAX_PIXEL_BYTES:
                raise HostileImageError(f"its pixels have more than {MAX_PIXEL_BYTES} bytes")
        elif kind == b"eXIf":
            directories.check_exif(content)
        elif kind in _TEXTS and content.partition(b"\0")[0] in (_EXIF_TEXT, _XMP_TEXT):
            unpacked += _check_text(kind, content, MAX_TEXT_BYTES - unpacked, directories)
        elif kind.isalpha() and kind[:1].islower() and kind not in _ANCILLARY:
            if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
                raise HostileImageError(f"the checksum of its {kind.decode()} chunk is wrong")
            pieces.append(data[kept:at])
            kept = end
        at = end
    raise HostileImageError(f"it has more than {MAX_PARTS} chunks")


def _check_text(kind: bytes, content: bytes, most: int, directories: Directories) -> int:
    """Check a text that can hold the orientation (PNG, third edition, section 11.3.3); return its decompressed size."""
    keyword, _, text = content.partition(b"\0")
    is_packed = kind == b"zTXt" or (kind == b"iTXt" and text[:1] != b"\0")
    if kind == b"zTXt":
        text = text[1:]
    elif kind == b"iTXt":
        text = text[2:].partition(b"\0")[2].partition(b"\0")[2]
    if is_packed:
        try:
            text = zlib.decompressobj().decompress(text, most + 1)
        except zlib.error:
            text = b""  # Pillow rejects it, or reads it as empty
    if is_packed and len(text) > most:
        raise HostileImageError(f"its texts unpack to more than {MAX_TEXT_BYTES} bytes")
    if keyword == _EXIF_TEXT:
        if text.count(b"\n") > MAX_TEXT_LINES:
            raise HostileImageError(f"its EXIF data have more than {MAX_TEXT_LINES} lines")
        with contextlib.suppress(ValueError):  # not hexadecimal: Pillow rejects it
            directories.check_exif(bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("latin-1")))
    return len(text) if is_packed else 0


def _jpeg(data: bytes) -> bytes:
    """Remove the comments and the application segments that affect neither colour nor orientation."""
    kept = tables = 0
    pieces, exif = [], []
    for marker, at, end in _segments(data):
        if marker == _DQT:
            tables += end - at
            if tables > MAX_TABLE_BYTES:
                raise HostileImageError(f"its tables have more than {MAX_TABLE_BYTES} bytes")
        elif marker == _APP1 and data.startswith(_ORIENTED, at + 4, end):
            if data.startswith(_EXIF_MARK, at + 4):
                exif.append(data[at + 10 : end])
        elif marker in (_COM, _APP15) or _APP1 <= marker < _APP14:
            pieces.append(data[kept:at])
            kept = end
    if exif:
        Directories().check_exif(b"".join((_EXIF_MARK, *exif)))
    pieces.append(data[kept:])
    return b"".join(pieces)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
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
            _check_scans(data, at)
            return
        elif marker in BARE_MARKERS:
            at += 2
        else:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            yield marker, at, end
            at = end
    raise HostileImageError(f"it has more than {MAX_PARTS} segments before its first scan")


def _check_scans(data: bytes, at: int) -> None:
    """Limit the scans, each of which is a pass over the image; their marker cannot occur in compressed pixels."""
    if data.count(b"\xff\xda", at) > MAX_SCANS:
        raise HostileImageError(f"it has more than {MAX_SCANS} scans")


def _tiff(data: bytes) -> bytes:
    Directories().check(data)
    if packed_bytes(data) > MAX_PIXEL_BYTES:
        raise HostileImageError(f"its pixels have more than {MAX_PIXEL_BYTES} bytes")
    _check_scans(data, 0)  # its pixels can be a JPEG
    return data


def _bmp(data: bytes) -> bytes:
    """Check the number of colours, and remove what follows the pixels, because Pillow reads runs one by one.

    Source: Microsoft, BITMAPFILEHEADER and BITMAPINFOHEADER.
    """
    bits, colours = int.from_bytes(data[28:30], "little"), int.from_bytes(data[46:50], "little")
    if int.from_bytes(data[14:18], "little") >= 40 and bits <= 8 and colours > MAX_COLOURS:
        raise HostileImageError(f"its palette has more than {MAX_COLOURS} colours")
    offset = int.from_bytes(data[10:14], "little")
    return data[: max(offset, _BMP_HEADERS) + MAX_BMP_PIXEL_BYTES]


def _webp(data: bytes) -> bytes:
    """Walk the chunks (RFC 9649, section 2.3)."""
    at, end, packed = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little")), 0
    directories = Directories()
    for _ in range(MAX_PARTS):
        if at + 8 > end:
            return data
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind in (b"VP8 ", b"VP8L", b"ALPH", b"ANMF"):
            packed += length
            if packed > MAX_PIXEL_BYTES:
                raise HostileImageError(f"its pixels have more than {MAX_PIXEL_BYTES} bytes")
        elif kind == b"EXIF":
            directories.check_exif(data[at + 8 : at + 8 + length])
        at += 8 + length + (length & 1)
    raise HostileImageError(f"it has more than {MAX_PARTS} chunks")


_SANITISERS: dict[str, Callable[[bytes], bytes]] = {
    "image/png": _png,
    "image/jpeg": _jpeg,
    "image/tiff": _tiff,
    "image/bmp": _bmp,
    "image/webp": _webp,
}
