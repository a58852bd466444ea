"""Files that are whole or absent: write to a temporary name, fsync, rename, fsync the directory.

The order is the one that POSIX needs for a rename to be durable: data first, then the name. A
reader never sees half a file, and a crash at any instruction leaves the old one or the new one.
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
"""What file systems say that have no hard links: FAT, some over FUSE, and SMB."""


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
        OSError: it cannot be read, or is larger, or `path` is something else than a regular file: a directory,
            a device, a FIFO, or a symbolic link. It is refused before a byte of it is read, and never waited for.
    """
    with _open_regular(path, limit) as (file, size):
        data = file.read(size + 1)
    if len(data) != size:
        raise _changing()
    return data


def sha256_regular(path: Path, limit: int) -> str:
    """Return the SHA-256 of what `read_regular` would return, without holding it.

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
    """Open a regular file, and give it with its size.

    O_NOFOLLOW refuses a link as the last part of the path; links to directories before it are followed.
    O_NONBLOCK lets a FIFO be opened without a writer, so that it can be refused, and is nothing to a regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link, and no regular file") from None
        raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        if found.st_size > limit:
            raise OSError(errno.EFBIG, f"it has {found.st_size:,} bytes, and at most {limit:,} are read")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            yield file, found.st_size
    finally:
        os.close(descriptor)


def _changing() -> OSError:
    return OSError(errno.EAGAIN, "it changed while it was read")


def fsync_path(path: Path) -> None:
    """Flush a file or a directory to the disk. On a directory it makes renames in it durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_file(path: Path, *, overwrite: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes `path` when the block ends, and vanishes if it raises.

    The temporary file lies beside `path` (a rename must not cross file systems) under a name that
    starts with a dot. The file gets the permissions that the umask leaves of 0666.

    Raises:
        FileExistsError: without `overwrite`, something is at `path` when the block ends. It is left as it is.
        OSError: it cannot be written.
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
    """Write `data` to `path`, whole or not at all; see `whole_file`."""
    with whole_file(path, overwrite=overwrite) as file:
        file.write(data)


def _rename_to_new(source: Path, target: Path) -> None:
    """Rename, and raise `FileExistsError` where `rename` would replace the target."""
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        if os.path.lexists(target):  # not atomic with the rename, but all that such a file system offers
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        source.replace(target)
    else:
        source.unlink()


def _umask() -> int:
    """Return the process's umask; POSIX lets it be read only by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
