"""Run `fit` on a disk of which more and more is free, in a mount namespace of its own: `unshare --mount` starts this.

It prints a JSON object for each attempt, and ends with the first that succeeds. Nothing stays mounted: the namespace
ends with the process.
"""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from bundle.repository import versions
from common.progress import Progress
from tests.training.sets import archive
from training.__main__ import main
from training.loop import checkpoint

DISK_BYTES = 1 << 20
PAGE = 4096


def sweep(kind: str, place: Path, step: int) -> None:
    """Attempt a run again and again, with `step` bytes more of free space each time.

    Args:
        kind: what is on the disk, `runs` or `models`; the other directory has all the space that it needs.
        place: an empty directory.
        step: in bytes, a multiple of the page size, in which a tmpfs counts.
    """
    disk = place / kind
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", disk], check=True)
    command = [
        *("fit", "--data", archive(place / "noisy.npz"), "--name", "noisy", "--hidden", "8", "--epochs", "3"),
        *("--device", "cpu", "--threads", "1", "--checkpoint-seconds", "0", "--resume"),
        *("--models", str(place / "models"), "--runs", str(place / "runs")),
    ]
    for free in range(0, DISK_BYTES, step):
        leave(disk, free)
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = main(command)
        (disk / "ballast").unlink()
        print(json.dumps({"free": free, "code": code, "said": said.getvalue(), **state(place)}), flush=True)
        if code == 0:
            return


def leave(disk: Path, free: int) -> None:
    """Fill the disk up to `free` bytes."""
    ballast = disk / "ballast"
    ballast.touch()
    left = os.statvfs(disk)
    ballast.write_bytes(bytes(max(0, left.f_bavail * left.f_frsize - free)))


def state(place: Path) -> dict[str, object]:
    """Return what counts after an attempt: versions, half-built ones, temporary files and the last checkpoint."""
    snapshot = checkpoint.load_latest(place / "runs" / "noisy", Progress(quiet=True))
    hidden = [path.name for path in place.rglob(".*") if path.name != ".lock"]
    return {
        "versions": versions(place / "models" / "noisy"),
        "hidden": hidden,
        "steps": snapshot["step"] if snapshot else 0,
    }


if __name__ == "__main__":
    # Else a version that has no room is refused before it is trained.
    shutil.disk_usage = lambda _: SimpleNamespace(total=0, free=0)  # type: ignore[assignment,return-value]
    sweep(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) * PAGE)
