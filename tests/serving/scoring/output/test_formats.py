"""Outputs: three formats that say the same, and the command line that asks for them."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.support.jobs import digits, folder, rows_of, score
from bench.support.models import CLASSES, Linear
from bench.support.pictures import png
from bundle.repository import Bundle
from imagesets.lazy_strings import LazyStrings
from serving.score import main
from serving.scoring.errors import OutputError
from serving.scoring.output.formats import Layout
from tests.conftest import ROOT
from tests.serving.scoring.parts import a_chunk, some_images, some_predictions


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


FORMULAS = ["=1+2", "+cmd", "-x", "@SUM(A1)", "\tx", "\rx", "'=1", "''@x", "-1,5", '=HYPERLINK("x")']
HARMLESS = ["plain", "-1", "+2.5e-3", ".5", "'x", "a=b", "", None, "1-2"]


def restored(cell: str) -> str:
    """Return what docs/scoring.md says that a cell was."""
    return re.sub(r"^'(?='*[=+\-@\t\r])", "", cell)


@pytest.mark.parametrize("safe", [True, False])
def test_csv_has_no_cell_that_a_spreadsheet_computes(bundle: Bundle, tmp_path: Path, safe: bool) -> None:
    """Texts that are passed through, their column's name too; numbers are numbers, and nothing is lost."""
    texts = FORMULAS + HARMLESS
    table = {
        "image": [png(image) for image in digits(len(texts))],
        "=text": texts,
        "number": [-float(place) for place in range(len(texts))],
        "kind": pa.array([text or "-" for text in texts]).dictionary_encode(),
    }
    pq.write_table(pa.table(table), tmp_path / "in.parquet")
    score(bundle, tmp_path / "in.parquet", tmp_path / "out.csv", csv_safe=safe)
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    name = "'=text" if safe else "=text"
    assert [restored(row[name]) if safe else row[name] for row in rows] == [text or "" for text in texts]
    assert [float(row["number"]) for row in rows] == table["number"]
    assert (rows[0]["kind"] == "'=1+2") is safe
    quoted = [row[name].startswith("'") and row[name] != text for row, text in zip(rows, texts, strict=True)]
    assert quoted == [safe] * len(FORMULAS) + [False] * len(HARMLESS)


def test_csv_of_files_and_classes_that_look_like_formulas_is_safe(bundle: Bundle, tmp_path: Path) -> None:
    """File names and class names come from others as well; the other formats have them as they are."""
    (tmp_path / "in").mkdir()
    for name, image in zip(("=a.png", "@b.png", "c.png"), digits(3), strict=True):
        (tmp_path / "in" / name).write_bytes(png(image))
    for ending in ("csv", "parquet"):
        score(bundle, tmp_path / "in", tmp_path / f"out.{ending}")
    assert [row["row"] for row in rows_of(tmp_path / "out.csv")] == ["'=a.png", "'@b.png", "c.png"]
    assert [row["row"] for row in rows_of(tmp_path / "out.parquet")] == ["=a.png", "@b.png", "c.png"]
    classes, images = ("=one", "-2", "+three"), some_images(9)
    layout = Layout(format="csv", classes=classes, digest="0", top=3, csv_safe=True, columns=pa.schema([]))
    content = layout.encode(a_chunk(images), some_predictions(9, classes)).decode()
    for row in csv.DictReader(content.splitlines()):
        assert {row["label_1"], row["label_2"], row["label_3"]} == {"'=one", "-2", "'+three"}
        assert row["label"] == row["label_1"]


def test_safe_texts_are_part_of_a_csv_job_alone(given: Path, bundle: Bundle, tmp_path: Path) -> None:
    """The setting changes the bytes of CSV, so another one is another job; of Parquet it changes nothing."""
    score(bundle, given, tmp_path / "out", format="csv")
    with pytest.raises(OutputError, match="spreadsheet-safe was true and is false"):
        score(bundle, given, tmp_path / "out", format="csv", csv_safe=False)
    score(bundle, given, tmp_path / "out.parquet")
    score(bundle, given, tmp_path / "out.parquet", csv_safe=False)


@pytest.mark.parametrize(
    "name", ["x.xlsx", "x.tsv", "x.json", "x.txt", "x.xls", "x.feather", "x.npz", "x.csv.gz", "X.H5"]
)
def test_an_output_with_the_ending_of_another_format_is_refused(
    name: str, given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It became a folder of that name; a folder that exists is one, and so is a name with a slash at its end."""
    words = ["--input", str(given), "--model", "nowhere", "--output"]
    assert main([*words, str(tmp_path / name)]) == 2
    said = capsys.readouterr().err
    assert "is no format of the output: end it in .parquet, .csv, .jsonl, .ndjson, or give a folder" in said
    assert not (tmp_path / name).exists()
    assert main(["merge", "--output", str(tmp_path / name)]) == 2
    assert main([*words, f"{tmp_path / name}/"]) == 70
    (tmp_path / name).mkdir()
    assert main([*words, str(tmp_path / name)]) == 70


def test_a_folder_may_have_a_dot_and_a_number_but_not_our_endings(
    given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`run.2` is a folder; `scores.csv/` is neither one nor the other."""
    words = ["--input", str(given), "--model", "nowhere", "--output"]
    assert main([*words, str(tmp_path / "2026.11.28")]) == 70
    assert main([*words, f"{tmp_path}/scores.csv/"]) == 2
    assert "a folder cannot end in .csv: omit the slash" in capsys.readouterr().err


def test_a_job_of_which_every_row_failed_is_not_told_as_done(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor by the same command again, nor by merge; one image that could be read makes it 3."""
    (tmp_path / "in").mkdir()
    for place in range(3):
        (tmp_path / "in" / f"{place}.png").write_bytes(b"no image")
    words = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--provider", "cpu"]
    words += ["--model", str(bundle.path.parent)]
    for given in (words, words, [*words, "--quiet"], ["merge", "--output", str(tmp_path / "out")]):
        assert main(given) == 65
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: nothing was scored: 3 of 3 rows have an error (the first, 0.png: ")
        assert str(tmp_path / "out") in last
    assert [row["error"] is None for row in rows_of(tmp_path / "out")] == [False] * 3
    (tmp_path / "in" / "3.png").write_bytes(png(digits(1)[0]))
    assert main([*words[:2], "--output", str(tmp_path / "more"), *words[4:]]) == 3


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
