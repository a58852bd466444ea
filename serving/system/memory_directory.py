"""The directory in memory that the processes of one service share: made at a start, gone with its end.

The arbiter holds a POSIX lock on a file in it for as long as it lives, and so do workers on theirs. The kernel frees
the locks whatever ends a process, so that a later start finds the directories of services that were killed whole.
"""

import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

DIRECTORY_VARIABLE = "SERVING_METRICS_DIRECTORY"
"""Where it is; for processes, not for operators, so not named like a setting."""
PREFIX = "glyph-"
LOCK = "arbiter.lock"
SUFFIXES = frozenset((".json", ".lock", ".new", ".slots"))
"""Of all that the service puts there. A directory with anything else in it is not one to remove."""


def create(parent: Path) -> tuple[Path, int]:
    """Make one in `parent`, and return it with the descriptor that holds the lock, to be kept open.

    Raises:
        OSError: it cannot be made there.
    """
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    staged = (directory / LOCK).with_suffix(".new")
    descriptor = os.open(staged, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.lockf(descriptor, fcntl.LOCK_EX)
    staged.replace(directory / LOCK)  # only now, so that nobody finds it without its lock
    return directory, descriptor


def remove_stale(parent: Path) -> list[Path]:
    """Remove this user's directories in `parent` whose service is dead, and return them. Links are not followed."""
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
    """Tell whether the process that locked the file still runs. Not to be asked by that process itself."""
    try:
        with path.open("rb+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
