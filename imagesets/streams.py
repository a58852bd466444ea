"""Opens files that may be compressed by gzip, xz or bzip2, told by their first bytes and not by their names."""

import bz2
import gzip
import hashlib
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, cast

from common.atomic_files import CHUNK_BYTES
from imagesets.errors import DataError
from imagesets.names.file_names import without_compression

READ_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    SyntaxError,
    OverflowError,
)
"""Exceptions of the libraries for damaged files."""

_MAGIC: tuple[tuple[bytes, Callable[[Path], IO[bytes]]], ...] = (
    (b"\x1f\x8b", lambda path: cast("IO[bytes]", gzip.GzipFile(path))),
    (b"\xfd7zXZ\0", lambda path: cast("IO[bytes]", lzma.LZMAFile(path))),  # noqa: SIM115  the caller closes it
    (b"BZh", lambda path: cast("IO[bytes]", bz2.BZ2File(path))),
)


def opener_of(path: Path) -> Callable[[], IO[bytes]]:
    """Return a function that opens a file, decompressing it if it is compressed.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(6)
    for magic, opened in _MAGIC:
        if start.startswith(magic):
            return lambda: opened(path)
    return lambda: path.open("rb")


def is_compressed(path: Path) -> bool:
    """Return whether a file begins as one of gzip, xz or bzip2 does.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(6)
    return any(start.startswith(magic) for magic, _ in _MAGIC)


def first_bytes(path: Path, count: int) -> bytes:
    """Return the first bytes of a file's content, decompressed; what can be had of a damaged one.

    Raises:
        OSError: the file cannot be read.
    """
    start = io.BytesIO()
    with opener_of(path)() as file:
        try:
            while start.tell() < count and (chunk := file.read(count - start.tell())):
                start.write(chunk)
        except READ_ERRORS:
            pass
    return start.getvalue()


def unreadable_error(path: object, error: Exception) -> DataError:
    """Return the error for a file that is damaged as a whole."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return DataError(
        f"{path} cannot be read: {' '.join(str(reason).split())[:200]}; restore it and run again"
    )


def raw_sha256(path: Path) -> Mapping[str, str]:
    """Return the SHA-256 of a file's uncompressed content, by its name without compression.

    Raises:
        DataError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with opener_of(path)() as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    except READ_ERRORS as error:
        raise unreadable_error(path, error) from error
    return {without_compression(path.name): digest.hexdigest()}
