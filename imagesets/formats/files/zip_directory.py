"""Streams a zip's central directory: `zipfile` keeps all entries, gigabytes for ten million files.

Source: PKWARE APPNOTE.TXT 6.3.10; each structure's section is in parentheses.
"""

import os
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

ENTRY = struct.Struct("<4s6H3L5H2L")
"""Central directory file header (4.3.12)."""
END = struct.Struct("<4s4H2LH")
"""End of central directory record (4.3.16), followed by a comment of up to 64 KiB."""
LOCATOR = struct.Struct("<4sLQL")
"""Zip64 end of central directory locator (4.3.15), directly before `END`."""
END_64 = struct.Struct("<4sQ2H2L4Q")
"""Zip64 end of central directory record (4.3.14)."""
MOST_COMMENT = (1 << 16) - 1
MOST_16, MOST_32 = (1 << 16) - 1, (1 << 32) - 1
"""Values that mean: the Zip64 structure has the number."""
UTF_8, ENCRYPTED = 1 << 11, 1
"""General purpose bit flags (4.4.4)."""
SIZES_64 = 1
"""Header ID of the Zip64 extended information extra field (4.5.3)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the central directory."""

    name: str
    offset: int
    """Offset of the local header in the archive's file."""
    packed: int
    """Compressed size in bytes."""
    size: int
    checksum: int
    """CRC-32 of the content."""
    method: int
    """Compression method, numbered as in `zipfile`."""
    encrypted: bool


@dataclass(frozen=True, slots=True)
class _Directory:
    """Location of the central directory."""

    count: int
    start: int
    end: int
    before: int
    """Bytes before the archive in its file, which its offsets do not include."""


def entries(file: BinaryIO) -> Iterator[Entry]:
    """Yield every entry of the archive in `file`, including folders, in the directory's order.

    Raises:
        zipfile.BadZipFile: it is not a single-volume zip file, or its directory is damaged.
    """
    directory = _find(file)
    at, seen = file.seek(directory.start), 0
    while at < directory.end:
        head = file.read(ENTRY.size)
        if len(head) != ENTRY.size or head[:4] != b"PK\x01\x02":
            raise zipfile.BadZipFile(f"its directory is damaged after {seen} files")
        fields = ENTRY.unpack(head)
        flags, method, checksum, packed, size = fields[3], fields[4], *fields[7:10]
        name, extra, comment, offset = *fields[10:13], fields[-1]
        text = file.read(name).decode("utf-8" if flags & UTF_8 else "cp437", errors="backslashreplace")
        more = file.read(extra)
        if comment:
            file.seek(comment, os.SEEK_CUR)
        at, seen = at + ENTRY.size + name + extra + comment, seen + 1
        if MOST_32 in (size, packed, offset):
            size, packed, offset = _large(more, size, packed, offset)
        yield Entry(
            text.partition("\0")[0],
            directory.before + offset,
            packed,
            size,
            checksum,
            method,
            encrypted=bool(flags & ENCRYPTED),
        )
    if (seen - directory.count) & MOST_16:  # some writers store only the low 16 bits of the count
        raise zipfile.BadZipFile(f"its directory has {seen} files instead of {directory.count}")


def _find(file: BinaryIO) -> _Directory:
    length = file.seek(0, os.SEEK_END)
    tail_at = max(0, length - END.size - MOST_COMMENT - LOCATOR.size)
    file.seek(tail_at)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + END.size:
        raise zipfile.BadZipFile("the end of its directory is missing")
    _, disk, first, _, count, size, offset, _ = END.unpack_from(tail, at)
    end = tail_at + at
    if at >= LOCATOR.size and tail[at - LOCATOR.size : at - LOCATOR.size + 4] == b"PK\x06\x07":
        # The locator's offset counts from the archive's first byte, so the record is found from the end instead.
        end -= LOCATOR.size + END_64.size
        file.seek(end)
        large = file.read(END_64.size)
        if large[:4] != b"PK\x06\x06":
            raise zipfile.BadZipFile("the end of its directory is damaged")
        _, _, _, _, disk, first, _, count, size, offset = END_64.unpack(large)
    if disk or first:
        raise zipfile.BadZipFile("it is one of several volumes: join them first")
    start = end - size
    if start < offset:
        raise zipfile.BadZipFile("its directory is truncated")
    return _Directory(count, start, end, start - offset)


def _large(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Return the numbers with those of the Zip64 extra field where 32 bits are not enough, in its order."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == SIZES_64:
            content = extra[4 : 4 + length]
            numbers = list(struct.unpack_from(f"<{len(content) // 8}Q", content))
            if [size, packed, offset].count(MOST_32) > len(numbers):
                break
            size, packed, offset = (
                numbers.pop(0) if number == MOST_32 else number for number in (size, packed, offset)
            )
            return size, packed, offset
        extra = extra[4 + length :]
    raise zipfile.BadZipFile("a file's size is missing in its directory")
