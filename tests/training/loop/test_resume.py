"""A run that is interrupted at any moment resumes and ends with the same bytes."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from bench.support.runs import StopAfter, rich_run, small_run, weights
from bench.training.kills import kill_until_done
from common.atomic_files import write_whole
from common.progress import Progress
from training.errors import CheckpointError, InterruptedRunError, UnwritableError
from training.interrupts import ConditionalStopFlag, StopFlag
from training.loop import checkpoint, metrics
from training.loop import fit as fitting
from training.loop.distributed import World
from training.loop.fit import Run, fit
from training.loop.state import Epoch
from training.model.evaluation import logits_of

KILLS = 50


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


def test_a_run_resumed_on_another_processor_keeps_its_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` would choose otherwise there; the weights are those of an uninterrupted run, where it began."""
    settings: dict[str, Any] = {"hidden": (512, 256), "batch_size": 128, "epochs": 2, "precision": "auto"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    whole = weights(fit(small_run(tmp_path / "whole", **settings)))
    with pytest.raises(InterruptedRunError):
        fit(replace(small_run(tmp_path / "moved", **settings), stop=StopAfter(3)))
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    elsewhere = weights(fit(small_run(tmp_path / "elsewhere", **settings)))
    said = io.StringIO()
    resumed = small_run(tmp_path / "moved", **settings, resume=True)
    resumed = replace(resumed, progress=Progress(Console(file=said, width=1000)))
    assert weights(fit(resumed)) == whole
    assert elsewhere != whole
    assert "matrix products are computed in bfloat16" in said.getvalue()


VALIDATION_SECONDS = 25.0


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let time pass in validation alone, 25 s an epoch; return the steps after which checkpoints are written."""
    now: list[float] = [0.0]
    steps: list[int] = []
    save = checkpoint.save

    def slowly(*arguments: Any) -> Any:
        now[0] += VALIDATION_SECONDS
        return logits_of(*arguments)

    def noting(directory: Path, step: int, *rest: Any) -> Path:
        steps.append(step)
        return save(directory, step, *rest)

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(fitting, "logits_of", slowly)
    monkeypatch.setattr(checkpoint, "save", noting)
    return steps


def test_an_epochs_end_is_saved_if_it_is_time(tmp_path: Path, saved: list[int], uninterrupted: bytes) -> None:
    """The clock runs on from epoch to epoch: of eight of 25 s each, the third, the sixth and the last are saved."""
    assert weights(fit(rich_run(tmp_path, checkpoint_seconds=60))) == uninterrupted
    assert saved == [3 * 16, 6 * 16, 8 * 16]


def test_the_last_epoch_is_saved_whichever_it_is(tmp_path: Path, saved: list[int]) -> None:
    """Early stopping's last one too: a resumed run trains nothing more, and ends at the same weights."""
    early: dict[str, Any] = {"patience": 2, "learning_rate": 0.02, "checkpoint_seconds": 1e6, "epochs": 60}
    fitted = fit(rich_run(tmp_path, **early))
    assert len(fitted.history) < 60
    assert saved == [16 * len(fitted.history)]
    resumed = fit(rich_run(tmp_path, resume=True, **early))
    assert (saved, resumed.history) == ([16 * len(fitted.history)], fitted.history)
    assert weights(resumed) == weights(fitted)


@pytest.mark.parametrize("dies_after", [1, 2, 3, 5, 6])
def test_epochs_that_no_checkpoint_holds_are_trained_again(
    tmp_path: Path, saved: list[int], uninterrupted: bytes, dies_after: int
) -> None:
    """They give the same weights, metrics and best epoch, stand in the file once, and are told again."""
    told: list[int] = []

    def die(epoch: Epoch) -> None:
        told.append(epoch.epoch)
        if len(told) == dies_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(replace(rich_run(tmp_path, checkpoint_seconds=60), on_epoch=die))
    held = dies_after // 3 * 3
    assert saved == [16 * epochs for epochs in (3, 6) if epochs <= held]
    before = (tmp_path / "metrics.jsonl").read_text().splitlines()
    fitted = fit(replace(rich_run(tmp_path, checkpoint_seconds=60, resume=True), on_epoch=die))
    assert weights(fitted) == uninterrupted
    assert told == [*range(1, dies_after + 1), *range(1, 9)]
    after = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in after] == [*range(1, 9)]
    assert after[:held] == before[:held]
    again = [json.loads(line)["validation_loss"] for line in after[held:dies_after]]
    assert again == [json.loads(line)["validation_loss"] for line in before[held:]]


