"""Listings of files or archive members, in a temporary file instead of memory.

Ten million names take a gigabyte as Python strings. A listing stores one record per row on disk, and in memory an
offset for every 256th.
"""

# Paths are bytes: half the memory of strings, and no encoding errors.
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
"""Rows in a block; the offset of each block is kept in memory."""

USUAL_BYTES = 8192
"""Size that most files of 28x28 images do not reach."""


class Reader(Protocol):
    """Rows that have not been read; picklable, so that another process can read them."""

    @property
    def source(self) -> str:
        """Return the rows' source."""
        ...

    @property
    def rows(self) -> LazyStrings:
        """Return the rows' ids."""
        ...

    def read(self) -> list[bytes | str]:
        """Return the files' contents; a string is the reason why one cannot be read."""
        ...


class ScratchFile:
    """An unnamed temporary file, which the kernel removes with its last descriptor."""

    def __init__(self) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed with this object
        self.place = f"/proc/{os.getpid()}/fd/{self.file.fileno()}"
        """A path by which this process and its children can open it."""

    def __del__(self) -> None:
        self.file.close()


class Listing:
    """Records of a fixed number of byte fields without NUL; appended, then read by number."""

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
        """Append a record; `stat_fields` (size and time) go into the fingerprint only."""
        self._records.extend(fields)
        self._stat_fields.append(stat_fields)
        self.count += 1
        if len(self._stat_fields) == STRIDE:
            self._write()

    def _write(self) -> None:
        """Write the buffered records as a block; single writes would cost as much as `stat` on the files."""
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
        """Return the hash of all records and their `stat_fields`; no record may be appended afterwards."""
        self._write()
        return self._digest.hexdigest()

    def take(self, first: int, count: int) -> list[tuple[bytes, ...]]:
        """Return `count` records from number `first` on; no record may be appended afterwards."""
        self._write()
        low, high = first // STRIDE, -(-(first + count) // STRIDE)
        start = self._offsets[low]
        end = self._offsets[high] if high < len(self._offsets) else self._at
        fields = os.pread(self._scratch.file.fileno(), end - start, start).split(b"\0")
        skip = (first - low * STRIDE) * self._fields
        wanted = fields[skip : skip + count * self._fields]
        return list(zip(*[iter(wanted)] * self._fields, strict=True))


def display_name(name: bytes) -> str:
    """Return a file's name as valid text; bytes that are not UTF-8 become escapes."""
    return name.decode("utf-8", errors="backslashreplace")


@dataclass(frozen=True, slots=True)
class FileReader:
    """Image files, by path."""

    source: str
    root: bytes
    """Prefix of each path: empty, or a folder with its slash."""
    paths: list[bytes]

    @property
    def rows(self) -> LazyStrings:
        """Return the paths as text."""
        return LazyStrings([display_name(path) for path in self.paths])

    def read(self) -> list[bytes | str]:
        """Read the files."""
        return [read_file(self.root + path) for path in self.paths]


def read_file(path: bytes) -> bytes | str:
    """Return a file's content, or the reason why it cannot be read; at most `MAX_FILE_BYTES`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a named pipe must not block
    except (OSError, ValueError) as error:
        return f"the file cannot be read: {getattr(error, 'strerror', None) or error}"
    try:
        data = os.read(descriptor, USUAL_BYTES)  # a buffer of MAX_FILE_BYTES costs more than decoding
        if len(data) == USUAL_BYTES:
            data += os.read(descriptor, MAX_FILE_BYTES + 1 - USUAL_BYTES)
        return data if len(data) <= MAX_FILE_BYTES else too_large_reason(os.fstat(descriptor).st_size)
    except OSError as error:
        return f"the file cannot be read: {error.strerror}"
    finally:
        os.close(descriptor)


def too_large_reason(size: int) -> str:
    """Return the error for an image file that is larger than the service accepts."""
    return f"the file has {size} bytes; an image file may have at most {MAX_FILE_BYTES}"


class FileSource:
    """A source whose rows are image files: a folder, a list of paths, a glob pattern."""

    columns = None
    needs_decoding = True

    def __init__(self, name: str, root: bytes) -> None:
        self.name = name
        self._root = root
        self._listing = Listing(fields=1)

    def add(self, path: bytes) -> None:
        """Add a file; its size and time, or its absence, go into the fingerprint."""
        try:
            found = os.stat(self._root + path)
        except (OSError, ValueError):
            self._listing.append((path,), b"absent")
        else:
            self.add_known(path, found)

    def add_known(self, path: bytes, found: os.stat_result) -> None:
        """Add a file whose `stat` result is known."""
        self._listing.append((path,), b"%d %d" % (found.st_size, found.st_mtime))

    @property
    def count(self) -> int:
        """Return the number of rows."""
        return self._listing.count

    def fingerprint(self) -> str:
        """Return a string that changes when a file is added, removed, or changed."""
        return self._listing.sha256()

    def take(self, first: int, count: int) -> FileReader:
        """Return `count` rows from `first` on."""
        return FileReader(self.name, self._root, [path for (path,) in self._listing.take(first, count)])

    def close(self) -> None:
        """Do nothing: the listing is needed for the next `take`."""


def file_fingerprint(path: Path) -> str:
    """Return the size and time of a file."""
    found = path.stat()
    return f"{found.st_size} bytes, modified {int(found.st_mtime)}"
