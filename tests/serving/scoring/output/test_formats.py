"""Outputs: three formats that say the same, and the command line that asks for them."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bench.support.jobs import digits, folder, rows_of, score
from bench.support.models import CLASSES, Linear
from bench.support.pictures import png
from bundle.repository import Bundle
from serving.score import main
from serving.scoring.lazy_strings import LazyStrings
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 100 images, one of them bad, one that looks inverted."""
    place = tmp_path_factory.mktemp("given") / "in"
    folder(place, digits(100))
    (place / "000" / "00010.png").write_bytes(b"no image, and a comma")
    (place / "000" / "00020.png").write_bytes(png(255 - digits(1)[0]))
    return place


def test_the_formats_say_the_same(given: Path, bundle: Bundle, tmp_path: Path) -> None:
    """Every float32 is written with the digits that give it back; what is absent is absent in all."""
    for ending in ("parquet", "csv", "jsonl"):
        score(bundle, given, tmp_path / f"out.{ending}")
    table = rows_of(tmp_path / "out.parquet")
    lines = rows_of(tmp_path / "out.jsonl")
    sheet = rows_of(tmp_path / "out.csv")
    assert list(table[0]) == [
        *("source", "row", "label", "index", "probability", "probabilities", "warning", "error", "model"),
    ]
    for row, line, cells in zip(table, lines, sheet, strict=True):
        for name in ("source", "row", "label", "index", "warning", "error", "model"):
            assert row[name] == line[name]
            assert ("" if row[name] is None else str(row[name])) == cells[name]
        if row["error"] is not None:
            assert (line["probability"], line["probabilities"], cells["probability_3"]) == (None, None, "")
            continue
        assert list(line["probabilities"]) == list(CLASSES)
        exact = [np.float32(value) for value in row["probabilities"]]
        assert exact == [np.float32(value) for value in line["probabilities"].values()]
        assert exact == [np.float32(cells[f"probability_{label}"]) for label in CLASSES]
        assert np.float32(row["probability"]) == max(exact) == np.float32(line["probability"])
    assert [row["row"] for row in table if row["error"]] == ["000/00010.png"]
    assert [row["row"] for row in table if row["warning"]] == ["000/00020.png"]


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_top_lists_the_most_probable(
    ending: str, given: Path, bundle: Bundle, linear: Linear, tmp_path: Path
) -> None:
    """The most probable first, with its name; more than there are classes is all of them."""
    score(bundle, given, tmp_path / f"out.{ending}", top=2)
    row = rows_of(tmp_path / f"out.{ending}")[0]
    expected = linear.probabilities(digits(100))[0]
    order = np.argsort(-expected)[:2]
    if ending == "parquet":
        names, values = row["top_labels"], row["top_probabilities"]
    elif ending == "jsonl":
        names, values = [*row["probabilities"]], [*row["probabilities"].values()]
    else:
        names = [row["label_1"], row["label_2"]]
        values = [float(row["probability_1"]), float(row["probability_2"])]
    assert names == [CLASSES[i] for i in order]
    np.testing.assert_allclose(values, expected[order], atol=1e-5)


def test_parts_of_csv_can_be_read_alone(given: Path, bundle: Bundle, tmp_path: Path) -> None:
    """Each has the line of names; the one file has it once."""
    score(bundle, given, tmp_path / "out", format="csv")
    heads = [path.read_text().splitlines()[0] for path in (tmp_path / "out").glob("part-*.csv")]
    assert len(heads) == 2
    assert len(set(heads)) == 1
    assert len(rows_of(tmp_path / "out")) == 100
    score(bundle, given, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        assert sum(row[0] == "source" for row in csv.reader(file)) == 1


def test_the_file_knows_its_model(given: Path, bundle: Bundle, tmp_path: Path) -> None:
    """A Parquet file's metadata has the classes, in the order of the probabilities, and the digest."""
    score(bundle, given, tmp_path / "out.parquet")
    metadata = pq.read_schema(tmp_path / "out.parquet").metadata
    assert json.loads(metadata[b"classes"]) == list(CLASSES)
    assert metadata[b"model"].decode() == bundle.manifest.digest


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--inputs", "x"], 2, "did you mean '--input'"),
        (["--output", "x"], 2, "--input is required"),
        (["--input", "x"], 2, "--output is required"),
        (["--input", "x", "--output", "y.csv", "--format", "jsonl"], 2, "y.csv has the extension of csv"),
        (["--input", "x", "--output", "y", "--shard", "3/3"], 2, "0 to n - 1"),
        (["--input", "nowhere", "--output", "y"], 65, "nowhere does not exist"),
        (["merge", "--output", "nowhere"], 66, "has no output of a job"),
        (["--input", __file__, "--output", "y", "--model", "nowhere"], 70, "no version is published"),
        (["--input", __file__, "--output", "/proc/x/y"], 73, "cannot be written"),
    ],
)
def test_usage_errors_have_messages_and_exit_codes(
    words: list[str],
    code: int,
    said: str,
    bundle: Bundle,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each has its exit code, and the message names the remedy."""
    monkeypatch.setenv("GLYPH_SCORE_MODEL", str(bundle.path.parent))
    monkeypatch.setenv("GLYPH_SCORE_PROVIDER", "cpu")
    assert main(words) == code
    assert said in capsys.readouterr().err


def test_the_command_line_as_a_user_gives_it(given: Path, bundle: Bundle, tmp_path: Path) -> None:
    """Several inputs behind one option, settings from the environment, exit code 3 for a bad image."""
    np.save(tmp_path / "a.npy", digits(3))
    np.save(tmp_path / "b.npy", digits(4))
    command = [sys.executable, "-m", "serving.score", "--output", str(tmp_path / "out.csv"), "--input"]
    environment = {
        "GLYPH_SCORE_MODEL": str(bundle.path.parent),
        "GLYPH_SCORE_PROVIDER": "cpu",
        "PATH": "/usr/bin",
    }
    arrays = [str(tmp_path / "a.npy"), str(tmp_path / "b.npy")]
    done = subprocess.run([*command, *arrays], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert (done.returncode, len(rows_of(tmp_path / "out.csv"))) == (0, 7), done.stderr
    command[command.index(str(tmp_path / "out.csv"))] = str(tmp_path / "out")
    done = subprocess.run([*command, str(given)], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert (done.returncode, len(rows_of(tmp_path / "out"))) == (3, 100), done.stderr


def test_names_are_what_they_were_made_of() -> None:
    """Numbers, one text again and again, and texts, joined: in length, by place, and in order."""
    names = LazyStrings.concatenate(
        [
            LazyStrings(range(3)),
            LazyStrings(range(3, 5)),
            LazyStrings(("a", 2)),
            LazyStrings(("a", 1)),
            ["x", "y"],
        ]
    )
    expected = ["0", "1", "2", "3", "4", "a", "a", "a", "x", "y"]
    assert list(names) == expected
    assert [names[at] for at in range(len(names))] == expected
    assert len(names.pieces) == 3
    with pytest.raises(IndexError):
        names[10]
