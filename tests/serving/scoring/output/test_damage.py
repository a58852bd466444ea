"""Damage to a folder of finished output: the same command mends it, and `merge` says what it is."""

import shutil
from pathlib import Path

import pytest

from bench.support.jobs import parts
from bundle.repository import Bundle
from serving.scoring.errors import IncompleteError, OutputError
from serving.scoring.output import integrity
from serving.scoring.output.integrity import read_record, record
from tests.serving.scoring.damages import (
    COUNT,
    DAMAGES,
    RECORDS,
    again,
    flip,
    mends,
    merged,
    records_of,
    tree,
)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["part-000002.parquet", *RECORDS])
def test_a_damaged_file_of_the_folder_is_written_again(
    name: str, damage: str, bundle: Bundle, finished: Path, output: Path
) -> None:
    """A part, or a record: nothing but what is damaged is computed, and it is said."""
    part = output / "part-000000.parquet"
    time = part.stat().st_mtime_ns
    told = mends(bundle, finished, output, lambda: DAMAGES[damage](output / name))
    assert part.stat().st_mtime_ns == time
    killed = name == "_SUCCESS" and damage in (
        "removed",
        "a link to nowhere",
    )  # as before the last call of a run
    assert killed or told


def test_merge_says_which_part_is_damaged(bundle: Bundle, finished: Path, output: Path) -> None:
    """Missing and changed parts by name, each with its exit code; the marker goes with the first look."""
    flip(output / "part-000001.parquet")
    with pytest.raises(
        OutputError, match=r"part-000001\.parquet or its receipt was changed.*Run their shards again"
    ) as told:
        merged(output)
    assert told.value.exit_code == 66
    assert not (output / "_SUCCESS").exists()
    again(bundle, finished, output)
    (output / "part-000001.parquet").unlink()
    with pytest.raises(
        IncompleteError, match=r"1 of 4 parts are missing in .*: 1\. Run their shards again"
    ) as missing:
        merged(output)
    assert missing.value.exit_code == 75
    (output / "part-000002.parquet").write_bytes(b"")
    (output / "part-000003.parquet").write_bytes(b"")
    with pytest.raises(OutputError, match=r"2 parts .* changed .*\(2-3\); 1 of 4 parts are missing .*: 1\."):
        merged(output)


def _swap(one: Path, other: Path) -> None:
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def test_parts_in_each_others_place(bundle: Bundle, finished: Path, output: Path) -> None:
    """With their receipts or without: a receipt names its part."""
    names = ("part-000001.parquet", "part-000002.parquet")
    receipts = ("_receipts/part-000001.json", "_receipts/part-000002.json")
    mends(bundle, finished, output, lambda: _swap(*(output / name for name in names)))

    def both() -> None:
        _swap(*(output / name for name in names))
        _swap(*(output / name for name in receipts))

    told = mends(bundle, finished, output, both)
    assert "2 parts" in told[0]
    assert "(1-2): computed again" in told[0]


@pytest.mark.parametrize(
    "names",
    [
        ["part-000002.parquet"],
        ["part-000002.parquet", "_receipts/part-000002.json"],
        ["part-000002.parquet", "_receipts/part-000002.json", "_SUCCESS"],
        ["_SUCCESS"],
        ["_manifest.json"],
    ],
)
def test_files_of_another_job_are_recognized(
    names: list[str], bundle: Bundle, finished: Path, output: Path
) -> None:
    """Whole and true where it comes from, it is none of this job's: every record names its job."""

    def replace() -> None:
        for name in names:
            shutil.copy(finished / "second" / "out" / name, output / name)

    mends(bundle, finished, output, replace)


def test_all_records_of_the_folder_at_once(bundle: Bundle, finished: Path, output: Path) -> None:
    """Without a receipt no part is taken for what it was; without any record the folder is nobody's."""
    mends(bundle, finished, output, lambda: shutil.rmtree(output / "_receipts"))
    shutil.rmtree(output / "_receipts")
    for name in ("_SUCCESS", "_manifest.json"):
        (output / name).unlink()
    with pytest.raises(OutputError, match="belongs to no job"):
        again(bundle, finished, output)
    (output / "_manifest.json").write_bytes(b"{")
    with pytest.raises(OutputError, match="no record in its folder is this job's"):
        again(bundle, finished, output)
    assert parts(output) == parts(finished / "first" / "out")