def test_a_stop_at_an_epochs_end_is_saved_there(tmp_path: Path, uninterrupted: bytes) -> None:
    """It takes no further step, and the epoch is told before the run ends."""
    told: list[int] = []
    run = rich_run(tmp_path, StopAfter(16), checkpoint_seconds=1e6)
    with pytest.raises(InterruptedRunError, match="SIGTERM"):
        fit(replace(run, on_epoch=lambda epoch: told.append(epoch.epoch)))
    (path,) = tmp_path.glob("checkpoint-*.pt")
    snapshot = checkpoint.load(path)
    assert (told, snapshot["epoch"], snapshot["position"], snapshot["step"]) == ([1], 1, 0, 16)
    assert weights(fit(rich_run(tmp_path, resume=True))) == uninterrupted


class OverError(Exception):
    """A reason of one's own to end."""


def test_a_stop_while_validating_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: bytes
) -> None:
    """Whatever the flag raises: the resumed run validates again, with the time that the epoch took, and goes on."""
    is_over: list[bool] = []

    def over(*arguments: Any) -> Any:
        is_over.append(True)
        return logits_of(*arguments)

    monkeypatch.setattr(fitting, "logits_of", over)
    stop = ConditionalStopFlag(StopFlag(), lambda: OverError() if is_over else None)
    with pytest.raises(OverError):
        fit(rich_run(tmp_path, stop, checkpoint_seconds=1e6))
    snapshot = checkpoint.load(next(tmp_path.glob("checkpoint-*.pt")))
    assert (snapshot["epoch"], snapshot["position"]) == (0, 16)
    assert snapshot["seconds"] > 0
    assert weights(fit(rich_run(tmp_path, resume=True))) == uninterrupted


class Pair(World):
    """Two processes of which this one is alone in being told to stop; the other agrees to all."""

    __slots__ = ()

    def wrap(self, model: torch.nn.Module) -> torch.nn.Module:
        """Return it as it is."""
        return model

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Return it as it is."""
        return value

    def max(self, value: int, device: torch.device) -> int:  # noqa: ARG002
        """Return this process's."""
        return value

    def gather(self, value: torch.Tensor, device: torch.device) -> list[torch.Tensor]:  # noqa: ARG002
        """Return it twice."""
        return [value, value]

    def wait(self) -> None:
        """Wait for nobody."""


def test_processes_agree_on_a_stop_after_validating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is told while it validates ends with the others, at the epoch's end, and leaves none waiting."""
    stop = StopFlag()

    def told(*arguments: Any) -> Any:
        stop.signal = signal.SIGTERM
        return logits_of(*arguments)

    monkeypatch.setattr(fitting, "logits_of", told)
    with pytest.raises(InterruptedRunError, match="SIGTERM"):
        fit(replace(rich_run(tmp_path, stop, checkpoint_seconds=1e6), world=Pair(size=2)))
    (path,) = tmp_path.glob("checkpoint-*.pt")
    assert checkpoint.load(path)["epoch"] == 1


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
    """With every checkpoint damaged or empty, nothing is guessed: the error names --restart."""
    with pytest.raises(InterruptedRunError):
        fit(rich_run(tmp_path, StopAfter(30)))
    first, second = tmp_path.glob("checkpoint-*.pt")
    damage(first)
    second.write_bytes(b"")
    with pytest.raises(CheckpointError, match="--restart"):
        fit(rich_run(tmp_path, resume=True))


