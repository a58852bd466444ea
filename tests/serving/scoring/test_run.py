"""Exactly once: the same bytes from any number of shards, workers and lives; one folder for one job."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bench.support.jobs import digits, folder, parts, rows_of, score
from bench.support.models import publish_synthetic
from bench.support.processes import group_lives
from bundle.repository import Bundle
from common.atomic_files import sha256_bytes
from serving.scoring.errors import IncompleteError, OutputError, Stopped, WriteError
from serving.scoring.output.folder import OutputFolder
from serving.scoring.run import merge
from tests.conftest import ROOT
from tests.dying import die_everywhere

KILLS = 10
DONE_SECONDS = 120
LARGEST_FILE = 100_000
"""Bytes: more than a receipt and a small part have, and fewer than a large part."""


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return a folder with a bad file in it and an array: 300 + 250 rows."""
    place = tmp_path_factory.mktemp("mixed")
    folder(place / "in", digits(300))
    (place / "in" / "001" / "00150.png").write_bytes(b"no image")
    np.save(place / "in.npy", digits(250, seed=6))
    return [str(place / "in"), str(place / "in.npy")]


@pytest.fixture(scope="module")
def whole(bundle: Bundle, mixed: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the parts that one undisturbed run writes."""
    output = tmp_path_factory.mktemp("whole") / "out"
    score(bundle, mixed, output)
    return parts(output)


@pytest.mark.parametrize("shards", [1, 2, 7, 64])
def test_any_number_of_shards_gives_the_same_bytes(
    shards: int, bundle: Bundle, mixed: list[str], whole: dict[str, bytes], tmp_path: Path
) -> None:
    """In any order, some with more workers than others; the merge sees that all are there."""
    order = list(range(shards))
    random.Random(1).shuffle(order)  # noqa: S311  an order, not a secret
    for index in order:
        score(bundle, mixed, tmp_path / "out", shard=f"{index}/{shards}", workers=1 + index % 2)
    outcome = merge(OutputFolder.open_existing(tmp_path / "out"))
    assert parts(tmp_path / "out") == whole
    assert outcome.errors == 1
    assert sum(receipt.rows for receipt in outcome.receipts) == 550


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_a_single_file_does_not_depend_on_shards(
    ending: str, bundle: Bundle, mixed: list[str], tmp_path: Path
) -> None:
    """One run and three shards with a merge write one file, byte for byte; its parts are gone then."""
    one, many = tmp_path / f"one.{ending}", tmp_path / f"many.{ending}"
    score(bundle, mixed, one, workers=2)
    for index in range(3):
        score(bundle, mixed, many, shard=f"{index}/3")
    assert not many.exists()
    merge(OutputFolder.open_existing(many))
    assert many.read_bytes() == one.read_bytes()
    assert len(rows_of(one)) == 550
    assert parts(tmp_path / f"many.{ending}.parts") == {}


def test_the_default_shard_is_that_of_the_pod(
    bundle: Bundle, mixed: list[str], whole: dict[str, bytes], tmp_path: Path
) -> None:
    """An Indexed Job's variables say which parts are this process's."""
    environment = {"JOB_COMPLETION_INDEX": "2", "JOB_COMPLETIONS": "4"}
    outcome = score(bundle, mixed, tmp_path / "out", environment=environment)
    assert not outcome.complete
    assert list(parts(tmp_path / "out")) == ["part-000002.parquet", "part-000006.parquet"]
    assert parts(tmp_path / "out").items() <= whole.items()
    with pytest.raises(ValueError, match="JOB_COMPLETIONS is not set"):
        score(bundle, mixed, tmp_path / "other", environment={"JOB_COMPLETION_INDEX": "2"})


def test_merge_rejects_missing_and_changed_parts(bundle: Bundle, mixed: list[str], tmp_path: Path) -> None:
    """It says which are missing; a part with other bytes than were written is none."""
    for index in (0, 2):
        score(bundle, mixed, tmp_path / "out", shard=f"{index}/3")
    with pytest.raises(IncompleteError, match=r"3 of 9 parts are missing.*: 1, 4, 7"):
        merge(OutputFolder.open_existing(tmp_path / "out"))
    score(bundle, mixed, tmp_path / "out", shard="1/3")
    part = tmp_path / "out" / "part-000004.parquet"
    content = part.read_bytes()
    part.write_bytes(content[:-1] + b"?")
    with pytest.raises(OutputError, match="part-000004"):
        merge(OutputFolder.open_existing(tmp_path / "out"))
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    part.write_bytes(content)
    assert merge(OutputFolder.open_existing(tmp_path / "out")).complete


def test_success_lists_the_parts(bundle: Bundle, mixed: list[str], tmp_path: Path) -> None:
    """Rows, errors and the SHA-256 of each part, as they are on the disk; nothing else is left."""
    score(bundle, mixed, tmp_path / "out")
    said = json.loads((tmp_path / "out" / "_SUCCESS").read_text())
    assert (said["rows"], said["errors"], said["model"]) == (550, 1, bundle.manifest.digest)
    found = {name: sha256_bytes(content) for name, content in parts(tmp_path / "out").items()}
    assert {part["name"]: part["sha256"] for part in said["parts"]} == found
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"_SUCCESS", "_manifest.json", "_receipts", *found}


def test_a_complete_job_is_left_as_it_is(bundle: Bundle, mixed: list[str], tmp_path: Path) -> None:
    """The same command again writes nothing, and says the same of it."""
    first = score(bundle, mixed, tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = score(bundle, mixed, tmp_path / "out")
    assert again == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == times


def test_a_folder_belongs_to_one_job(bundle: Bundle, mixed: list[str], tmp_path: Path) -> None:
    """Another model, option or input is refused, and the message says what differs."""
    score(bundle, mixed, tmp_path / "out", shard="0/2")
    with pytest.raises(OutputError, match="probabilities was all and is top 3"):
        score(bundle, mixed, tmp_path / "out", top=3)
    with pytest.raises(OutputError, match="part rows was 64 and is 32"):
        score(bundle, mixed, tmp_path / "out", part_rows=32)
    with pytest.raises(OutputError, match=r"input 1 .*in\.npy.* is gone"):
        score(bundle, mixed[:1], tmp_path / "out")
    other = publish_synthetic(tmp_path / "models", polarity="black-on-white")
    with pytest.raises(
        OutputError, match=f"model was {bundle.manifest.digest} and is {other.manifest.digest}"
    ):
        score(other, mixed, tmp_path / "out")


def test_a_changed_input_is_another_job(bundle: Bundle, tmp_path: Path) -> None:
    """A file more, a file changed: the half that is written is not mixed with it."""
    folder(tmp_path / "in", digits(130))
    score(bundle, tmp_path / "in", tmp_path / "out", shard="0/2")
    file = tmp_path / "in" / "000" / "00003.png"
    content, found = file.read_bytes(), file.stat()
    file.write_bytes(content + b" ")
    with pytest.raises(OutputError, match="130 images"):
        score(bundle, tmp_path / "in", tmp_path / "out", shard="1/2")
    file.write_bytes(content)
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    score(bundle, tmp_path / "in", tmp_path / "out", shard="1/2")
    (tmp_path / "in" / "more.png").write_bytes(content)
    with pytest.raises(OutputError, match=r"was 130 images.* is 131 images"):
        score(bundle, tmp_path / "in", tmp_path / "out", shard="1/2")


def test_files_of_no_job_are_not_touched(bundle: Bundle, mixed: list[str], tmp_path: Path) -> None:
    """A folder with other files, a file that is there already, a place that cannot be written."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="not empty"):
        score(bundle, mixed, tmp_path / "full")
    (tmp_path / "there.csv").write_text("mine")
    with pytest.raises(OutputError, match=r"there\.csv exists"):
        score(bundle, mixed, tmp_path / "there.csv")
    with pytest.raises(WriteError, match="cannot be written"):
        score(bundle, mixed, Path("/proc/nothing/out"))
    with pytest.raises(OutputError, match="has no output of a job"):
        OutputFolder.open_existing(tmp_path / "full")
    assert (tmp_path / "full" / "thesis.tex").read_text() == "years of work"
    assert (tmp_path / "there.csv").read_text() == "mine"


@pytest.mark.parametrize("name", ["out", "out.csv"])
def test_a_kill_at_any_call_leaves_complete_parts_only(name: str, bundle: Bundle, tmp_path: Path) -> None:
    """Killed before each call that touches the output, one life after another, it ends with the same bytes."""
    np.save(tmp_path / "in.npy", digits(130))
    score(bundle, tmp_path / "in.npy", tmp_path / "whole" / name)
    score(
        bundle, tmp_path / "in.npy", tmp_path / "whole" / "parts", format="csv" if name == "out.csv" else None
    )
    expected, there = parts(tmp_path / "whole" / "parts"), tmp_path / "there"
    written = there / f"{name}.parts" if name == "out.csv" else there / name

    def survived(_: int) -> None:
        assert parts(written).items() <= expected.items()
        if (there / "out.csv").exists():
            assert (there / "out.csv").read_bytes() == (tmp_path / "whole" / "out.csv").read_bytes()

    there.mkdir()
    deaths = die_everywhere(lambda: score(bundle, tmp_path / "in.npy", there / name), there, survived)
    assert deaths > 10
    if name == "out":
        assert parts(written) == expected
    else:
        assert (there / "out.csv").exists()
        assert parts(written) == {}
    assert not [path for path in written.rglob(".*") if path.name.startswith(".part")]


def test_a_full_disk_leaves_no_partial_part(bundle: Bundle, tmp_path: Path) -> None:
    """The run ends with a sentence; when there is room it goes on, to the same bytes."""
    np.save(tmp_path / "in.npy", digits(4000))
    score(bundle, tmp_path / "in.npy", tmp_path / "whole", part_rows=3000)
    assert [len(content) > LARGEST_FILE for content in parts(tmp_path / "whole").values()] == [True, False]
    command = _command(bundle, [str(tmp_path / "in.npy")], tmp_path / "out", "--part-rows", "3000")
    limited = (
        f"import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({LARGEST_FILE},) * 2); "
    )
    limited += "sys.argv = sys.argv[1:]; runpy.run_module('serving.score', run_name='__main__')"
    # With -c, argv begins with '-c'; the module's own begins with a name that nobody reads.
    full = [sys.executable, "-c", limited, "score", *command[3:]]
    done = subprocess.run(full, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 73, done.stderr
    assert "File too large; free space" in done.stderr
    assert (tmp_path / "out" / "_receipts" / "part-000000.json").exists()
    assert parts(tmp_path / "out").items() < parts(tmp_path / "whole").items()
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
    assert parts(tmp_path / "out") == parts(tmp_path / "whole")


def test_ten_kills_end_with_the_same_bytes(
    bundle: Bundle, mixed: list[str], whole: dict[str, bytes], tmp_path: Path
) -> None:
    """SIGKILL while it starts, reads, scores or writes, at random; decoding processes end with their parent."""
    chance = random.Random(3)  # noqa: S311  where to die, not a secret
    command = _command(bundle, mixed, tmp_path / "out", "--workers", "2")
    for _ in range(KILLS):
        progress = len(parts(tmp_path / "out"))
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
        wanted = min(progress + chance.randint(0, 2), len(whole))
        deadline = time.monotonic() + DONE_SECONDS
        while (
            process.poll() is None and len(parts(tmp_path / "out")) < wanted and time.monotonic() < deadline
        ):
            os.sched_yield()
        process.kill()
        process.wait()
        while group_lives(process.pid):
            assert time.monotonic() < deadline
            os.sched_yield()
        assert parts(tmp_path / "out").items() <= whole.items()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert parts(tmp_path / "out") == whole
    assert not list((tmp_path / "out").rglob(".*"))


def test_sigterm_stops_a_run_that_can_be_resumed(
    bundle: Bundle, mixed: list[str], whole: dict[str, bytes], tmp_path: Path
) -> None:
    """The exit code asks for another run, which has only the rest to do."""
    command = _command(bundle, mixed, tmp_path / "out")
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not parts(tmp_path / "out"):
        os.sched_yield()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=DONE_SECONDS)
    assert process.returncode in (75, 3)  # it may have been faster
    if process.returncode == 75:
        assert "SIGTERM" in said
        assert "Traceback" not in said
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 3
    assert parts(tmp_path / "out") == whole
    assert Stopped.exit_code == 75


def _command(bundle: Bundle, given: Sequence[str], output: Path, *more: str) -> list[str]:
    options = ["--output", str(output), "--model", str(bundle.path.parent), "--provider", "cpu"]
    return [
        *(sys.executable, "-m", "serving.score", "--quiet", "--input", *given),
        *(*options, "--part-rows", "64", "--workers", "1", *more),
    ]
