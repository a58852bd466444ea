"""Content says what a file is; what is lost or asked for in vain is said; and what the scorer wrote is no input."""

import io
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.support.jobs import KINDS, digits, folder, rows_of, score
from bench.support.pictures import png
from bundle.repository import Bundle
from common.html.frame import page
from imagesets.errors import DataError
from imagesets.source import Options
from serving.scoring.errors import OutputError
from serving.scoring.inputs.sources import open_inputs
from serving.scoring.output.folder import OutputFolder


def archive(count: int) -> bytes:
    """Return a tar file of images."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as file:
        for place, image in enumerate(digits(count)):
            member = tarfile.TarInfo(f"{place:02}.png")
            data = png(image)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return content.getvalue()


def opened(path: Path, **options: Any) -> int:
    """Return the number of rows."""
    return sum(source.count for source in open_inputs([str(path)], Options(**options)))


@pytest.mark.parametrize("kind", ["npz", "tar", "csv", "idx", "npy"])
@pytest.mark.parametrize("ending", [".txt", ".lst"])
def test_an_ending_of_a_list_makes_no_list_of_a_container(kind: str, ending: str, tmp_path: Path) -> None:
    """A table of pixels as text, and anything that is no text."""
    path = tmp_path / f"images{ending}"
    if kind == "csv":
        np.savetxt(path, digits(6).reshape(6, 784), "%d", ",")
    else:
        name, write = KINDS[kind]
        write(tmp_path / name, digits(6))
        (tmp_path / name).rename(path)
    (source,) = open_inputs([str(path)], Options())
    assert source.count == 6
    assert source.needs_decoding == (kind == "tar")


def test_a_list_may_begin_as_a_bitmap_does(tmp_path: Path) -> None:
    """Pictures of cars, in a folder called BMW."""
    (tmp_path / "list.txt").write_text("BMW/1.png\nBMW/2.png\n")
    assert opened(tmp_path / "list.txt") == 2


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[: data.find(b"05.png") + 300], "is truncated"),
        (lambda data: data[: data.find(b"05.png") + 600], "unexpected end of data"),
        (
            lambda data: data.replace(b"05.png", b"05.pnj"),
            "is damaged at byte [0-9,]+, where a header should be",
        ),
    ],
    ids=["within a header", "within a member", "a header's checksum"],
)
def test_a_tar_file_that_breaks_off_is_not_scored_as_whole(damage: object, said: str, tmp_path: Path) -> None:
    """Python's reader takes a header that it cannot read for the end: five of ten images, and no word of the others."""
    assert callable(damage)
    (tmp_path / "a.tar").write_bytes(damage(archive(10)))
    with pytest.raises(DataError, match=said):
        opened(tmp_path / "a.tar")


def test_a_tar_file_without_the_blocks_at_its_end_is_whole(tmp_path: Path) -> None:
    """Writers that append leave them out; so does `cat` of several parts."""
    data = archive(3)
    (tmp_path / "a.tar").write_bytes(data[: len(data.rstrip(b"\0")) // 512 * 512 + 512])
    assert opened(tmp_path / "a.tar") == 3


def test_a_spreadsheet_and_an_empty_archive_are_refused(tmp_path: Path) -> None:
    """Both are zip files without an image."""
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w") as file:
        file.writestr("[Content_Types].xml", "<Types/>")
        file.writestr("xl/worksheets/sheet1.xml", "<worksheet/>")
    with pytest.raises(DataError, match=r"a\.xlsx is a spreadsheet .* save it as \.csv"):
        opened(tmp_path / "a.xlsx")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("readme.txt", "none")
    with pytest.raises(DataError, match="no image in"):
        opened(tmp_path / "a.zip")


@pytest.mark.parametrize("kind", ["idx", "npy", "npz", "folder"])
def test_a_column_of_labels_is_not_taken_from_what_has_none(kind: str, tmp_path: Path) -> None:
    """Labels from a file beside the images, or from folders, are not those of a column that is named."""
    name, write = KINDS[kind]
    write(tmp_path / name, digits(3))
    with pytest.raises(DataError, match="no column 'wat' of labels, because it has no table"):
        opened(tmp_path / name, label_column="wat")


def test_folders_in_an_archive_are_no_column(tmp_path: Path) -> None:
    """Their names would have been the labels."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for place, image in enumerate(digits(4)):
            file.writestr(f"{place % 2}/{place}.png", png(image))
    (source,) = open_inputs([str(tmp_path / "a.zip")], Options(label_column="wat"))
    with pytest.raises(DataError, match="no column 'wat' of labels, because it has no table"):
        source.labels()


def test_a_file_of_classes_that_is_missing_is_missed_without_labels_too(tmp_path: Path) -> None:
    """An option that has no effect is a mistake."""
    np.save(tmp_path / "a.npy", digits(2))
    with pytest.raises(DataError, match=r"nowhere\.txt is no file"):
        opened(tmp_path / "a.npy", classes=tmp_path / "nowhere.txt")


def test_what_the_scorer_wrote_into_its_input_changes_no_job(bundle: Bundle, tmp_path: Path) -> None:
    """A folder, and a file of each format, and a report: the same commands again are the same jobs."""
    place = tmp_path / "in"
    folder(place, digits(5))
    outputs = ("scores", "s.csv", "s.parquet", "s.jsonl")
    said: list[str] = []
    for _ in range(2):
        for name in outputs:
            score(bundle, place, place / name)
            (place / "report.html").write_text(
                page(f"Scored: {name}", "", [], sprites="data:,", sprites_width=1)
            )
            assert OutputFolder.open_existing(place / name).manifest.rows == 5
    found = open_inputs([str(place)], Options(say=said.append))
    assert [source.count for source in found] == [5]
    assert any("that the scorer wrote are skipped" in text for text in said)


def test_predictions_are_no_images_by_a_pattern_or_by_name(bundle: Bundle, tmp_path: Path) -> None:
    """A pattern leaves them out, and one that is given is refused with what it is."""
    place = tmp_path / "in"
    folder(place, digits(3))
    for name in ("s.csv", "s.parquet", "s.jsonl"):
        score(bundle, place, place / name)
    shutil.copytree(place / "000", place, dirs_exist_ok=True)
    assert opened(place / "*") == 3
    for name in ("s.csv", "s.parquet"):
        with pytest.raises(DataError, match="has predictions of the scorer: give the images"):
            opened(place / name)


@pytest.mark.parametrize("options", [{"pixels": "0..255"}, {"part": "test"}])
def test_an_option_that_changes_the_rows_makes_another_job(
    options: dict[str, Any], bundle: Bundle, tmp_path: Path
) -> None:
    """Rows of two jobs are never mixed in one output."""
    values = digits(4).astype(np.float32)
    np.savez(tmp_path / "in.npz", x_test=values)
    score(bundle, tmp_path / "in.npz", tmp_path / "out", part_rows=2)
    with pytest.raises(OutputError, match="belongs to another job"):
        score(bundle, tmp_path / "in.npz", tmp_path / "out", part_rows=2, **options)
    assert len(rows_of(tmp_path / "out")) == 4
