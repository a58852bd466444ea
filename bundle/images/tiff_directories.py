"""Limits on the tagged directories of TIFF files and of EXIF data in other formats, checked before Pillow reads them.

Pillow makes an object of each entry, and to apply an EXIF orientation it reads and writes all of them, subdirectories
included: 768 KiB of entries took a second.
"""

import math
import re
import struct

from bundle.images.contract import IMAGE_SIZE
from bundle.images.errors import HostileImageError

MAX_ENTRIES = 256
"""Most entries in all directories of a file; a photograph has a hundred."""
MAX_NUMBERS = 4096
"""Most numbers in all entries, without bytes and text; a palette of 256 colours has 768."""
MAX_TILE_SAMPLES = 1 << 18
"""Largest tile: 512x512 gray pixels, or 256x256 with four channels, as is common. Tiles are decompressed whole."""

_SHORT, _LONG, _IFD = 3, 4, 13  # TIFF 6.0, section 2; TIFF Technical Note 1
_SIZES = {_SHORT: 2, _LONG: 4}
_BYTE_TYPES = (1, 2, 6, 7)  # TIFF 6.0, section 2: BYTE, ASCII, SBYTE, UNDEFINED, which Pillow does not unpack
_TILE_TAGS = (322, 323, 277)  # TIFF 6.0, section 15: TileWidth, TileLength; SamplesPerPixel
_COMPRESSION, _PLACES, _BYTE_COUNTS = 259, (273, 324), (279, 325)  # of strips and tiles, sections 8 and 15
_POINTERS = (34665, 34853, 40965)
"""Exif 2.32, section 4.6.3: the tags that point to the directories of Exif, GPS and interoperability."""
_MARKS = re.compile(rb"(?:Exif\0\0){1,2}")


class Directories:
    """Counts of the entries in all directories of one file, against the limits."""

    def __init__(self) -> None:
        self._entries = 0
        self._numbers = 0
        self._tile: dict[int, int] = {}

    def check_exif(self, block: bytes) -> None:
        """Check EXIF data, with or without the `Exif` prefix.

        Raises:
            HostileImageError: it exceeds a limit.
        """
        if mark := _MARKS.match(block):
            block = block[mark.end() :]
        if 0x2B in block[2:4]:
            raise HostileImageError("its EXIF data are a BigTIFF")
        self.check(block)

    def check(self, data: bytes) -> None:
        """Check the first directory of a TIFF and its subdirectories.

        Raises:
            HostileImageError: it exceeds a limit.
        """
        order = "<" if data[:2] == b"II" else ">"
        ahead = [int.from_bytes(data[4:8], "little" if order == "<" else "big")]
        while ahead:  # a cycle ends as well, because each directory visited counts
            try:
                self._walk(data, order, ahead.pop(), ahead)
            except struct.error:
                continue  # truncated within a directory: the parser reports it
        if math.prod(self._tile.values()) > MAX_TILE_SAMPLES:
            raise HostileImageError(f"its tiles are larger than {MAX_TILE_SAMPLES} samples")

    def _walk(self, data: bytes, order: str, at: int, ahead: list[int]) -> None:
        """Count one directory (TIFF 6.0, section 2), and add the offsets of its subdirectories to `ahead`."""
        self._count(entries=1)
        (count,) = struct.unpack_from(f"{order}H", data, at)
        self._count(entries=count)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, values, value = struct.unpack_from(f"{order}HHII", data, entry)
            if kind == _SHORT:
                (value,) = struct.unpack_from(f"{order}H", data, entry + 8)
            if kind not in _BYTE_TYPES:
                self._count(numbers=values)
            if tag in _TILE_TAGS:
                if kind not in _SIZES:  # the value may be stored elsewhere
                    raise HostileImageError(f"its tag {tag} has a number of more than 4 bytes")
                self._tile[tag] = max(value, self._tile.get(tag, 1))
            if tag in _POINTERS:
                if kind not in (_SHORT, _LONG, _IFD) or values != 1:
                    raise HostileImageError(f"its tag {tag} is more than one place, or none")
                ahead.append(value)

    def _count(self, *, entries: int = 0, numbers: int = 0) -> None:
        self._entries += entries
        self._numbers += numbers
        if self._entries > MAX_ENTRIES:
            raise HostileImageError(f"its directories have more than {MAX_ENTRIES} entries")
        if self._numbers > MAX_NUMBERS:
            raise HostileImageError(f"its tags have more than {MAX_NUMBERS} values")


def packed_bytes(data: bytes) -> int:
    """Return the compressed size of a TIFF's pixels, the sum over all strips; 0 if they are not compressed.

    Strips may share bytes, which are then decompressed for each of them. Where a size is missing or ambiguous,
    libtiff takes the rest of the file, and so does this sum.
    """
    order = "<" if data[:2] == b"II" else ">"
    found: dict[int, list[int]] = {}
    try:
        (at,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, values, place = struct.unpack_from(f"{order}HHII", data, entry)
            if tag not in (_COMPRESSION, *_PLACES, *_BYTE_COUNTS):
                continue
            numbers: list[int] = []
            if tag not in found and (size := _SIZES.get(kind)):
                start = entry + 8 if size * values <= 4 else place
                numbers = list(struct.unpack_from(f"{order}{values}{'H' if size == 2 else 'I'}", data, start))
            found[tag] = numbers
    except struct.error:
        return 0  # truncated within a directory: the parser reports it
    if found.get(_COMPRESSION, [1]) == [1]:
        return 0
    strips = max((len(found.get(tag, ())) for tag in _PLACES), default=0)
    counts = [number for tag in _BYTE_COUNTS for number in found.get(tag, ())]
    if not strips or len(counts) != strips or 0 in counts:
        return len(data) * max(strips, IMAGE_SIZE)
    return sum(min(number, len(data)) for number in counts)
