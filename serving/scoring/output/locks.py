"""Who is at work on which part: a lock on one byte of a file for each part, which goes with its process."""

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.scoring.errors import LockedError

UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What file systems say that have no locks."""


@contextmanager
def lock_parts(path: Path, parts: range) -> Iterator[None]:
    """Keep every other run from these parts, until the block ends or the process does, however it ends.

    A byte of the file stands for each part. Its locks are those of an open file (`F_OFD_SETLK`,
    fcntl(2)): no other reader of the file loses them, and the system frees them, over NFS too.

    Raises:
        LockedError: another run has one of them.
    """
    with path.open("r+b") as file:
        ranges = [(parts.start, len(parts))] if parts.step == 1 else [(part, 1) for part in parts]
        for first, count in ranges:
            wanted = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, first, count, 0)
            try:
                fcntl.fcntl(file, fcntl.F_OFD_SETLK, wanted)
            except (BlockingIOError, PermissionError) as error:
                raise LockedError(
                    f"another run is at work on these parts of {path.parent}: let it end, or give each run a "
                    "--shard i/n of its own, all with the same n"
                ) from error
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
                break  # two runs write the same bytes there, and one may end with an error
        yield
