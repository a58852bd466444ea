"""Listings of files or archive members, in a temporary file instead of memory.

Ten million names take a gigabyte as Python strings. A listing stores one record per row on disk, and in memory an
offset for every 256th.
"""

# Paths are bytes: half the memory of strings, and no encoding errors.
# ruff: noqa: PTH116

import hashlib
import os
import stat
import sys
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from bundle.images.hardening import MAX_FILE_BYTES
from imagesets.errors import DataError
from imagesets.formats.files.layout import Problem
from imagesets.labels import UNKNOWN, LabelColumn, of_codes
from imagesets.lazy_strings import LazyStrings
from imagesets.source import LabelledSource

STRIDE = 256
"""Rows in a block; the offset of each block is kept in memory."""

USUAL_BYTES = 8192
"""Size that most files of 28x28 images do not reach."""


class ScratchFile:
    """A temporary file, which is removed with this object.

    On Linux it has no name, and the kernel removes it with its last descriptor, whatever ends the process. Elsewhere
    children could not open it then: it has a name, and a process that is killed leaves it.
    """

    def __init__(self) -> None:
        self.file: IO[bytes]
        self.place: str
        """A path by which this process and its children can open it."""
        if sys.platform == "linux":
            self.file = tempfile.TemporaryFile()  # noqa: SIM115  closed with this object
            self.place = f"/proc/{os.getpid()}/fd/{self.file.fileno()}"
        else:
            self.file = named = tempfile.NamedTemporaryFile()  # noqa: SIM115  as above
            self.place = named.name

    def __del__(self) -> None:
        self.file.close()


