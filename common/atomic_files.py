"""Atomic file writes: write to a temporary name, fsync, rename, fsync the directory.

POSIX requires this order for a rename to be durable: the data first, then the name. A reader never sees
half a file, and a crash at any instruction leaves either the old file or the new one.
"""

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

CHUNK_BYTES = 1 << 20
NO_HARD_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of file systems without hard links: FAT, some FUSE file systems, and SMB."""


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of `data`, as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of the file at `path`, read in chunks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def read_regular(path: Path, limit: int) -> bytes:
    """Return the content of a regular file of at most `limit` bytes.

    Raises:
        OSError: the file cannot be read or is larger, or `path` is not a regular file but a directory, a device, a
            FIFO or a symbolic link. That is found out before a byte is read, without blocking.
    """
    with _open_regular(path, limit) as (file, size):
        data = file.read(size + 1)
    if len(data) != size:
        raise _changing()
    return data


def sha256_regular(path: Path, limit: int) -> str:
    """Return the SHA-256 of what `read_regular` would return, without holding it in memory.

    Raises:
        OSError: as `read_regular`.
    """
    digest, count = hashlib.sha256(), 0
    with _open_regular(path, limit) as (file, size):
        while count <= size and (chunk := file.read(CHUNK_BYTES)):
            digest.update(chunk)
            count += len(chunk)
    if count != size:
        raise _changing()
    return digest.hexdigest()


@contextmanager
def _open_regular(path: Path, limit: int) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file, and yield it with its size.

    O_NOFOLLOW rejects a symbolic link as the last component of the path; links to directories before it are followed.
    O_NONBLOCK opens a FIFO that has no writer, so that it can be rejected; it has no effect on a regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link, not a regular file") from None
        raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        if found.st_size > limit:
            raise OSError(errno.EFBIG, f"it has {found.st_size:,} bytes; at most {limit:,} are read")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            yield file, found.st_size
    finally:
        os.close(descriptor)


def _changing() -> OSError:
    return OSError(errno.EAGAIN, "it changed while it was being read")


def fsync_path(path: Path) -> None:
    """Flush a file or a directory to disk; on a directory, this makes renames within it durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_file(path: Path, *, overwrite: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes `path` when the block ends, and is removed if it raises.

    The temporary file is in the directory of `path`, because a rename must not cross file systems, and its
    name starts with a dot. Its mode is 0666 less the umask.

    Raises:
        FileExistsError: without `overwrite`, `path` exists when the block ends. It is left unchanged.
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            os.fsync(file.fileno())
        if overwrite:
            Path(name).replace(path)
        else:
            _rename_to_new(Path(name), path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def write_whole(path: Path, data: bytes, *, overwrite: bool = True) -> None:
    """Write `data` to `path` atomically; see `whole_file`."""
    with whole_file(path, overwrite=overwrite) as file:
        file.write(data)


def _rename_to_new(source: Path, target: Path) -> None:
    """Rename, but raise `FileExistsError` where `rename` would replace the target."""
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        if os.path.lexists(target):  # a race with the rename, which such a file system cannot avoid
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        source.replace(target)
    else:
        source.unlink()


def _umask() -> int:
    """Return the process's umask; POSIX can read it only by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
