"""Known labels: every form of file, what is not a class, and which row a label belongs to."""

import gzip
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from serving.scoring.errors import InputError
from serving.scoring.reporting.labels import UNKNOWN, open_labels
from tests.serving.scoring.parts import a_chunk, some_images

CLASSES = ("cat", "dog", "7")
TRUE = [0, 2, 1, 1, 0]


def idx(values: list[int]) -> bytes:
    """Return an IDX file of unsigned bytes, as the format's description has it."""
    return struct.pack(">BBBBI", 0, 0, 8, 1, len(values)) + bytes(values)


FILES = {
    "labels-idx1-ubyte": idx(TRUE),
    "labels-idx1-ubyte.gz": gzip.compress(idx(TRUE)),
    "numbers.txt": b"0\n7\n1\n1\n0\n",
    "names.txt": b"cat\r\n7\r\ndog\r\ndog\r\ncat\r\n",
    "headed.csv": b"\xef\xbb\xbfLabel\ncat\n7\ndog\ndog\ncat\n",
    "more.csv": b"id2,label\nx,cat\nx,2\nx,dog\nx,1\nx,cat\n",
    "by-row.csv": b"label,row\ncat,0\ndog,3\n7,1\ndog,2\ncat,4\n",
    "by-row.tsv": b"file\tclass\n4\tcat\n3\tdog\n2\tdog\n1\t7\n0\tcat\n",
}


@pytest.mark.parametrize("name", FILES)
def test_every_label_format_has_the_same_labels(name: str, tmp_path: Path) -> None:
    """IDX, text and CSV, by place and by row, name the same classes."""
    (tmp_path / name).write_bytes(FILES[name])
    labels = open_labels(str(tmp_path / name), CLASSES)
    assert labels.indices(a_chunk(some_images(5))).tolist() == TRUE
    assert labels.indices(a_chunk(some_images(2), first=3)).tolist() == TRUE[3:]
    labels.check(5)


@pytest.mark.parametrize(
    "values",
    [np.array(TRUE), np.array(TRUE, "u1"), np.array([CLASSES[i] for i in TRUE]), np.array(TRUE, ">i4")],
)
def test_npy_of_numbers_and_names(values: npt.NDArray[np.generic], tmp_path: Path) -> None:
    """An array of integers of any width, or of names."""
    np.save(tmp_path / "labels.npy", values)
    labels = open_labels(str(tmp_path / "labels.npy"), CLASSES)
    assert labels.indices(a_chunk(some_images(5))).tolist() == TRUE


def test_a_column_of_the_input() -> None:
    """Each row's own column says what it is; a null says nothing."""
    tables = (
        (2, pa.table({"what": ["dog", None], "other": [1, 2]})),
        (1, pa.table({"what": ["7"], "other": [3]})),
    )
    labels = open_labels("column:what", CLASSES)
    assert labels.indices(a_chunk(some_images(3), columns=tables)).tolist() == [1, UNKNOWN, 2]
    numbers = open_labels("column:other", ("a", "b", "c", "d"))
    assert numbers.indices(a_chunk(some_images(3), columns=tables)).tolist() == [1, 2, 3]
    with pytest.raises(InputError, match="no column 'wat'; did you mean 'what'"):
        open_labels("column:wat", CLASSES).indices(a_chunk(some_images(3), columns=tables))
    with pytest.raises(InputError, match="no column 'what'"):
        labels.indices(a_chunk(some_images(3), columns=((3, None),)))


def test_a_row_without_a_label_is_unknown(tmp_path: Path) -> None:
    """By rows, not all need a label; a row that is named twice is refused."""
    (tmp_path / "a.csv").write_text("row,label\n1,dog\n")
    labels = open_labels(str(tmp_path / "a.csv"), CLASSES)
    assert labels.indices(a_chunk(some_images(3))).tolist() == [UNKNOWN, 1, UNKNOWN]
    labels.check(10**9)
    (tmp_path / "b.csv").write_text("row,label\n1,dog\n1,cat\n")
    with pytest.raises(InputError, match="has 1 rows more than once"):
        open_labels(str(tmp_path / "b.csv"), CLASSES)


def test_more_or_fewer_labels_than_rows(tmp_path: Path) -> None:
    """Labels by place need as many rows."""
    (tmp_path / "a.txt").write_text("cat\ndog\n")
    labels = open_labels(str(tmp_path / "a.txt"), CLASSES)
    with pytest.raises(InputError, match="has 2 labels and the input 1,000 rows"):
        labels.check(1000)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            "a.txt",
            b"cat\nbird\n",
            "label 'bird' of row 1 is not a class; the model has 3: cat, dog, 7, or 0 to 2",
        ),
        ("a.txt", b"cat\n3\n", "label '3' of row 1 is not a class"),
        ("a.txt", b"cat\ndog,cat\n", "lines of one and of 2 cells"),
        ("a.csv", b"what,why\n1,2\n", "has the columns what, why: rename one to label"),
        ("a.csv", b"row,label\n1\n", "has a line of 1 cells; 2 are required"),
        ("a.csv", b"", "is empty"),
        ("a.txt", b"\xff\xfe", "cannot be read"),
        ("a-idx1", idx([0, 3]), "label '3' of row 1 is not a class"),
        ("a-idx1", idx([0, 1])[:-1], "declares 2 labels and has fewer"),
        ("a-idx1", idx([0, 1]) + b"\0", "declares 2 labels and has more"),
        (
            "a-idx3",
            b"\0\0\x08\3" + bytes(12),
            "has 3 axes, labels have one: this is probably the file of the images",
        ),
        ("a.parquet", b"PAR1....", "not an IDX file of labels, it begins with 50 41 52 31"),
        ("a.gz", b"\x1f\x8bxx", "cannot be read"),
        ("a.npy", b"no array", "cannot be read"),
        ("a.csv.gz", b"no gzip", "cannot be read"),
    ],
)
def test_each_fault_has_its_message(name: str, content: bytes, sentence: str, tmp_path: Path) -> None:
    """Each fault of a file of labels is a sentence that names the file."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=sentence) as raised:
        open_labels(str(tmp_path / name), CLASSES)
    assert str(tmp_path / name) in str(raised.value)


def test_npy_that_is_not_a_list_of_labels(tmp_path: Path) -> None:
    """Images, floats and pickles are refused."""
    for values, sentence in (
        (np.zeros((2, 2), int), r"has shape \[2, 2\]"),
        (np.zeros(2), "has float64"),
        (np.array([-1, 0]), "label '-1' of row 0"),
    ):
        np.save(tmp_path / "a.npy", values)
        with pytest.raises(InputError, match=sentence):
            open_labels(str(tmp_path / "a.npy"), CLASSES)
    np.save(tmp_path / "a.npy", np.array([None]), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read: Object arrays"):
        open_labels(str(tmp_path / "a.npy"), CLASSES)
    with pytest.raises(InputError, match="No such file"):
        open_labels(str(tmp_path / "none.npy"), CLASSES)


def test_other_labels_have_another_digest(tmp_path: Path) -> None:
    """Parts that were compared with other labels can be told apart."""
    digests = set()
    for text in ("cat\ndog\n", "cat\ncat\n", "row,label\n0,cat\n1,dog\n", "row,label\n0,cat\n2,dog\n"):
        (tmp_path / "a.csv").write_text(text)
        digests.add(open_labels(str(tmp_path / "a.csv"), CLASSES).sha256)
    assert len(digests) == 4