class Listing:
    """Records of a fixed number of byte fields without NUL; appended, then read by number."""

    def __init__(self, fields: int) -> None:
        self.fields = fields
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
        if not count:
            return []
        self._write()
        low, high = first // STRIDE, -(-(first + count) // STRIDE)
        start = self._offsets[low]
        end = self._offsets[high] if high < len(self._offsets) else self._at
        fields = os.pread(self._scratch.file.fileno(), end - start, start).split(b"\0")
        skip = (first - low * STRIDE) * self.fields
        wanted = fields[skip : skip + count * self.fields]
        return list(zip(*[iter(wanted)] * self.fields, strict=True))

    def __iter__(self) -> Iterator[tuple[bytes, ...]]:
        """Yield all records; no record may be appended afterwards."""
        for first in range(0, self.count, STRIDE):
            yield from self.take(first, min(STRIDE, self.count - first))


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
    """Return a file's content, or the reason why it cannot be read; at most `MAX_FILE_BYTES`.

    A path that ends with a slash is a folder that could not be listed.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a named pipe must not block
    except (OSError, ValueError) as error:
        return _unreadable(path, getattr(error, "strerror", None) or str(error))
    try:
        data = os.read(descriptor, USUAL_BYTES)  # a buffer of MAX_FILE_BYTES costs more than decoding
        if len(data) == USUAL_BYTES:
            data += os.read(descriptor, MAX_FILE_BYTES + 1 - USUAL_BYTES)
        if not data and not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return _unreadable(path, "it is not a regular file")
        return data if len(data) <= MAX_FILE_BYTES else too_large_reason(os.fstat(descriptor).st_size)
    except OSError as error:
        return _unreadable(path, str(error.strerror))
    finally:
        os.close(descriptor)


def _unreadable(path: bytes, reason: str) -> str:
    return f"the {'folder' if path.endswith(b'/') else 'file'} cannot be read: {reason}"


def too_large_reason(size: int) -> str:
    """Return the error for an image file that is larger than the service accepts."""
    return f"the file has {size} bytes; an image file may have at most {MAX_FILE_BYTES}"


def stat_fields(folder: bytes, names: Sequence[bytes]) -> bytes:
    """Return a line for each name: size and time of a regular file, nothing for anything else.

    Args:
        folder: with a slash at its end.
        names: of files in it.
    """
    return b"\n".join([_fields_if_regular(folder + name) for name in names])


def _fields_if_regular(path: bytes) -> bytes:
    try:
        found = os.stat(path)
    except OSError:
        return b""
    return _fields(found) if stat.S_ISREG(found.st_mode) else b""


def _fields(found: os.stat_result) -> bytes:
    return b"%d %d" % (found.st_size, found.st_mtime)


class FileSource(LabelledSource):
    """A source whose rows are image files: a folder, a list of paths, a glob pattern."""

    needs_decoding = True

    def __init__(self, name: str, root: bytes) -> None:
        self.name = name
        self.count = 0
        self.root = root
        """Prefix of each path: empty, or a folder with its slash."""
        self.problems: list[Problem] = []
        """What was left out of the rows because it is in the wrong place or no file; training reports them."""
        self._listing = Listing(fields=1)

    def add(self, path: bytes) -> None:
        """Add a file; its size and time, or its absence, go into the fingerprint."""
        try:
            found = os.stat(self.root + path)
        except (OSError, ValueError):
            self.add_known(path, None)
        else:
            self.add_known(path, found)

    def add_known(self, path: bytes, found: os.stat_result | bytes | None) -> None:
        """Add a file whose `stat` result, or its line of `stat_fields`, is known; None if there is none."""
        if found is None:
            found = b"absent"
        elif not isinstance(found, bytes):
            found = _fields(found)
        self._listing.append((path,), found)
        self.count += 1

    def paths(self) -> Iterator[bytes]:
        """Yield all paths, relative to `root`; no file may be added afterwards."""
        return (path for (path,) in self._listing)

    def fingerprint(self) -> str:
        """Return a string that changes when a file is added, removed, or changed."""
        return self._listing.sha256()

    def sha256(self) -> Mapping[str, str]:
        """Return the hash of the listing that `sha256sum` prints of the files, which are read for it.

        Raises:
            DataError: a file cannot be read.
        """
        digests = []
        for path in self.paths():
            if isinstance(data := read_file(self.root + path), str):
                raise DataError(f"{display_name(self.root + path)}: {data}")
            digests.append(hashlib.sha256(data).digest())
        return {"folder": listing_sha256([*self.paths()], digests)}

    def take(self, first: int, count: int) -> FileReader:
        """Return `count` rows from `first` on."""
        return FileReader(self.name, self.root, [path for (path,) in self._listing.take(first, count)])

    def labels_of_folders(self) -> LabelColumn | None:
        """Return the names of the folders that the files are in, None if all are in the root itself."""
        return labels_of_folders(self.paths())

    def close(self) -> None:
        """Do nothing: the listing is needed for the next `take`."""


def labels_of_folders(paths: Iterable[bytes]) -> LabelColumn | None:
    """Return the name of each file's folder as its label; files that are in none have no label.

    Returns:
        None if no file is in a folder.
    """
    places: dict[bytes, int] = {}
    codes = array("q")
    for path in paths:
        codes.append(places.setdefault(path.rpartition(b"/")[0].rpartition(b"/")[2], len(places)))
    names = [display_name(folder) for folder in places]
    if not any(names):
        return None
    order = sorted({name for name in names if name})
    place = {name: code for code, name in enumerate(order)}
    return of_codes(np.array([place.get(name, UNKNOWN) for name in names])[np.array(codes)], order)


def listing_sha256(paths: Sequence[bytes], digests: Sequence[bytes]) -> str:
    r"""Return the SHA-256 of the output of `sha256sum` for the files, sorted by the bytes of their paths.

    That of a folder is the output of this command if no file is skipped:

        cd DIR && find -L . -mindepth 2 -type f -printf '%P\0' |
            LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum

    Args:
        paths: relative to the set's folder.
        digests: the SHA-256 of each file.
    """
    lines = []
    for path, digest in sorted(zip(paths, digests, strict=True)):
        escaped = path.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
        mark = b"\\" if escaped != path else b""
        lines.append(mark + digest.hex().encode() + b"  " + escaped + b"\n")
    return hashlib.sha256(b"".join(lines)).hexdigest()


def file_fingerprint(path: Path) -> str:
    """Return the size and time of a file."""
    found = path.stat()
    return f"{found.st_size} bytes, modified {int(found.st_mtime)}"
