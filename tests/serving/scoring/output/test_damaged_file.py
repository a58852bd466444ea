"""The same of output that is one file: it is written anew, and what was in its place is kept."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.support.jobs import parts
from bundle.repository import Bundle
from serving.scoring.errors import OutputError
from serving.scoring.output.manifest import Outcome
from tests.conftest import ROOT
from tests.serving.scoring.damages import (
    DAMAGES,
    FILES,
    PARTS,
    RECORDS,
    again,
    flip,
    mends,
    merged,
    records_of,
    tree,
)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("output", FILES, indirect=True)
def test_one_file_is_written_anew(damage: str, bundle: Bundle, finished: Path, output: Path) -> None:
    """It has the same bytes; what was there and may be somebody's is kept beside it."""
    kept = output.with_name(f"{output.name}.changed")
    DAMAGES[damage](output)
    there = output.read_bytes() if output.exists() else None
    outcome, told = again(bundle, finished, output)
    assert (outcome.complete, len(told)) == (True, 1)
    assert tree(output) == tree(finished / "first" / output.name)
    assert not output.is_symlink()
    if damage in ("emptied", "removed"):
        assert not os.path.lexists(kept)
        assert told == [f"{output} was {damage} after it was written: computed again"]
    else:
        assert told[0].endswith(f"the changed file is kept as {kept}")
        assert (kept.read_bytes() if kept.exists() else None) == there


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("output", ["out.csv"], indirect=True)
def test_merge_touches_no_damaged_file(damage: str, bundle: Bundle, finished: Path, output: Path) -> None:
    """Its parts are gone, so `merge` cannot mend it: it says so as often as it is asked, and the remedy helps."""
    DAMAGES[damage](output)
    there = output.read_bytes() if output.exists() else None
    for _ in range(2):
        with pytest.raises(
            OutputError, match=r"out\.csv was changed or removed .*; 4 of 4 parts are missing"
        ):
            merged(output)
    assert (output.read_bytes() if output.exists() else None) == there
    for shard in ("0/2", "1/2"):
        again(bundle, finished, output, shard=shard)
    merged(output)
    assert tree(output) == tree(finished / "first" / output.name)


@pytest.mark.parametrize("output", FILES, indirect=True)
def test_a_file_that_another_job_wrote(bundle: Bundle, finished: Path, output: Path) -> None:
    """The only copy of another run's file may lie here: none is overwritten, however often."""
    theirs = (finished / "second" / output.name).read_bytes()
    for number in ("", "2", "3"):
        output.write_bytes(theirs)
        again(bundle, finished, output)
        assert output.read_bytes() == (finished / "first" / output.name).read_bytes()
        assert output.with_name(f"{output.name}.changed{number}").read_bytes() == theirs


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*RECORDS, "_receipts/file.json"])
@pytest.mark.parametrize("output", ["out.csv"], indirect=True)
def test_the_records_beside_one_file_are_written_anew(
    name: str, damage: str, bundle: Bundle, finished: Path, output: Path
) -> None:
    """The file is intact, so it stays: its parts are not needed, and what was found in one is counted again."""
    time = output.stat().st_mtime_ns
    mends(bundle, finished, output, lambda: DAMAGES[damage](records_of(output) / name))
    assert output.stat().st_mtime_ns == time
    assert parts(records_of(output)) == {}


@pytest.mark.parametrize("name", ["_SUCCESS", "_manifest.json", "_receipts/file.json"])
@pytest.mark.parametrize("output", ["out.csv"], indirect=True)
def test_what_another_job_said_of_one_file(name: str, bundle: Bundle, finished: Path, output: Path) -> None:
    """The same of the records beside one file."""
    theirs = finished / "second" / "out.csv.parts" / name
    mends(bundle, finished, output, lambda: shutil.copy(theirs, records_of(output) / name))


@pytest.mark.parametrize("output", FILES, indirect=True)
def test_a_part_that_is_changed_before_it_is_concatenated(
    bundle: Bundle, finished: Path, output: Path
) -> None:
    """In its old length: it does not get into the file, and its shard computes it anew."""
    whole = tree(output)
    shutil.rmtree(records_of(output))
    output.unlink()
    for shard in ("0/2", "1/2"):
        again(bundle, finished, output, shard=shard)
    flip(records_of(output) / f"part-000002{output.suffix}")
    with pytest.raises(OutputError, match="part-000002"):
        merged(output)
    assert not output.exists()
    again(bundle, finished, output, shard="0/2")
    merged(output)
    assert tree(output) == whole


@pytest.mark.parametrize("output", ["out.csv"], indirect=True)
def test_a_file_whose_parts_are_still_there(bundle: Bundle, finished: Path, output: Path) -> None:
    """As where a run was killed before it removed them: whole parts do not make a damaged file whole."""
    whole = tree(output)
    output.unlink()
    for shard in ("0/2", "1/2"):
        again(bundle, finished, output, shard=shard)
    kept = {path: path.read_bytes() for path in records_of(output).glob("part-*")}
    assert len(kept) == PARTS
    commands: list[Callable[[], Outcome]] = [
        lambda: again(bundle, finished, output)[0],
        lambda: merged(output),
    ]
    for command in commands:
        merged(output)
        for path, content in kept.items():
            path.write_bytes(content)
        flip(output)
        assert command().complete
        assert tree(output) == whole


@pytest.mark.parametrize("output", ["out.csv"], indirect=True)
def test_the_commands_say_it(bundle: Bundle, finished: Path, output: Path) -> None:
    """`merge` ends with 66 and one line, and counts nothing; scoring ends with 0 and says what it did."""
    output.write_bytes(b"")
    python = [sys.executable, "-m", "serving.score"]
    common = ["--output", str(output), "--model", str(bundle.path.parent)]
    done = subprocess.run([*python, "merge", *common], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (66, "", 1)
    assert done.stderr.startswith(f"error: {output} was changed or removed after it was written")
    options = ["--input", str(finished / "first.npy"), "--provider", "cpu", "--part-rows", "64"]
    done = subprocess.run([*python, *common, *options], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [f"{output} was emptied after it was written: computed again"]
    assert done.stdout.startswith("200 rows, 200 scored")
    assert output.read_bytes() == (finished / "first" / "out.csv").read_bytes()