def test_a_checkpoint_with_code_in_it_is_rejected(tmp_path: Path) -> None:
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
    [
        ({"learning_rate": 1e-4}, "learning_rate"),
        ({"hidden": (16, 16)}, "hidden"),
        ({"seed": 9}, "seed"),
        ({"resize": "pad"}, "resize"),
        ({"pixels": "0..1"}, "pixels"),
        ({"label_column": "digit"}, "label_column"),
    ],
)
def test_another_runs_checkpoint_is_rejected(tmp_path: Path, change: dict[str, Any], named: str) -> None:
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


OTHERS = (
    "checkpoint-best.pt",
    "checkpoint-100.pt",
    "checkpoint-000000000001.pt.bak",
    ".checkpoint-best.pt.swp",
)


def test_the_checkpoints_of_others_stay(tmp_path: Path) -> None:
    """What only looks like a checkpoint is not removed, read or counted, from a run's start to its end."""
    for name in OTHERS:
        (tmp_path / name).write_bytes(b"mine")
    leftover = tmp_path / ".checkpoint-000000000007.pt.k1l2m3n4"  # as a killed writer leaves it
    leftover.write_bytes(b"half")
    with pytest.raises(InterruptedRunError):
        fit(small_run(tmp_path, StopAfter(40), checkpoint_seconds=0.0, keep_checkpoints=1))
    assert not leftover.exists()
    assert len(list(tmp_path.glob("checkpoint-*.pt"))) == 3
    fit(small_run(tmp_path, resume=True))
    checkpoint.clear(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "metrics.jsonl"} == (
        dict.fromkeys(OTHERS, b"mine")
    )


def test_with_the_checkpoints_of_others_alone_there_is_nothing_to_resume(tmp_path: Path) -> None:
    """`--resume` begins anew beside them, and does not ask for their removal."""
    (tmp_path / "checkpoint-best.pt").write_bytes(b"mine")
    assert checkpoint.load_latest(tmp_path, Progress(quiet=True)) is None


@pytest.mark.parametrize(
    "content",
    [
        b'{"step": 1, "loss": 2.3}\n',
        b'{"epoch": 1, "loss": 2.3}\n',
        b'{"epoch": 1, "loss": 2.3}',
        b"text",
        b"\n",
    ],
)
def test_the_metrics_of_others_are_not_overwritten(tmp_path: Path, content: bytes) -> None:
    """A metrics.jsonl that no run of this program wrote is rejected by name, and stays as it is."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(content)
    with pytest.raises(UnwritableError, match=str(path)):
        fit(small_run(tmp_path))
    assert path.read_bytes() == content


def test_metrics_that_a_crash_cut_off_are_ones_own(tmp_path: Path) -> None:
    """Wherever the first line of an earlier run ends, a new run overwrites it."""
    path = tmp_path / "metrics.jsonl"
    metrics.begin(tmp_path, 0)
    metrics.append(
        tmp_path,
        Epoch(
            epoch=1,
            train_loss=0.5,
            train_accuracy=0.9,
            validation_loss=0.25,
            validation_accuracy=0.95,
            learning_rate=1e-3,
            seconds=1.5,
            images_per_second=1e5,
        ),
    )
    line = path.read_bytes()
    for length in range(len(line) + 1):
        path.write_bytes(line[:length])
        metrics.begin(tmp_path, 0)
        assert path.read_bytes() == b""


def test_metrics_that_were_removed_begin_anew(tmp_path: Path) -> None:
    """A resumed run whose metrics are gone writes those of the epochs that follow, and no zeros before them."""
    with pytest.raises(InterruptedRunError):
        fit(small_run(tmp_path, StopAfter(40)))
    (tmp_path / "metrics.jsonl").unlink()
    fit(small_run(tmp_path, resume=True))
    assert [json.loads(line)["epoch"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        3
    ]
    assert len(fit(small_run(tmp_path)).history) == 3


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
from training.interrupts import exit_on_sigterm
with exit_on_sigterm():
    os.kill(os.getpid(), signal.SIGTERM)
print("went on")
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr == "error: stopped by SIGTERM before training started: run it again\n"
