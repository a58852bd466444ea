"""Integrity of the output: files by SHA-256, records by their own checksum.

    record(document)       JSON whose last field is the SHA-256 of the others
    read_record(path)      the document; None unless every byte is as `record` wrote it
    is_intact(path, ...)   whether a file has the recorded size and SHA-256

Only regular files are read: opening a named pipe would block the run.
"""

import hashlib
import io
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from common.atomic_files import sha256_bytes, sha256_file
from serving.scoring.errors import OutputError

CHECKSUM = "checksum"


def record(document: Mapping[str, Any]) -> bytes:
    """Return a document as JSON with its checksum."""
    checksum = sha256_bytes(orjson.dumps(document))
    return orjson.dumps({**document, CHECKSUM: checksum}, option=orjson.OPT_INDENT_2) + b"\n"


def read_record(path: Path) -> dict[str, Any] | None:
    """Return a record's document; None if it is missing or damaged.

    Raises:
        OutputError: it is not a regular file, or cannot be read.
    """
    if size_of(path) is None:
        return None
    with _readable(path):
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # another run has removed it in the meantime
            return None
    try:
        document: dict[str, Any] = orjson.loads(content)
        del document[CHECKSUM]
        return document if record(document) == content else None
    except (ValueError, TypeError, KeyError):
        return None


def is_intact(path: Path, size: int, sha256: str) -> bool:
    """Return whether a file exists with this content.

    Raises:
        OutputError: it is not a regular file, or cannot be read.
    """
    if size_of(path) != size:
        return False
    with _readable(path):
        try:
            return sha256_file(path) == sha256
        except FileNotFoundError:  # another run has removed it in the meantime
            return False


def read_intact(path: Path, size: int, sha256: str) -> bytes | None:
    """Return a file's content; None if it is missing or has another size or hash.

    Raises:
        OutputError: it is not a regular file, or cannot be read.
    """
    if size_of(path) != size:
        return None
    with _readable(path):
        content = path.read_bytes()
    return content if sha256_bytes(content) == sha256 else None


def size_of(path: Path) -> int | None:
    """Return a file's size in bytes; None if it is missing, or a broken link.

    Raises:
        OutputError: it is not a regular file, or `stat` fails.
    """
    with _readable(path):
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
    if not stat.S_ISREG(found.st_mode):
        raise OutputError(f"{path} is not a regular file: move it away, and run again")
    return found.st_size


class HashingWriter(io.RawIOBase):
    """Writes to a file, and computes the size and the SHA-256 of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        """Return True; pyarrow checks it."""
        return True

    def write(self, data: Any) -> int:
        """Write all bytes."""
        written = self._file.write(data)
        self._digest.update(data)
        self.size += written
        return written

    @property
    def sha256(self) -> str:
        """The SHA-256 so far, as 64 lower-case hexadecimal digits."""
        return self._digest.hexdigest()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path} cannot be read: {error.strerror}; make it readable or remove it, and run again"
        ) from error
