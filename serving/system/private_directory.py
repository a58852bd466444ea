"""A directory that only this user can write, wherever it stands."""

import errno
import os
import stat
from pathlib import Path


def make_private(directory: Path) -> None:
    """Create a directory for this user alone, or check one that is there.

    In a directory like /tmp somebody else may have created it first, and could exchange what is put into it.

    Raises:
        OSError: it is another user's, or others can write it, or it cannot be created.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & stat.S_IWOTH:
        raise OSError(errno.EPERM, "it is a link, another user's, or others can write it", str(directory))
