"""Known labels: every form of file, the input's own, what is not a class, and which row a label belongs to."""

import gzip
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.support.models import publish_synthetic
from bench.support.pictures import png
from imagesets.errors import DataError
from imagesets.labels import UNKNOWN
from imagesets.source import Options, Source
from serving.score import main, scorers_words
from serving.scoring.inputs.sources import open_inputs
from serving.scoring.reporting.labels import open_labels
from tests.serving.scoring.parts import a_chunk, numbered, some_images

CLASSES = ("cat", "dog", "owl")
TRUE = [0, 2, 1, 1, 0]
NAMES = [CLASSES[label] for label in TRUE]


def idx(values: list[int]) -> bytes:
    """Return an IDX file of unsigned bytes, as the format's description has it."""
    return struct.pack(">BBBBI", 0, 0, 8, 1, len(values)) + bytes(values)


def found(given: object, sources: list[Source], classes: tuple[str, ...] = CLASSES) -> list[int]:
    """Return the class of every row."""
    return [int(place) for place in open_labels(str(given), classes, sources).classes]


FILES = {
    "labels-idx1-ubyte": idx(TRUE),
    "labels-idx1-ubyte.gz": gzip.compress(idx(TRUE)),
    "numbers.txt": b"0\n2\n1\n1\n0\n",
    "names.txt": b"cat\r\nowl\r\ndog\r\ndog\r\ncat\r\n",
    "headed.csv": b"\xef\xbb\xbfLabel\ncat\nowl\ndog\ndog\ncat\n",
    "by-row.csv": b"label,row\ncat,0\ndog,3\nowl,1\ndog,2\ncat,4\n",
    "by-row.tsv": b"file\tclass\n4\tcat\n3\tdog\n2\tdog\n1\towl\n0\tcat\n",
}


@pytest.mark.parametrize("name", FILES)
def test_every_label_format_has_the_same_labels(name: str, tmp_path: Path) -> None:
    """IDX, text and CSV, by place and by row, name the same classes."""
    (tmp_path / name).write_bytes(FILES[name])
    labels = open_labels(str(tmp_path / name), CLASSES, numbered(5))
    assert labels.indices(a_chunk(some_images(5))).tolist() == TRUE
    assert labels.indices(a_chunk(some_images(2), first=3)).tolist() == TRUE[3:]


@pytest.mark.parametrize(
    "values",
    [
        np.array(TRUE),
        np.array(TRUE, "u1"),
        np.array(NAMES),
        np.array(TRUE, ">i4"),
        np.array(TRUE, float),
        np.eye(3)[TRUE],
    ],
)
def test_npy_of_numbers_and_names(values: npt.NDArray[np.generic], tmp_path: Path) -> None:
    """An array of integers of any width, of floats that are whole, of names, or one-hot."""
    np.save(tmp_path / "labels.npy", values)
    assert found(tmp_path / "labels.npy", numbered(5)) == TRUE


def test_numbers_are_names_where_classes_are_named_by_numbers(tmp_path: Path) -> None:
    """Classes `3, 1, 2` and a label 1: the second class, whatever holds it; 0 is none of them, and no place."""
    np.save(tmp_path / "labels.npy", np.array([1, 2, 3]))
    assert found(tmp_path / "labels.npy", numbered(3), ("3", "1", "2")) == [1, 2, 0]
    (tmp_path / "labels.txt").write_text("1\n2\n3\n")
    assert found(tmp_path / "labels.txt", numbered(3), ("3", "1", "2")) == [1, 2, 0]
    np.save(tmp_path / "labels.npy", np.array([0, 1, 2]))
    with pytest.raises(DataError, match="label '0' of row 0 is not a class; the model has 3: 3, 1, 2"):
        found(tmp_path / "labels.npy", numbered(3), ("3", "1", "2"))


def test_a_number_is_no_place_beside_a_name(tmp_path: Path) -> None:
    """One label by name and one by place: nobody says which is meant."""
    (tmp_path / "labels.txt").write_text("cat\n1\n")
    with pytest.raises(DataError, match="label '1' of row 1 is not a class"):
        found(tmp_path / "labels.txt", numbered(2))


def test_labels_of_a_known_set_are_matched_by_name(tmp_path: Path) -> None:
    """EMNIST Letters counts from 1: its file's name says what 1 is called."""
    path = tmp_path / "emnist-letters-test-labels-idx1-ubyte"
    path.write_bytes(idx([1, 26, 2]))
    letters = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert found(path, numbered(3), letters) == [0, 25, 1]
    path.rename(tmp_path / "labels-idx1-ubyte")
    with pytest.raises(DataError, match="26 is not a place from 0 to 25"):
        found(tmp_path / "labels-idx1-ubyte", numbered(3), letters)


@pytest.mark.parametrize("heading", ["image", "file_name", "whatever"])
def test_a_column_of_names_is_found_whatever_it_is_called(heading: str, tmp_path: Path) -> None:
    """By path, by base name or by stem, in any order; never by position where a column names the rows."""
    (tmp_path / "in").mkdir()
    for name in ("c", "a", "b"):
        (tmp_path / "in" / f"{name}.png").write_bytes(png(some_images(1)[0]))
    sources = open_inputs([str(tmp_path / "in")], Options())
    for shape in ("{}.png", "{}", "in/{}.png"):
        rows = [(shape.format(name), label) for name, label in (("c", "owl"), ("a", "cat"), ("b", "dog"))]
        text = "".join(f"{name},{label}\n" for name, label in [(heading, "label"), *rows])
        (tmp_path / "labels.csv").write_text(text)
        assert found(tmp_path / "labels.csv", sources) == [0, 1, 2]
    (tmp_path / "labels.csv").write_text(f"{heading},label\nc.png,owl\na.png,cat\nz.png,dog\n")
    assert found(tmp_path / "labels.csv", sources) == [0, UNKNOWN, 2]


