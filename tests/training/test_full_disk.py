"""A full disk is exit code 73 and a sentence, whatever was being written, and the same command goes on later."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import imagesets.errors
from bench.support.processes import ROOT, environment
from bundle.verify import problems
from tests.training.sets import archive
from training import errors
from training.errors import UnwritableError, exit_code

UNSHARE = ["unshare", "--map-root-user", "--mount"]
"""A user and mount namespace, in which anybody may mount, where the machine permits it."""
pytestmark = pytest.mark.service


def attempts(kind: str, place: Path, step: int) -> list[dict[str, Any]]:
    """Return what `full_disk.py` prints; skip where nothing can be mounted."""
    probe = subprocess.run(
        [*UNSHARE, "mount", "-t", "tmpfs", "tmpfs", place], capture_output=True, check=False
    )
    if probe.returncode:
        pytest.skip(f"no file system can be mounted here: {probe.stderr.decode()}")
    done = subprocess.run(
        [*UNSHARE, sys.executable, "-m", "tests.training.full_disk", kind, place, str(step)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("kind", "step", "expected"),
    [
        ("runs", 1, ("checkpoint-", "metrics.jsonl")),
        ("models", 4, ("model.onnx", "model.pt", "model.pt2", "report.html")),
    ],
)
def test_a_disk_that_is_full_at_any_byte_is_73(
    tmp_path: Path, kind: str, step: int, expected: tuple[str, ...]
) -> None:
    """With more and more free space, every attempt but the last says what cannot be written, and nothing counts."""
    *failed, last = attempts(kind, tmp_path, step)
    assert len(failed) > 10
    for attempt in failed:
        *_, line = attempt["said"].splitlines()
        assert attempt["code"] == UnwritableError.exit_code == 73, attempt
        assert line.startswith("error: "), attempt
        assert line.endswith("the disk is full"), attempt
        assert "Traceback" not in attempt["said"]
        assert (attempt["versions"], attempt["hidden"]) == ([], []), attempt
    named = " ".join(attempt["said"].splitlines()[-1] for attempt in failed)
    assert [name for name in expected if name not in named] == []
    steps = [attempt["steps"] for attempt in failed]
    assert steps == sorted(steps), "a checkpoint was lost"
    assert (last["code"], last["versions"]) == (0, [1]), last


def test_a_version_that_was_published_when_there_was_room_is_whole(tmp_path: Path) -> None:
    """A limit on the size of files is a full disk, too: the report does not fit, and with more room everything does."""
    command = [
        *(sys.executable, "-m", "training", "fit", "--data", archive(tmp_path / "noisy.npz")),
        *(
            "--name",
            "noisy",
            "--hidden",
            "8",
            "--epochs",
            "2",
            "--device",
            "cpu",
            "--threads",
            "1",
            "--resume",
        ),
        *("--models", str(tmp_path / "models"), "--runs", str(tmp_path / "runs")),
    ]
    limited = ["prlimit", f"--fsize={120 << 10}", *command]
    full = subprocess.run(limited, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert full.returncode == 73, full.stderr
    assert "report.html cannot be written: it would be larger than this process may write" in full.stderr
    assert "Traceback" not in full.stderr
    again = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert problems(tmp_path / "models" / "noisy" / "1") == []


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_log_on_a_full_disk_is_73(tmp_path: Path, stream: str) -> None:
    """Neither a traceback nor Python's own code 120: the log and the result are files like others."""
    command = [
        *(sys.executable, "-m", "training", "fit", "--data", archive(tmp_path / "noisy.npz")),
        *("--name", "noisy", "--hidden", "8", "--epochs", "1", "--device", "cpu", "--threads", "1"),
        *("--models", str(tmp_path / "models"), "--runs", str(tmp_path / "runs")),
    ]
    with Path("/dev/full").open("w") as full:
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: full}
        done = subprocess.run(command, cwd=ROOT, env=environment(), text=True, check=False, **streams)
    assert done.returncode == 73, done.stderr
    if stream == "stdout":
        assert done.stderr.splitlines()[-1] == "error: standard output cannot be written: the disk is full"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/runs/x"),
            "/runs/x cannot be written: the disk is",
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded", "/runs/x"),
            "/runs/x cannot be written: the disk quota",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
            "cannot be written",
        ),
    ],
)
def test_no_room_that_a_library_meets_is_73(
    error: OSError, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever raises it; any other OSError is a fault and shows where it is."""

    def work() -> None:
        raise error

    assert exit_code(work) == 73
    assert said in capsys.readouterr().err

    def broken() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(OSError, match="error"):
        exit_code(broken)


def test_want_of_memory_while_reading_is_no_fault_of_the_data(tmp_path: Path) -> None:
    """ENOMEM of a system call is want of memory, not a file that cannot be read."""
    with (
        pytest.raises(errors.LostError, match=r"while the data set is read.*more memory, or fewer images"),
        errors.reading_into_memory(),
        imagesets.errors.reading(tmp_path),
    ):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
