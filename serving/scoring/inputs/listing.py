"""Rows that are files or members of archives: their names in a temporary file, not in memory.

Ten million names are a gigabyte as Python strings. Here they take disk: one record a row, and an offset
in memory for every 256th.
"""

# Paths are bytes here: half the memory of ten million, and no encoding to fail at.
# ruff: noqa: PTH116

import hashlib
import os
import tempfile
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from bundle.images.hardening import MAX_FILE_BYTES
from serving.scoring.lazy_strings import LazyStrings

STRIDE = 256
"""Rows that are written together; of each such block an offset is kept in memory."""

USUAL_BYTES = 8192
"""What most 28x28 images stay below."""


class Reader(Protocol):
    """Some rows that are still to be read; it can be pickled and read by another process."""

    @property
    def source(self) -> str:
        """Return what the rows' `source` says."""
        ...

    @property
    def rows(self) -> LazyStrings:
        """Return the rows' ids."""
        ...

    def read(self) -> list[bytes | str]:
        """Return the files; a text says why one cannot be had."""
        ...


class ScratchFile:
    """A file without a name, which is gone when nobody holds it, or its process is killed."""

    def __init__(self) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as this object
        self.place = f"/proc/{os.getpid()}/fd/{self.file.fileno()}"
        """Where this process and its children can open it."""

    def __del__(self) -> None:
        self.file.close()


class Listing:
    """Records of a fixed number of fields, bytes without NUL; written once, then read by their numbers."""

    def __init__(self, fields: int) -> None:
        self._fields = fields
        self._scratch = ScratchFile()
        self._offsets = array("q")
        self._digest = hashlib.sha256()
        self._at = 0
        self.count = 0
        self._records: list[bytes] = []
        self._stat_fields: list[bytes] = []

    def append(self, fields: tuple[bytes, ...], stat_fields: bytes = b"") -> None:
        """Add a record; the `stat_fields` (a size, a time) go into the fingerprint only."""
        self._records.extend(fields)
        self._stat_fields.append(stat_fields)
        self.count += 1
        if len(self._stat_fields) == STRIDE:
            self._write()

    def _write(self) -> None:
        """Write the records that are held back: one at a time would cost as much as looking at the files."""
        if not self._stat_fields:
            return
        block = b"\0".join(self._records) + b"\0"
        self._offsets.append(self._at)
        self._scratch.file.write(block)
        self._scratch.file.flush()
        self._digest.update(block)
        self._digest.update(b"\n".join(self._stat_fields) + b"\n")
        self._at += len(block)
        self._records.clear()
        self._stat_fields.clear()

    def sha256(self) -> str:
        """Return the fingerprint of all records and their stat_fields, the last of which is added."""
        self._write()
        return self._digest.hexdigest()

    def take(self, first: int, count: int) -> list[tuple[bytes, ...]]:
        """Return `count` records from number `first` on; the last one is added."""
        self._write()
        low, high = first // STRIDE, -(-(first + count) // STRIDE)
        start = self._offsets[low]
        end = self._offsets[high] if high < len(self._offsets) else self._at
        fields = os.pread(self._scratch.file.fileno(), end - start, start).split(b"\0")
        skip = (first - low * STRIDE) * self._fields
        wanted = fields[skip : skip + count * self._fields]
        return list(zip(*[iter(wanted)] * self._fields, strict=True))


def display_name(name: bytes) -> str:
    """Return a file's name as text that every format can hold, a byte that is no UTF-8 as its number."""
    return name.decode("utf-8", errors="backslashreplace")


@dataclass(frozen=True, slots=True)
class FileReader:
    """Image files, by their paths."""

    source: str
    root: bytes
    """What comes before each path; empty, or a folder with its slash."""
    paths: list[bytes]

    @property
    def rows(self) -> LazyStrings:
        """Return the paths as text."""
        return LazyStrings([display_name(path) for path in self.paths])

    def read(self) -> list[bytes | str]:
        """Read the files."""
        return [read_file(self.root + path) for path in self.paths]


def read_file(path: bytes) -> bytes | str:
    """Return a file's content, or why there is none; never more than an image may have."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not block the run
    except (OSError, ValueError) as error:
        return f"the file cannot be read: {getattr(error, 'strerror', None) or error}"
    try:
        data = os.read(descriptor, USUAL_BYTES)  # a buffer of what a file may have costs more than its image
        if len(data) == USUAL_BYTES:
            data += os.read(descriptor, MAX_FILE_BYTES + 1 - USUAL_BYTES)
        return data if len(data) <= MAX_FILE_BYTES else too_large_reason(os.fstat(descriptor).st_size)
    except OSError as error:
        return f"the file cannot be read: {error.strerror}"
    finally:
        os.close(descriptor)


def too_large_reason(size: int) -> str:
    """Say of an image's file that it has more bytes than the service takes."""
    return f"the file has {size} bytes, more than the {MAX_FILE_BYTES} that a 28x28 image may have"


class FileSource:
    """A source whose rows are image files: a folder, a list of paths, a pattern."""

    columns = None
    needs_decoding = True

    def __init__(self, name: str, root: bytes) -> None:
        self.name = name
        self._root = root
        self._listing = Listing(fields=1)

    def add(self, path: bytes) -> None:
        """Add a file; its size and time go into the fingerprint, also that it is not there."""
        try:
            found = os.stat(self._root + path)
        except (OSError, ValueError):
            self._listing.append((path,), b"absent")
        else:
            self.add_known(path, found)

    def add_known(self, path: bytes, found: os.stat_result) -> None:
        """Add a file that was looked at already."""
        self._listing.append((path,), b"%d %d" % (found.st_size, found.st_mtime))

    @property
    def count(self) -> int:
        """Return how many rows it has."""
        return self._listing.count

    def fingerprint(self) -> str:
        """Return what changes when a file is added, removed, or changed."""
        return self._listing.sha256()

    def take(self, first: int, count: int) -> FileReader:
        """Return `count` rows from `first` on."""
        return FileReader(self.name, self._root, [path for (path,) in self._listing.take(first, count)])

    def close(self) -> None:
        """Keep it: it is read again."""


def file_fingerprint(path: Path) -> str:
    """Return the size and time of a file that is one source."""
    found = path.stat()
    return f"{found.st_size} bytes, modified {int(found.st_mtime)}"
