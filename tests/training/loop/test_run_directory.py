"""A run's directory: one process at a time, and an unfinished run in it is not removed unasked."""

import errno
import fcntl
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.support.processes import ROOT, environment
from bench.support.runs import StopAfter, small_run
from bundle.repository import CONFIG_FILE, versions
from common.progress import Progress
from tests.training.sets import archive
from training import job
from training.__main__ import main
from training.errors import CheckpointError, InterruptedRunError, UnwritableError
from training.loop import checkpoint, distributed
from training.loop.fit import fit
from training.loop.run_directory import LOCK_FILE, check_no_unfinished_run, locked
from training.settings import TrainingSettings

SILENT = Progress(quiet=True)


def arguments(place: Path, *more: str, data: str = "") -> list[str]:
    """Return the options of a fit of seconds."""
    return [
        *("fit", "--data", data or archive(place / "noisy.npz"), "--name", "noisy", "--hidden", "8"),
        *("--epochs", "2", "--device", "cpu", "--threads", "1"),
        *("--models", str(place / "models"), "--runs", str(place / "runs"), *more),
    ]


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that holds the directory of the run."""
    program = """
import sys, time
from pathlib import Path
from common.progress import Progress
from training.loop.run_directory import locked
with locked(Path(sys.argv[1]), "", Progress(quiet=True)):
    print("held", flush=True)
    time.sleep(1000)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "runs" / "noisy")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_fit_of_a_name_does_not_start(
    tmp_path: Path, holder: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends with 73, before it writes; a holder that is killed leaves no lock, but a file."""
    for more in ((), ("--resume",), ("--restart",)):
        assert main(arguments(tmp_path, *more)) == UnwritableError.exit_code == 73
        assert (
            f"another process uses {tmp_path / 'runs' / 'noisy'}: wait for it, or give another --name or --runs"
        ) in capsys.readouterr().err
    assert os.listdir(tmp_path / "runs" / "noisy") == [LOCK_FILE]  # noqa: PTH208
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert main(arguments(tmp_path)) == 0
    assert versions(tmp_path / "models" / "noisy") == [1]


def test_two_that_start_at_once_are_one_run(tmp_path: Path) -> None:
    """One trains, or both one after the other; never do they mix: metrics have each epoch once, in order."""
    command = [sys.executable, "-m", "training", *arguments(tmp_path), "--epochs", "9"]
    both = [
        subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[1] for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes in ([0, 73], [0, 0]), said
    lines = (tmp_path / "runs" / "noisy" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [*range(1, 10)]
    assert versions(tmp_path / "models" / "noisy") == [*range(1, codes.count(0) + 1)]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_of_the_file_system_a_run_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Many volumes are such."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    said = io.StringIO()
    with locked(tmp_path / "a", "", Progress(Console(file=said, width=1000))):
        pass
    assert "its file system has no locks" in said.getvalue()
    assert "make sure that no other process uses this directory" in said.getvalue()


def test_a_lock_that_fails_otherwise_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as by a broken disk."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UnwritableError, match="cannot be locked"), locked(tmp_path, "", SILENT):
        pass


def test_only_the_writer_of_several_processes_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others of a job would find the lock taken by their own writer."""
    taken: list[object] = []
    monkeypatch.setattr(job, "locked", taken.append)
    monkeypatch.setattr(job, "fit", lambda run: taken.append(run.world.rank))
    monkeypatch.setattr(distributed, "join", lambda **_: _Joined())
    settings = TrainingSettings.model_validate(
        {"data": archive(tmp_path / "noisy.npz"), "name": "noisy", "runs": tmp_path, "device": "cpu"}
    )
    assert job.run(settings, SILENT) is None
    assert taken == [1]


class _Joined:
    """The process group, for the process of rank 1."""

    def __enter__(self) -> Any:
        from training.loop.distributed import World

        class Second(World):
            __slots__ = ()

            def wait(self) -> None:
                """Wait for nobody."""

        return Second(rank=1, size=2)

    def __exit__(self, *_: object) -> None:
        """Leave."""


def stopped(place: Path, *more: str) -> Path:
    """Train until a stop in the first epoch's checkpoint; return the run's directory."""
    runs = place / "runs" / "noisy"
    with pytest.raises(InterruptedRunError):
        fit(small_run(runs, StopAfter(20), name="noisy"))
    return runs


def test_an_unfinished_run_is_not_wiped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is an error that says how far the run is, since when, and the two ways on; the checkpoint is still there."""
    runs = stopped(tmp_path)
    (path,) = runs.glob("checkpoint-*.pt")
    os.utime(path, (1_700_000_000, 1_700_000_000))
    before = path.read_bytes()
    metrics = (runs / "metrics.jsonl").read_bytes()
    assert main(arguments(tmp_path)) == CheckpointError.exit_code == 66
    said = capsys.readouterr().err
    assert f"{runs} has an unfinished run: 1 of 3 epochs are done, and nothing is published" in said
    assert "2023-11-14T22:13:20+00:00" in said
    assert "Continue it with --resume, or remove it and start over with --restart" in said
    assert path.read_bytes() == before
    assert (runs / "metrics.jsonl").read_bytes() == metrics
    assert main(arguments(tmp_path, "--restart")) == 0
    assert versions(tmp_path / "models" / "noisy") == [1]
    assert not list(runs.glob("checkpoint-*"))


def test_a_corrupt_unfinished_run_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is removed, and the error says that only --restart goes on."""
    runs = stopped(tmp_path)
    for path in runs.glob("checkpoint-*.pt"):
        path.write_bytes(b"half")
    assert main(arguments(tmp_path)) == 66
    assert "checkpoints in" in (said := capsys.readouterr().err)
    assert "start over with --restart" in said
    assert list(runs.glob("checkpoint-*.pt"))


def test_a_finished_run_is_not_unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between publishing and the removal of its checkpoints, it has lost nothing: a new run starts."""
    monkeypatch.setattr(checkpoint, "clear", lambda _: None)
    assert main(arguments(tmp_path)) == 0
    monkeypatch.undo()
    runs = tmp_path / "runs" / "noisy"
    assert list(runs.glob("checkpoint-*.pt"))
    with pytest.raises(CheckpointError, match="2 of 2 epochs are done, and nothing is published"):
        check_no_unfinished_run(runs, lambda _: False, SILENT)
    assert main(arguments(tmp_path)) == 0
    assert versions(tmp_path / "models" / "noisy") == [1, 2]


def test_with_nothing_there_every_way_starts(tmp_path: Path) -> None:
    """`--resume` and `--restart` begin a first run, and so does neither; files of others are no checkpoints."""
    runs = tmp_path / "runs" / "noisy"
    runs.mkdir(parents=True)
    (runs / "checkpoint-best.pt").write_bytes(b"mine")
    check_no_unfinished_run(runs, lambda _: False, SILENT)
    for more in ("--resume", "--restart"):
        assert main(arguments(tmp_path, more)) == 0
    assert (runs / "checkpoint-best.pt").read_bytes() == b"mine"
    assert checkpoint.paths(runs) == []


def test_resume_and_restart_exclude_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where one is in the environment, as in a Job; --no-resume switches that off."""
    assert main(arguments(tmp_path, "--resume", "--restart", data="npz:nowhere")) == 2
    assert "resume and restart exclude each other" in capsys.readouterr().err
    monkeypatch.setenv("GLYPH_TRAIN_RESUME", "true")
    assert main(arguments(tmp_path, "--restart", data="npz:nowhere")) == 2
    assert "--no-resume" in capsys.readouterr().err
    assert main(arguments(tmp_path, "--restart", "--no-resume", data="npz:nowhere")) == 65


@pytest.mark.parametrize("command", [("tune",), ("study", "size")])
def test_searches_and_studies_have_no_restart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    """They go on with what they have, and would pass over the option silently."""
    places = ["--runs", str(tmp_path)] if command == ("tune",) else ["--output", str(tmp_path)]
    assert main([*command, "--restart", *places, "--data", archive(tmp_path / "noisy.npz")]) == 2
    assert "restart is for fit" in capsys.readouterr().err


def test_a_repository_that_cannot_take_the_model_is_found_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file in its place, somebody else's configuration, no room: 73, and no epoch was trained."""

    def refused(*more: str) -> str:
        assert main(arguments(tmp_path, *more)) == 73
        said = capsys.readouterr().err
        assert "epoch   1" not in said
        assert (tmp_path / "runs" / "noisy" / "metrics.jsonl").exists() is False
        return said

    (tmp_path / "file").write_text("")
    for taken in (tmp_path / "file", tmp_path / "file" / "below"):
        assert "a file is where a directory has to be" in refused("--models", str(taken))
    assert "cannot write in /proc/noisy" in refused("--models", "/proc")
    config = tmp_path / "models" / "noisy" / CONFIG_FILE
    config.parent.mkdir(parents=True)
    config.write_text("name: mine")
    assert f"{config} was not written by Glyph and would be overwritten" in refused()
    assert config.read_text() == "name: mine"
    config.unlink()
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Usage(10**9, 50_000))
    assert "the disk has 50,000 bytes free, and a version of this model has at least 75,684" in refused()
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Usage(0, 0))  # as file systems that do not know
    assert main(arguments(tmp_path)) == 0


class _Usage:
    def __init__(self, total: int, free: int) -> None:
        self.total, self.free = total, free
