"""The directory in shared memory of one service: created when it starts, removed when it ends.

The arbiter holds a POSIX lock on a file in it as long as it lives, and each worker on its own file. The kernel releases
the locks whatever ends a process, so that a later start recognises the directories of services that were killed.
"""

import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

DIRECTORY_VARIABLE = "SERVING_METRICS_DIRECTORY"
"""Environment variable with the path; it is for child processes, and no setting."""
PREFIX = "glyph-"
LOCK = "arbiter.lock"
SUFFIXES = frozenset((".json", ".lock", ".new", ".counters"))
"""Suffixes of the service's files. A directory with any other file is not removed."""


def create(parent: Path) -> tuple[Path, int]:
    """Create the directory in `parent`; return it with the descriptor that holds the lock while it is open.

    Raises:
        OSError: it cannot be created.
    """
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    staged = (directory / LOCK).with_suffix(".new")
    descriptor = os.open(staged, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.lockf(descriptor, fcntl.LOCK_EX)
    staged.replace(directory / LOCK)  # renamed only now, so that it is never seen without its lock
    return directory, descriptor


def remove_stale(parent: Path) -> list[Path]:
    """Remove and return this user's directories in `parent` whose service has ended; links are not followed."""
    dead = [path for path in parent.glob(f"{PREFIX}*") if _is_dead(path)]
    for path in dead:
        shutil.rmtree(path, ignore_errors=True)
    return dead


def _is_dead(directory: Path) -> bool:
    try:
        status = directory.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            return False
        names = {path.name: path for path in directory.iterdir()}
        ours = LOCK in names and all(path.suffix in SUFFIXES for path in names.values())
        return ours and not any(is_alive(path) for path in names.values())
    except OSError:
        return False


def is_alive(path: Path) -> bool:
    """Return whether the process that locked the file lives. Only another process may ask."""
    try:
        with path.open("rb+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
