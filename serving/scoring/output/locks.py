"""A lock for each part: one byte of the manifest, released by the kernel when its process ends."""

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.scoring.errors import LockedError

UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of file systems without locks."""


@contextmanager
def lock_parts(path: Path, parts: range) -> Iterator[None]:
    """Lock these parts until the block or the process ends.

    Byte p of the file is the lock of part p. Open file description locks (`F_OFD_SETLK`, fcntl(2)) are not lost when
    another descriptor of the file is closed, and the kernel releases them with the process, over NFS too.

    Raises:
        LockedError: another run holds one of the locks.
    """
    with path.open("r+b") as file:
        ranges = [(parts.start, len(parts))] if parts.step == 1 else [(part, 1) for part in parts]
        for first, count in ranges:
            wanted = _write_lock(first, count)
            try:
                fcntl.fcntl(file, fcntl.F_OFD_SETLK, wanted)
            except (BlockingIOError, PermissionError) as error:
                raise LockedError(
                    f"another run is writing these parts of {path.parent}: wait for it, or give each run its own "
                    "--shard i/n, all with the same n"
                ) from error
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
                break  # without locks two runs write the same bytes; one may fail
        yield


def _write_lock(first: int, count: int) -> bytes:
    """Return C's `struct flock` that asks for these bytes; its fields have another order on macOS (sys/fcntl.h)."""
    if os.uname().sysname == "Darwin":
        return struct.pack("qqihh", first, count, 0, fcntl.F_WRLCK, os.SEEK_SET)
    return struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, first, count, 0)