def test_the_inputs_own_labels(tmp_path: Path) -> None:
    """The names of folders, and the column of a table."""
    for number, label in enumerate(NAMES):
        (tmp_path / "in" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / label / f"{number}.png").write_bytes(png(some_images(1)[0]))
    sources = open_inputs([str(tmp_path / "in")], Options())
    assert found("input", sources) == sorted(TRUE)
    images = [png(image) for image in some_images(5)]
    pq.write_table(pa.table({"image": images, "what": [*NAMES[:4], None]}), tmp_path / "a.parquet")
    sources = open_inputs([str(tmp_path / "a.parquet")], Options(label_column="what"))
    assert found("column:what", sources) == [*TRUE[:4], UNKNOWN]
    with pytest.raises(DataError, match="no column 'wat'; did you mean 'what'"):
        open_inputs([str(tmp_path / "a.parquet")], Options(label_column="wat"))
    with pytest.raises(DataError, match="has no labels of its own"):
        found("input", numbered(3))


def test_a_row_without_a_label_is_unknown(tmp_path: Path) -> None:
    """By rows, not all need a label; a row that is named twice is refused."""
    (tmp_path / "a.csv").write_text("row,label\n1,dog\n")
    assert found(tmp_path / "a.csv", numbered(3)) == [UNKNOWN, 1, UNKNOWN]
    (tmp_path / "b.csv").write_text("row,label\n1,dog\n1,cat\n")
    with pytest.raises(DataError, match=r"b\.csv"):
        found(tmp_path / "b.csv", numbered(3))


def test_more_or_fewer_labels_than_rows(tmp_path: Path) -> None:
    """Labels by place need as many rows."""
    (tmp_path / "a.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match="2 labels and the input 1,000 rows"):
        found(tmp_path / "a.txt", numbered(1000))
    (tmp_path / "a-idx1").write_bytes(idx([0, 1]))
    with pytest.raises(DataError, match="2 labels and the input 3 rows"):
        found(tmp_path / "a-idx1", numbered(3))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", b"cat\nbird\n", "label 'bird' of row 1 is not a class; the model has 3: cat, dog, owl"),
        ("a.txt", b"0\n3\n", "3 is not a place from 0 to 2"),
        ("a-idx1", idx([0, 3]), "3 is not a place from 0 to 2"),
        ("a-idx1", idx([0, 1])[:-1], "declares 2 labels and has fewer"),
        ("a-idx1", idx([0, 1]) + b"\0", "declares 2 labels and has more"),
        ("a-idx3", b"\0\0\x08\3" + bytes(12), "has 3 axes, labels have one: this is the file of the images"),
        ("a.bin", b"\x00\x01\x02", "looks like"),
        ("a.npy", b"\x93NUMPY\1", "cannot be read"),
        ("a.csv", b"", "empty"),
    ],
)
def test_each_fault_has_its_message(name: str, content: bytes, sentence: str, tmp_path: Path) -> None:
    """Each fault of a file of labels is a sentence that names the file."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=sentence) as raised:
        found(tmp_path / name, numbered(2))
    assert str(tmp_path / name) in str(raised.value)


def test_npy_that_is_not_a_list_of_labels(tmp_path: Path) -> None:
    """Images, fractions and pickles are refused."""
    for values, sentence in (
        (np.zeros((2, 2), int), "not one-hot"),
        (np.array([0.5, 1]), "the label 0.5 in row 0"),
        (np.array([-1, 0]), "-1 is not a place"),
    ):
        np.save(tmp_path / "a.npy", values)
        with pytest.raises(DataError, match=sentence):
            found(tmp_path / "a.npy", numbered(2))
    np.save(tmp_path / "a.npy", np.array([None]), allow_pickle=True)
    with pytest.raises(DataError, match="pickles are not loaded"):
        found(tmp_path / "a.npy", numbered(1))
    with pytest.raises(DataError, match="is no file"):
        found(tmp_path / "none.npy", numbered(1))


def test_messages_about_columns_name_the_scorers_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The readers are training's too, whose option has another name; a file of labels has none."""
    rows = [("0", "cat", "x"), ("1", "dog", "y")]
    for columns in (("row", "label", "class"), ("row", "first", "second")):
        table = tmp_path / "labels.csv"
        table.write_text("\n".join(map(",".join, [columns, *rows])) + "\n")
        with pytest.raises(DataError, match=r"columns of labels|the columns") as raised:
            open_labels(str(table), CLASSES, numbered(2))
        assert "--label-column" not in str(raised.value)
        assert "column:NAME" not in str(raised.value)
    pixels = tmp_path / "in.csv"
    header = ["label", "class", *(f"p{place}" for place in range(784))]
    pixels.write_text(",".join(header) + "\n" + ",".join(["cat", "dog", *["0"] * 784]) + "\n")
    words = ["--input", str(pixels), "--output", str(tmp_path / "out"), "--labels", "input"]
    assert main([*words, "--model", str(publish_synthetic(tmp_path / "models").path.parent)]) == 65
    said = capsys.readouterr().err
    assert "choose with --labels column:NAME" in said
    assert "--label-column" not in said


def test_first_and_last_are_names_of_the_scorers_option() -> None:
    """As the readers say where a column of numbers may be the label."""
    error = DataError("say --label-column first or --label-column last")
    assert scorers_words(error) == "say --labels column:first or --labels column:last"
