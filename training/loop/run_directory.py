"""The directory of a run, RUNS/NAME: one process at a time has it, and an unfinished run is not removed unasked."""

import errno
import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from common.progress import Progress
from training.errors import CheckpointError, UnwritableError, writing
from training.loop import checkpoint

LOCK_FILE = ".lock"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of file systems without locks."""


@contextmanager
def locked(directory: Path, remedy: str, progress: Progress) -> Iterator[None]:
    """Lock the directory, which is created, for this process until the block or the process ends.

    The kernel releases an flock(2) lock with the process, even if that is killed. The lock file remains: if it were
    removed, a process could lock a removed file while another one locks its successor. Over NFS, Linux locks the file
    on the server, for all nodes. A file system without locks does not prevent training, because many volumes are
    such; a line says so.

    Args:
        directory: the directory.
        remedy: the options that name another directory, for the error message.
        progress: for that line.

    Raises:
        UnwritableError: the directory cannot be written, or another process has locked it.
    """
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    path = directory / LOCK_FILE
    with writing(path):
        file = path.open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UnwritableError(
                f"another process uses {directory}: wait for it, or give {remedy}"
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise UnwritableError(f"{path} cannot be locked: {error.strerror}") from None
            progress.say(
                f"{path} cannot be locked, because its file system has no locks ({error.strerror}): make sure that no "
                "other process uses this directory, or their checkpoints and metrics would be mixed"
            )
        yield


def check_no_unfinished_run(directory: Path, is_published: Callable[[str], bool], progress: Progress) -> None:
    """Check that a new run would remove no checkpoint from which an earlier run could continue.

    Args:
        directory: of the run.
        is_published: whether the run of this identity has published its model; its checkpoints are no loss.
        progress: for messages about corrupt checkpoints.

    Raises:
        CheckpointError: it would; the message says how far the earlier run is.
    """
    if not (paths := checkpoint.paths(directory)):
        return
    try:
        snapshot = checkpoint.load_latest(directory, progress) or {}
    except CheckpointError as error:
        raise CheckpointError(f"{directory} has an unfinished run: {error}") from None
    if is_published(str(snapshot.get("run_id"))):
        return
    epoch, epochs = snapshot.get("epoch"), snapshot.get("settings", {}).get("epochs")
    saved = datetime.fromtimestamp(max(path.stat().st_mtime for path in paths), UTC)
    raise CheckpointError(
        f"{directory} has an unfinished run: {epoch} of {epochs} epochs are done, and nothing is published; its last "
        f"checkpoint is of {saved.isoformat(timespec='seconds')}. Continue it with --resume, or remove it and start "
        "over with --restart"
    )
