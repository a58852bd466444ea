"""Files that are whole or absent: write to a temporary name, fsync, rename, fsync the directory.

The order is the one that POSIX needs for a rename to be durable: data first, then the name. A
reader never sees half a file, and a crash at any instruction leaves the old one or the new one.
"""

import errno
import hashlib
import os
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
