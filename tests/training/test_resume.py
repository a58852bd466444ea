"""A run that is ended at any moment goes on and ends as if nothing had happened."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.kills import kill_until_done
from bundle.files import write_whole
from tests.training.runs import rich_run, small_run, weights
from training import checkpoint
from training.errors import CheckpointError, InterruptedRunError, UnwritableError
from training.fit import Run, fit
from training.progress import Progress
from training.stop import Stop

KILLS = 50


class StopAfter(Stop):
    """A flag that is set when it has been looked at a number of times."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self._looks = looks

    @property
    def requested(self) -> bool:
        """Count the look."""
        self._looks -= 1
        if self._looks < 0:
            self.signal = signal.SIGTERM
        return super().requested


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the weights of the rich run, ended by nothing."""
    torch.set_num_threads(1)
    return weights(fit(rich_run(tmp_path_factory.mktemp("whole"))))


@pytest.mark.parametrize("looks", [0, 1, 7, 15, 16, 17, 40, 90])
def test_a_stopped_run_resumes_to_the_same_bytes(tmp_path: Path, uninterrupted: bytes, looks: int) -> None:
    """Stopped after any step, at the border of an epoch too, the resumed run ends at the same weights."""
    with pytest.raises(InterruptedRunError, match="SIGTERM"):
        fit(rich_run(tmp_path, StopAfter(looks)))
    assert weights(fit(rich_run(tmp_path, resume=True))) == uninterrupted


def test_many_stops_in_one_run(tmp_path: Path, uninterrupted: bytes) -> None:
    """A run that is stopped after every seventh step still ends at the same weights and metrics."""
    stops = 0
    while True:
        try:
            fitted = fit(rich_run(tmp_path, StopAfter(7), resume=True))
            break
        except InterruptedRunError:
            stops += 1
    assert stops > 5
    assert weights(fitted) == uninterrupted
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_run_killed_at_random_moments_ends_at_the_same_bytes(tmp_path: Path, uninterrupted: bytes) -> None:
    """Fifty SIGKILLs, many while a checkpoint is being written, change nothing of weights and metrics."""

    def work() -> None:
        (tmp_path / "weights").write_bytes(weights(fit(rich_run(tmp_path, resume=True))))

    deaths = kill_until_done(work, KILLS, tmp_path / "mark", seed=7)
    assert deaths.all == KILLS
    assert deaths.in_checkpoint >= KILLS // 3
    assert (tmp_path / "weights").read_bytes() == uninterrupted
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_the_last_checkpoints_are_kept_and_no_more(tmp_path: Path) -> None:
    """With three to keep, there are three, and they are the newest."""
    fit(small_run(tmp_path, keep_checkpoints=3, checkpoint_seconds=0.0))
    steps = [int(path.stem.split("-")[1]) for path in sorted(tmp_path.glob("checkpoint-*.pt"))]
    assert steps == [46, 47, 48]


def damage(path: Path) -> None:
    """Flip one bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_corrupt_checkpoint_is_passed_over(tmp_path: Path, uninterrupted: bytes) -> None:
    """With the newest checkpoint damaged, the run goes on from the one before it, to the same weights."""
    with pytest.raises(InterruptedRunError):
        fit(rich_run(tmp_path, StopAfter(30)))
    damage(max(tmp_path.glob("checkpoint-*.pt")))
    assert weights(fit(rich_run(tmp_path, resume=True))) == uninterrupted


def test_no_whole_checkpoint_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    """With every checkpoint damaged or empty, nothing is guessed: the error names --no-resume."""
    with pytest.raises(InterruptedRunError):
        fit(rich_run(tmp_path, StopAfter(30)))
    first, second = tmp_path.glob("checkpoint-*.pt")
    damage(first)
    second.write_bytes(b"")
    with pytest.raises(CheckpointError, match="--no-resume"):
        fit(rich_run(tmp_path, resume=True))


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path: Path) -> None:
    """A pickle that would run something, with a right hash, is not loaded."""

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "pwned"),)

    path = checkpoint.save(tmp_path, 1, {"evil": Evil()}, keep=1)
    with pytest.raises(CheckpointError):
        checkpoint.load(path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [({"learning_rate": 1e-4}, "learning_rate"), ({"hidden": (16, 16)}, "hidden"), ({"seed": 9}, "seed")],
)
def test_another_runs_checkpoint_is_refused(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    """A checkpoint of other settings is not gone on from, and the error names the setting."""
    with pytest.raises(InterruptedRunError):
        fit(small_run(tmp_path, StopAfter(5)))
    with pytest.raises(CheckpointError, match=named):
        fit(small_run(tmp_path, resume=True, **change))


def test_places_and_times_may_change(tmp_path: Path) -> None:
    """Settings that do not touch the weights may differ when a run goes on."""
    with pytest.raises(InterruptedRunError):
        fit(small_run(tmp_path, StopAfter(5)))
    fit(small_run(tmp_path, resume=True, checkpoint_seconds=1.0, keep_checkpoints=1, models="elsewhere"))


def test_without_resume_a_run_starts_afresh(tmp_path: Path) -> None:
    """Old checkpoints and metrics are gone when a new run starts."""
    with pytest.raises(InterruptedRunError):
        fit(small_run(tmp_path, StopAfter(40)))
    assert len(fit(small_run(tmp_path)).history) == 3
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_full_disk_is_a_sentence_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When writing fails for want of space, the error says so and the older checkpoints are still whole."""
    run: Run = small_run(tmp_path, checkpoint_seconds=0.0)
    writes = [0]
    original = write_whole

    def full(path: Path, data: bytes) -> None:
        writes[0] += 1
        if writes[0] > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(path, data)

    monkeypatch.setattr(checkpoint, "write_whole", full)
    with pytest.raises(UnwritableError, match="the disk is full"):
        fit(run)
    assert checkpoint.load_latest(tmp_path, Progress(quiet=True)) is not None


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    """A file where the run's directory should be is named."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(UnwritableError, match="taken"):
        fit(small_run(tmp_path / "taken"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_with_its_exit_code(
    tmp_path: Path, mnist_directory: Path, number: signal.Signals
) -> None:
    """SIGTERM and SIGINT write a checkpoint, exit with 75, and `--resume` goes on from there."""
    command = [
        *(sys.executable, "-m", "training", "fit", "--epochs", "2", "--hidden", "32", "--threads", "1"),
        *("--data-dir", str(mnist_directory), "--models", str(tmp_path / "m"), "--runs", str(tmp_path / "r")),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    for line in process.stderr:
        if line.startswith("training on"):
            process.send_signal(number)
            break
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 75, rest
    assert f"stopped by {number.name}" in rest
    assert "Traceback" not in rest
    resumed = subprocess.run([*command, "--resume"], check=False, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed after" in resumed.stderr
    assert (tmp_path / "m" / "mnist" / "1").is_dir()


def test_a_signal_before_anything_was_done_ends_at_once() -> None:
    """While libraries load there is nothing to save: the exit code says that it may be run again."""
    program = """
import os, signal
from training.stop import ending_at_once
with ending_at_once():
    os.kill(os.getpid(), signal.SIGTERM)
print("went on")
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr == "error: stopped by SIGTERM before it began: run it again\n"
