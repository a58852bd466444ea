"""The tagged directories of TIFF files and of EXIF data, read within limits before a parser sees the file.

Pillow makes an object of each entry, follows the pointers to other directories, and refuses a file for a fault in any
of them. Only the tags that the pixels and the orientation depend on are read here; nothing follows a pointer.
"""

import struct
from typing import Literal

from bundle.images.errors import HostileImageError

MAX_ENTRIES = 256
"""Most entries in a directory; a photograph has a hundred."""
MAX_NUMBERS = 4096
"""Most numbers in all tags that are read; a palette of 256 colours has 768."""

SHORT, LONG = 3, 4
_INTEGERS = {1: "B", SHORT: "H", LONG: "I", 6: "b", 8: "h", 9: "i", 13: "I"}
"""TIFF 6.0, section 2, and TIFF Technical Note 1: types of integers to `struct`'s letters."""
_BYTE_TYPES = (1, 2, 6, 7)
_RATIONAL = 5


class Directory:
    """The first directory of a TIFF (6.0, section 2); of an entry that is there twice, the first counts."""

    def __init__(self, data: bytes) -> None:
        """Find the entries.

        Raises:
            ValueError: the file does not begin as a TIFF does, or ends before its directory begins.
            HostileImageError: there are too many entries.
        """
        self._data = data
        self.order: Literal["<", ">"] = "<" if data.startswith(b"II") else ">"
        if data[:4] not in (b"II*\0", b"MM\0*"):
            raise ValueError("it is no TIFF")
        self._places: dict[int, int] = {}
        self._found: dict[int, list[int]] = {}
        self._numbers = 0
        self.is_whole = True
        """Whether the file ends behind the directory, and not within."""
        self.start = self._number("I", 4)
        count = self._number("H", self.start)
        if count > MAX_ENTRIES:
            raise HostileImageError(f"its directory has more than {MAX_ENTRIES} entries")
        for place in range(self.start + 2, self.start + 2 + 12 * count, 12):
            if place + 12 > len(data):
                self.is_whole = False
                break
            self._places.setdefault(self._number("H", place), place)
        self._end = self.start + 2 + 12 * count

    def has_next(self) -> bool:
        """Return whether another directory follows; a pointer that is missing, or to itself or to nowhere, is none."""
        if self._end + 4 > len(self._data):
            return False
        place = self._number("I", self._end)
        return place != self.start and 0 < place < len(self._data) - 2

    def numbers(self, tag: int) -> list[int] | None:
        """Return the integers of a tag; None if there is no such tag, or it has no value.

        Raises:
            ValueError: the tag has other values than integers, or they are not in the file.
            HostileImageError: there are too many, or they have more than 4 bytes.
        """
        if tag not in self._found and tag in self._places:
            self._found[tag] = self._integers(tag)
        return self._found.get(tag) or None

    def _integers(self, tag: int) -> list[int]:
        kind, count = self._number("H", self._places[tag] + 2), self._number("I", self._places[tag] + 4)
        if kind not in _INTEGERS:
            if kind in (16, 17, 18):  # BigTIFF
                raise HostileImageError(f"its tag {tag} has numbers of more than 4 bytes")
            raise ValueError(f"its tag {tag} is no integer")
        self._numbers += count
        if self._numbers > MAX_NUMBERS:
            raise HostileImageError(f"its tags have more than {MAX_NUMBERS} values")
        form = f"{self.order}{count}{_INTEGERS[kind]}"
        return list(struct.unpack(form, self._content(tag, struct.calcsize(form))))

    def number(self, tag: int, default: int | None = None) -> int | None:
        """Return the first integer of a tag, or the default; raises as `numbers`."""
        found = self.numbers(tag)
        return default if found is None else found[0]

    def content(self, tag: int) -> bytes:
        """Return the bytes of a tag of bytes or of fractions; empty if there is no such tag.

        Raises:
            ValueError: the tag has other values, or they are not in the file.
        """
        if tag not in self._places:
            return b""
        kind, count = self._number("H", self._places[tag] + 2), self._number("I", self._places[tag] + 4)
        if kind not in (*_BYTE_TYPES, _RATIONAL):
            raise ValueError(f"its tag {tag} has values of type {kind}")
        return self._content(tag, count * (8 if kind == _RATIONAL else 1))

    def texts(self, tag: int) -> list[bytes]:
        """Return the bytes of a tag, whatever type it has, if it is there and can be read."""
        try:
            return [self.content(tag)]
        except ValueError:
            return []

    def _content(self, tag: int, size: int) -> bytes:
        place = self._places[tag] + 8
        start = place if size <= 4 else self._number("I", place)
        found = self._data[start : start + size]
        if len(found) != size:
            raise ValueError(f"the values of its tag {tag} are not in the file")
        return found

    def _number(self, form: str, place: int) -> int:
        try:
            number: int = struct.unpack_from(self.order + form, self._data, place)[0]
        except struct.error:
            raise ValueError("it ends before its directory") from None
        return number
