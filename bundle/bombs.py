"""What a small file must not make a parser do, told from its structure before a parser sees it.

Pillow judges an image by its size in pixels, and these have the right one. What they are large in is
something else: ten thousand chunks or segments, profiles that unpack to megabytes, a tile of gigabytes,
a tag with a million values. Each was seen to take seconds or hundreds of megabytes from one body of 8 MiB.
"""

import struct
from collections.abc import Callable

MAX_FILE_BYTES = 1 << 20
"""A 28x28 image of 16 bits and four channels is 6 KiB; a CMYK profile, the largest common companion, 600."""
MAX_PARTS = 1000
"""Most chunks of a PNG, segments of a JPEG, entries of a TIFF's directory."""
MAX_TAG_VALUES = 4096
"""Most numbers in one tag of a TIFF: a palette of 256 colours has 768."""
MAX_TILE_SIDE = 1024

_PNG_SIGNATURE = 8
_TILE_TAGS = (322, 323)  # TIFF 6.0, section 15: TileWidth, TileLength
_BYTE_TYPES = (1, 2, 6, 7)  # TIFF 6.0, section 2: BYTE, ASCII, SBYTE, UNDEFINED, which Pillow does not unpack


def objection(data: bytes, media_type: str) -> str | None:
    """Return why a file must not be parsed, in a few words; None if nothing speaks against it.

    Damage is not judged here, but for a PNG that ends before its last chunk, which Pillow reads on.
    """
    look = _LOOKS.get(media_type)
    return None if look is None else look(data)


def _png(data: bytes) -> str | None:
    """Walk the chunks (PNG, third edition, section 5.3) up to IEND; what follows it is not the image."""
    at, profiles = _PNG_SIGNATURE, 0
    for _ in range(MAX_PARTS):
        if at + 12 > len(data):
            return "it ends too early"
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IEND":
            return None
        profiles += kind == b"iCCP"
        if profiles > 1:  # the standard allows one, and each can unpack to a megabyte
            return "it has more than one colour profile"
        at += 12 + length
    return f"it has more than {MAX_PARTS} chunks"


def _jpeg(data: bytes) -> str | None:
    """Walk the segments (ITU-T T.81, annex B.1.1) up to the first scan.

    Fill bytes, and junk between segments, which Pillow skips byte by byte, count as segments.
    """
    at = 2
    for _ in range(MAX_PARTS):
        if at + 4 > len(data):
            return None
        marker = data[at + 1]
        if data[at] != 0xFF or marker == 0xFF:
            at += 1
        elif marker == 0xDA:
            return None
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD9:  # escaped; TEM, RSTn, SOI, EOI: no length
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return f"it has more than {MAX_PARTS} segments before its first scan"


def _tiff(data: bytes) -> str | None:
    """Look at the first directory's entries (TIFF 6.0, section 2)."""
    order = "<" if data[:2] == b"II" else ">"
    try:
        (at,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, at)
        if count > MAX_PARTS:
            return f"its directory has more than {MAX_PARTS} entries"
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from(f"{order}HHI", data, entry)
            if kind not in _BYTE_TYPES and values > MAX_TAG_VALUES:
                return f"its tag {tag} has more than {MAX_TAG_VALUES} values"
            if tag in _TILE_TAGS:
                (side,) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, entry + 8)
                if side > MAX_TILE_SIDE:
                    return f"its tiles are larger than {MAX_TILE_SIDE} pixels"
    except struct.error:
        return None  # cut off in the directory: the parser says it better
    return None


_LOOKS: dict[str, Callable[[bytes], str | None]] = {
    "image/png": _png,
    "image/jpeg": _jpeg,
    "image/tiff": _tiff,
}