@pytest.mark.parametrize(
    ("old", "new"), [(b'"parts": 4', b'"parts": 3'), (b'"schema_version": 2', b'"schema_version": 3')]
)
def test_a_manifest_with_other_content(
    old: bytes, new: bytes, bundle: Bundle, finished: Path, output: Path
) -> None:
    """Still JSON, and of the same input: with fewer parts the output would be shorter."""

    def change() -> None:
        path = output / "_manifest.json"
        path.write_bytes(path.read_bytes().replace(old, new, 1))

    mends(bundle, finished, output, change)


def test_a_manifest_of_another_version(bundle: Bundle, finished: Path, output: Path) -> None:
    """Of an older Glyph, which had no checksums, and of a newer one: both are told to go on with theirs."""
    path = output / "_manifest.json"
    document = read_record(path)
    assert document is not None
    path.write_text('{"schema_version": 1, "rows": 200}')
    for _ in range(2):
        with pytest.raises(OutputError, match="written by another version of Glyph"):
            again(bundle, finished, output)
        with pytest.raises(OutputError, match="written by another version of Glyph"):
            merged(output)
        path.write_bytes(record(document | {"schema_version": 99}))


@pytest.mark.parametrize("output", ["out", "out.csv"], indirect=True)
def test_shards_mend_what_is_theirs(bundle: Bundle, finished: Path, output: Path) -> None:
    """Each computes its own parts anew and no other's; until all have, no command calls the job complete."""
    whole = tree(output)
    if output.suffix:
        output.write_bytes(b"damaged")
    else:
        flip(output / "part-000002.parquet")
        (output / "part-000003.parquet").unlink()
    odd, told = again(bundle, finished, output, shard="1/2")
    assert not odd.complete
    assert [receipt.part for receipt in odd.receipts] == [1, 3]
    assert told
    assert not (records_of(output) / "_SUCCESS").exists()
    with pytest.raises(OutputError, match="Run their shards again"):
        merged(output)
    assert not again(bundle, finished, output, shard="0/2")[0].complete
    assert merged(output).complete
    assert tree(output) == whole


def test_a_shard_does_not_call_the_damaged_part_of_another_done(
    bundle: Bundle, finished: Path, output: Path
) -> None:
    """It has nothing to do, says that the job is not as it was, and counts its own rows only."""
    flip(output / "part-000002.parquet")
    outcome, told = again(bundle, finished, output, shard="1/2")
    assert not outcome.complete
    assert sum(receipt.rows for receipt in outcome.receipts) == 64 + COUNT - 3 * 64
    assert told == [f"{output} does not match _SUCCESS, which is written again when every part is complete"]


def test_a_run_that_goes_on_looks_at_what_is_done(bundle: Bundle, finished: Path, output: Path) -> None:
    """A part that was changed between two lives, in its old length, is computed again by the second one."""
    whole = tree(output)
    (output / "_SUCCESS").unlink()
    flip(output / "part-000000.parquet")
    (output / "part-000003.parquet").unlink()
    _, told = again(bundle, finished, output)
    assert told == [
        f"{output}/part-000000.parquet or its receipt was changed or removed after it was written: computed again"
    ]
    assert tree(output) == whole


def test_what_cannot_be_read_is_said(
    bundle: Bundle, finished: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that may not be read, or lies where the disk is broken, is not taken for a changed one."""

    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(integrity, "sha256_file", refuse)
    for command in (lambda: again(bundle, finished, output), lambda: merged(output)):
        with pytest.raises(
            OutputError, match=r"part-000000\.parquet cannot be read: Permission denied; make it"
        ):
            command()
    assert (output / "_SUCCESS").exists()


def test_the_same_content_behind_a_link_is_there(bundle: Bundle, finished: Path, output: Path) -> None:
    """Who moves large files to another disk and links them has them still."""
    place = output.with_name("elsewhere")
    (output / "part-000001.parquet").rename(place)
    (output / "part-000001.parquet").symlink_to(place)
    assert "is complete: nothing to do" in again(bundle, finished, output)[1][0]
    assert merged(output).complete
    assert (output / "part-000001.parquet").is_symlink()
