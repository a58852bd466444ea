"""What the scorer has written is recognised in an input, and nothing else is."""

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.support.jobs import digits, score
from bundle.repository import Bundle
from serving.scoring.own_output import is_output_folder, is_result_file

FORMATS = ("parquet", "csv", "jsonl", "ndjson")


@pytest.fixture(scope="module")
def written(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a job's folder and a job's file of each format."""
    place = tmp_path_factory.mktemp("written")
    np.save(place / "in.npy", digits(5))
    for name in ("out", *(f"out.{ending}" for ending in FORMATS)):
        score(bundle, place / "in.npy", place / name)
    score(bundle, place / "in.npy", place / "top.csv", top=2)
    return place


def test_the_folder_of_a_job_is_its_output_and_its_input_is_not(written: Path) -> None:
    """A job's folder has manifest and receipts, also that of a single file; the folder above has neither."""
    for name in ("out", "out.csv.parts", "out.parquet.parts"):
        assert is_output_folder(os.fsencode(written / name))
    for other in (
        written,
        written / "in.npy",
        written / "missing",
        written / "out" / "_receipts",
        Path("a\0b"),
    ):
        assert not is_output_folder(os.fsencode(other))


@pytest.mark.parametrize("name", [*(f"out.{ending}" for ending in FORMATS), "top.csv"])
def test_a_result_is_recognised_beside_its_records_and_alone(
    written: Path, name: str, tmp_path: Path
) -> None:
    """Copied elsewhere, and kept as a changed file beside its job."""
    assert is_result_file(os.fsencode(written / name))
    shutil.copy(written / name, tmp_path / f"copy-{name}")
    assert is_result_file(os.fsencode(tmp_path / f"copy-{name}"))
    shutil.copy(written / name, tmp_path / f"{name}.changed2")
    assert is_result_file(os.fsencode(tmp_path / f"{name}.changed2"))


def test_files_of_others_are_not_taken_for_results(tmp_path: Path) -> None:
    """Images in Parquet with a label, lists, lines of JSON, damaged files, a pipe, and nothing at all."""
    columns = {"source": ["a"], "row": ["0"], "label": ["7"], "image": [b"x"]}
    pq.write_table(pa.table(columns), tmp_path / "images.parquet")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1" * 9)
    (tmp_path / "labels.csv").write_text("row,label\n0,7\n")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "lines.jsonl").write_text('{"source": "a", "row": 0}\n')
    (tmp_path / "image.png").write_bytes(b"source,row,label,index,probability")
    os.mkfifo(tmp_path / "pipe.csv")
    os.mkfifo(tmp_path / "pipe.parquet")
    for path in (
        *tmp_path.iterdir(),
        tmp_path / "missing.csv",
        tmp_path / "missing.parquet",
        Path("a\0.csv"),
    ):
        assert not is_result_file(os.fsencode(path)), path
