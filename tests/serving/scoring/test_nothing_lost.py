"""What a job has not written is not overwritten, not removed, and not waited for."""

import os
import shutil
from pathlib import Path

import pytest

from bench.support.jobs import settings
from bundle.repository import Bundle
from serving.scoring.errors import OutputError
from tests.serving.scoring.damages import RECORDS, Damage, again, merged, records_of, tree


@pytest.mark.parametrize("output", ["out.csv"], indirect=True)
def test_a_file_without_its_records_is_not_overwritten(bundle: Bundle, finished: Path, output: Path) -> None:
    """Not one byte of it is touched; the message says what to do, and that helps."""
    content = output.read_bytes()
    shutil.rmtree(records_of(output))
    with pytest.raises(OutputError, match="no scoring job wrote it: give another output, or move it away"):
        again(bundle, finished, output)
    assert output.read_bytes() == content
    output.rename(output.with_name("moved"))
    again(bundle, finished, output)
    assert output.read_bytes() == content


@pytest.mark.parametrize("output", ["out.csv"], indirect=True)
def test_an_existing_file_at_a_future_path_is_not_overwritten(
    bundle: Bundle, finished: Path, output: Path
) -> None:
    """Between two lives of a run, or two shards and the merge, somebody puts a file there: it is not overwritten."""
    whole = tree(output)
    for path in (output, records_of(output)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    again(bundle, finished, output, shard="0/2")
    output.write_text("mine")
    refused = "this job has not written it: move it away"
    with pytest.raises(OutputError, match=refused):
        again(bundle, finished, output, shard="1/2")
    output.rename(output.with_name("kept"))
    again(bundle, finished, output, shard="1/2")
    output.with_name("kept").rename(output)
    with pytest.raises(OutputError, match=refused):
        merged(output)
    assert output.read_text() == "mine"
    output.unlink()
    merged(output)
    assert tree(output) == whole


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "thesis.tex").write_text("years of work")


def _a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [_a_folder, _a_pipe])
@pytest.mark.parametrize(
    ("output", "name"),
    [("out", name) for name in ("part-000002.parquet", *RECORDS)]
    + [("out.csv", "../out.csv"), ("out.csv", "_SUCCESS"), ("out.csv", "_receipts/file.json")],
    indirect=["output"],
)
def test_a_path_that_is_not_a_regular_file_is_an_error(
    name: str, damage: Damage, bundle: Bundle, finished: Path, output: Path
) -> None:
    """A folder is not removed, and nobody waits for what comes out of a pipe; moved away, the run mends it."""
    whole = tree(output)
    place = records_of(output) / name
    damage(place)
    for command in (lambda: again(bundle, finished, output), lambda: merged(output)):
        with pytest.raises(OutputError, match=f"{place.name} is not a regular file: move it away"):
            command()
    place.rename(output.with_name("moved"))
    again(bundle, finished, output)
    assert tree(output) == whole


@pytest.mark.parametrize("name", ["part-000077.parquet", "part-000001.csv", "mine.parquet"])
def test_an_unknown_part_is_an_error(name: str, bundle: Bundle, finished: Path, output: Path) -> None:
    """Who reads the folder would read it, too; it may be somebody's, so it is not removed."""
    whole = tree(output)
    shutil.copy(output / "part-000001.parquet", output / name)
    for shard in ("0/1", "1/2"):
        with pytest.raises(OutputError, match=f"{name} is not a part of this job: move it away"):
            again(bundle, finished, output, shard=shard)
    with pytest.raises(OutputError, match="is not a part of this job"):
        merged(output)
    (output / "_SUCCESS").unlink()
    with pytest.raises(OutputError, match="is not a part of this job"):
        again(bundle, finished, output, shard="1/2")
    (output / name).unlink()
    assert again(bundle, finished, output)[0].complete
    assert tree(output) == whole


@pytest.mark.parametrize("output", ["out", "out.csv"], indirect=True)
def test_other_files_in_the_folder_stay(bundle: Bundle, finished: Path, output: Path) -> None:
    """Notes, hidden files and folders are the user's, though a run clears its own leftovers away."""
    folder = records_of(output)
    theirs = [folder / ".gitkeep", folder / ".part-mine", folder / "notes.md", folder / ".git" / "config"]
    (folder / ".git").mkdir()
    for path in theirs:
        path.write_text("mine")
    ours = [folder / ".part-000002.csv.abcdefgh", folder / "_receipts" / ".part-000002.json.12345678"]
    for path in ours:
        path.write_text("left over")
    (folder / "_SUCCESS").unlink()
    again(bundle, finished, output)
    assert [path.read_text() for path in theirs] == ["mine"] * 4
    assert not [path for path in ours if path.exists()]


@pytest.mark.parametrize("report", ["out.csv", "../first/out.csv"])
def test_a_report_must_not_be_a_path_of_the_output(report: str, bundle: Bundle, tmp_path: Path) -> None:
    """A page in the place of the rows would be no output; nor may it have a part's name, or a record's."""
    (tmp_path / "first").mkdir()
    given = tmp_path / "in.npy"
    with pytest.raises(ValueError, match="is a path of the output"):
        settings(bundle, given, tmp_path / "first" / "out.csv", report=tmp_path / "first" / report)
    for name in ("part-000000.parquet", "_SUCCESS"):
        with pytest.raises(ValueError, match="is a path of the output"):
            settings(bundle, given, tmp_path / "out", report=tmp_path / "out" / name)
    assert settings(bundle, given, tmp_path / "out", report=tmp_path / "out" / "report.html").report
