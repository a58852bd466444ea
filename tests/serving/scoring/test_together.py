"""Runs beside each other, shards without work, and decoding processes that are killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.support.jobs import digits, folder, parts, score
from bundle.repository import Bundle
from serving.score import main
from serving.scoring.errors import DecoderError, IncompleteError, LockedError
from serving.scoring.inputs.decoding import DecoderPool
from serving.scoring.output import folder as folders
from serving.scoring.output.folder import OutputFolder
from serving.scoring.output.manifest import MANIFEST, JobManifest
from serving.scoring.run import merge
from tests.conftest import ROOT

DONE_SECONDS = 120
COUNT = 300


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of PNG files."""
    place = tmp_path_factory.mktemp("given") / "in"
    folder(place, digits(COUNT))
    return place


@pytest.fixture(scope="module")
def whole(bundle: Bundle, given: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the parts that one undisturbed run writes."""
    output = tmp_path_factory.mktemp("whole") / "out"
    score(bundle, given, output)
    return parts(output)


def command(bundle: Bundle, given: Path, output: Path, *more: str) -> list[str]:
    """Return a run as a user starts it."""
    words = [*("--quiet", "--input", str(given), "--output", str(output), "--model", str(bundle.path.parent))]
    return [sys.executable, "-m", "serving.score", *words, "--provider", "cpu", "--part-rows", "64", *more]


@pytest.mark.parametrize("name", ["out", "out.csv"])
def test_more_shards_than_images(name: str, bundle: Bundle, tmp_path: Path) -> None:
    """A shard without a part ends well and writes nothing; the merge asks for the one that has it."""
    np.save(tmp_path / "in.npy", digits(3))
    score(bundle, tmp_path / "in.npy", tmp_path / f"whole-{name}")
    output = tmp_path / name
    for index in (4, 1, 3, 2):
        outcome = score(bundle, tmp_path / "in.npy", output, shard=f"{index}/5")
        assert (outcome.receipts, outcome.complete) == ([], False)
    with pytest.raises(IncompleteError, match=r"1 of 1 parts are missing.*: 0\. "):
        merge(OutputFolder.open_existing(output))
    assert len(score(bundle, tmp_path / "in.npy", output, shard="0/5").receipts) == 1
    outcome = merge(OutputFolder.open_existing(output))
    assert sum(receipt.rows for receipt in outcome.receipts) == 3
    if output.suffix:
        assert output.read_bytes() == (tmp_path / f"whole-{name}").read_bytes()
    else:
        assert parts(output) == parts(tmp_path / f"whole-{name}")


def test_two_runs_of_one_job_at_once(
    bundle: Bundle, given: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """One of them does it all; the other one ends with a sentence, or finds it done; no byte differs."""
    words = command(bundle, given, tmp_path / "out")
    runs = [
        subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    ends = [(run.communicate(timeout=DONE_SECONDS)[1], run.returncode) for run in runs]
    assert 0 in [code for _, code in ends]
    for said, code in ends:
        assert (code == 0 and not said) or (code == 75 and "another run is writing" in said), (said, code)
    assert parts(tmp_path / "out") == whole
    assert not [*(tmp_path / "out").rglob(".*")]


def test_two_concurrent_first_runs_create_one_job(
    bundle: Bundle, given: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a shard's look and its claim another one has begun, and finished its parts: they share the job."""
    refuse = folders._check_unoccupied
    others = iter(["0/2"])

    def late(*arguments: Any) -> None:
        if shard := next(others, None):
            score(bundle, given, tmp_path / "out", shard=shard)
        refuse(*arguments)

    monkeypatch.setattr(folders, "_check_unoccupied", late)
    score(bundle, given, tmp_path / "out", shard="1/2")
    assert merge(OutputFolder.open_existing(tmp_path / "out")).complete
    assert parts(tmp_path / "out") == whole


def test_a_manifest_that_appears_after_the_look_is_not_taken_for_damaged(
    bundle: Bundle, given: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run has created the job between this one's two looks, and has no receipt yet: they share the job."""
    look = folders._read_manifest_in
    first = iter([True])

    def late(folder: Path) -> JobManifest | None:
        found = look(folder)
        if next(first, False):
            assert found is None
            score(bundle, given, tmp_path / "other")
            folder.mkdir()
            shutil.copy(tmp_path / "other" / MANIFEST, folder / MANIFEST)
        return found

    monkeypatch.setattr(folders, "_read_manifest_in", late)
    score(bundle, given, tmp_path / "out")
    assert parts(tmp_path / "out") == whole


def test_a_run_that_does_not_stop_gracefully_exits_after_the_grace_period(
    bundle: Bundle, given: Path, tmp_path: Path
) -> None:
    """A thread that never returns does not keep a stopped run: after a grace it ends with the same code."""
    stuck = (
        "import sys, threading, time, serving.score as score; from serving.scoring import pipeline\n"
        "score.GRACE_SECONDS = 1\n"
        "def never(*_): print('stuck\\n', end='', flush=True); threading.Event().wait()\n"
        "pipeline._score = never\n"
        f"sys.exit(score.main({command(bundle, given, tmp_path / 'out')[3:]!r}))"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", stuck], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "stuck\n"
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=DONE_SECONDS)
    assert (run.returncode, said.count("\n")) == (75, 1)
    assert "stopped by SIGTERM" in said


def test_a_signal_that_does_not_interrupt_the_main_threads_wait_is_not_lost(
    bundle: Bundle, given: Path, tmp_path: Path
) -> None:
    """A signal to another thread leaves the main thread in its wait, as one does that comes just before the wait."""
    stuck = (
        "import signal, sys, threading, time, serving.score as score; from serving.scoring import pipeline\n"
        "score.GRACE_SECONDS = 1\n"
        "main = threading.main_thread().ident\n"
        "def never(*_):\n"
        "    while sys._current_frames()[main].f_code.co_name != 'wait': time.sleep(0.01)\n"
        "    time.sleep(0.5)\n"
        "    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)\n"
        "    threading.Event().wait()\n"
        "pipeline._score = never\n"
        f"sys.exit(score.main({command(bundle, given, tmp_path / 'out')[3:]!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", stuck], cwd=ROOT, stderr=subprocess.PIPE, text=True) as run:
        try:
            _, said = run.communicate(timeout=DONE_SECONDS)
        finally:
            run.kill()
    assert (run.returncode, said.count("\n")) == (75, 1)
    assert "stopped by SIGTERM" in said


def test_a_run_that_ends_leaves_the_timer_of_its_process_as_it_was(
    bundle: Bundle, given: Path, tmp_path: Path
) -> None:
    """The main thread's waits are interrupted during a run only."""
    before = signal.getsignal(signal.SIGALRM)
    timer = signal.getitimer(signal.ITIMER_REAL)
    assert main(command(bundle, given, tmp_path / "out")[3:]) == 0
    assert signal.getsignal(signal.SIGALRM) is before
    assert bool(signal.getitimer(signal.ITIMER_REAL)[0]) == bool(timer[0])


def test_a_run_is_rejected_while_another_holds_a_lock_of_its_parts(
    bundle: Bundle, given: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """Of the same shard, of another cut of the same parts, and the merge; other parts go on."""
    output = tmp_path / "out"
    score(bundle, given, output, shard="0/5")
    first = OutputFolder.open_existing(output)
    with first.lock(range(1, 5, 5)):
        for shard in ("1/5", "0/1", "0/3", "1/2"):  # 5 parts: part 1 is theirs, but for 0/3 and 0/5
            if shard == "0/3":
                score(bundle, given, output, shard=shard)
                continue
            with pytest.raises(LockedError, match="another run is writing"):
                score(bundle, given, output, shard=shard)
        with pytest.raises(LockedError):
            merge(first)
        told = subprocess.run(
            command(bundle, given, output), cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert told.returncode == LockedError.exit_code == 75
        assert told.stderr.count("\n") == 1
    assert score(bundle, given, output).complete
    assert parts(output) == whole


def test_a_killed_decoding_process_ends_the_run(
    bundle: Bundle,
    given: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run ends with a sentence and a code of its own, and does not wait; run again, it goes on."""
    decode = DecoderPool.decode
    killed: list[int] = []

    def killing(self: DecoderPool, *arguments: Any) -> Any:
        if not killed and len(parts(tmp_path / "out")):
            assert self._server.pid is not None
            killed.append(_forked_by(self._server.pid))
            os.kill(killed[0], signal.SIGKILL)
        return decode(self, *arguments)

    monkeypatch.setattr(DecoderPool, "decode", killing)
    # One part is there before the first slice of the second run is decoded.
    score(bundle, given, tmp_path / "out", shard="0/5", workers=2)
    with pytest.raises(DecoderError, match="the same command resumes"):
        score(bundle, given, tmp_path / "out", workers=2)
    assert killed
    assert DecoderError.exit_code == 71
    assert len(parts(tmp_path / "out")) < len(whole)
    assert score(bundle, given, tmp_path / "out", workers=2).complete
    assert parts(tmp_path / "out") == whole


def _forked_by(pid: int) -> int:
    """Return the first child of a process, once there is one."""
    deadline = time.monotonic() + DONE_SECONDS
    while not (children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        assert time.monotonic() < deadline
        os.sched_yield()
    return int(children[0])
