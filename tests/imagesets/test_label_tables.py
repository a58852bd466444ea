"""Tables of labels: matched by the one column that fits the names, never by place if there are names."""

import gzip
import lzma
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagesets.errors import DataError
from imagesets.label_table_files import label_table_of, read_label_table
from imagesets.label_tables import LabelTable, match_found
from imagesets.labels import UNKNOWN, LabelColumn
from imagesets.lazy_strings import LazyStrings

FILES = ["train/a/1.png", "train/b/2.png", "train/b/3.png"]
NUMBERS = LazyStrings(range(3))
WANTED = ["cat", "dog", "cat"]


def table(text: str | bytes, name: str = "labels.csv", classes: tuple[str, ...] = ()) -> LabelTable:
    """Return the table in a text."""
    return label_table_of(text.encode() if isinstance(text, str) else text, name, classes=classes)


def named(column: LabelColumn) -> list[str | None]:
    """Return the label of each row."""
    return [None if code == UNKNOWN else column.values[code] for code in column.codes.tolist()]


@pytest.mark.parametrize(
    "text",
    [
        "file,label\ntrain/b/3.png,cat\ntrain/a/1.png,cat\ntrain/b/2.png,dog\n",
        "label,file\ncat,3.png\ncat,1.png\ndog,2.png\n",
        "id_code,diagnosis\n3,cat\n1,cat\n2,dog\n",
        "image_id;dx;age\n3;cat;7\n1;cat;7\n2;dog;7\n",
        "what\twhy\n3.jpg\tcat\n1.jpg\tcat\n2.jpg\tdog\n",
        "3.png,cat\n1.png,cat\n2.png,dog\n",
        "elsewhere/3.png,cat\nelsewhere/1.png,cat\nelsewhere/2.png,dog\n",
        ",file,label\n0,3.png,cat\n1,1.png,cat\n2,2.png,dog\n",
        '"file","label"\r\n"3.png","cat"\r\n"1.png","cat"\r\n"2.png","dog"\r\n',
        "\ufefffile,label\n3.png,cat\n1.png,cat\n2.png,dog\n4.png,ape\n",
        "train/a/1,cat\ntrain/b/2,dog\ntrain/b/3,cat\n",
        "image,cat,dog\n3,1,0\n1,1.0,0.0\n2,0,1\n",
    ],
)
def test_names_are_found_in_any_column_and_form(text: str) -> None:
    """Paths, names of files and stems, with a header and without, in any order and with rows of other images."""
    assert named(table(text).match(FILES, "in")) == WANTED


@pytest.mark.parametrize(
    ("name", "pack"),
    [("l.csv", bytes), ("l.csv.gz", gzip.compress), ("l.tsv.xz", lzma.compress), ("l.txt", bytes)],
)
def test_compressed_tables_are_read(name: str, pack: object, tmp_path: Path) -> None:
    """Whatever the ending, a file that is compressed is read decompressed."""
    text = b"file,label\n1,cat\n2,dog\n3,cat\n"
    text = text.replace(b",", b"\t") if ".tsv" in name else text
    (tmp_path / name).write_bytes(pack(text))  # type: ignore[operator]
    assert named(read_label_table(tmp_path / name).match(FILES, "in")) == WANTED


def test_parquet_has_columns_of_text_and_numbers(tmp_path: Path) -> None:
    """Columns of other types are not looked at; dictionaries and nulls are."""
    columns = {
        "path": pa.array(["3.png", "1.png", "2.png", None]).dictionary_encode(),
        "label": pa.array([8, 8, 9, 1]),
        "image": pa.array([b"", b"", b"", b""]),
    }
    pq.write_table(pa.table(columns), tmp_path / "l.parquet")
    found = read_label_table(tmp_path / "l.parquet").match(FILES, "in")
    assert found.numeric
    assert found.numbers().tolist() == [8, 9, 8]


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("cat\ndog\ncat\n", ()),
        ("cat\r\ndog\r\n\r\ncat", ()),
        ("Label\ncat\ndog\ncat\n", ()),
        ("target\ndog\ntarget\n", ("target", "dog")),
        ("id2,label\nx,cat\nx,dog\nx,cat\n", ()),
        ("row,label\n2,cat\n0,cat\n1,dog\n", ()),
        ("ImageId,Label\n3,cat\n1,cat\n2,dog\n", ()),
    ],
)
@pytest.mark.parametrize("rows", [NUMBERS, ["a/one.png", "a/two.png", "a/three.png"]])
def test_by_place_if_nothing_is_a_name(
    text: str, classes: tuple[str, ...], rows: Sequence[str] | LazyStrings
) -> None:
    """One label a line, or rows' numbers from 0 or 1; a column that says the same of all is no name."""
    expected = ["target", "dog", "target"] if classes else WANTED
    assert named(table(text, classes=classes).match(rows, "in")) == expected


def test_numbers_that_count_from_one_are_not_shifted() -> None:
    """All but one number would fit the rows counted from 0, each the wrong one."""
    one = table("id,label\n1,a\n2,b\n3,c\n")
    assert named(one.match(NUMBERS, "in", partial=True)) == ["a", "b", "c"]
    two = table("id,label\n1,a\n2,b\n3,c\n4,d\n")
    for partial in (True, False):
        with pytest.raises(DataError, match=r"has 2 of the 3 names of in in its column id; missing are 0"):
            two.match(NUMBERS, "in", partial=partial)


def test_rows_without_a_label_are_unknown_only_if_they_may_be() -> None:
    """The scorer allows fewer labels than rows, training does not."""
    some = table("row,label\n1,dog\n")
    assert named(some.match(NUMBERS, "in", partial=True)) == [None, "dog", None]
    with pytest.raises(
        DataError, match=r"1 of the 3 names of in in its column row; missing are 0, 2: give a label"
    ):
        some.match(NUMBERS, "in")
    empty = table("file,label\n1,dog\n2,\n3,cat\n")
    assert named(empty.match(FILES, "in", partial=True)) == ["dog", None, "cat"]
    with pytest.raises(DataError, match=r"has no label for train/b/2.png"):
        empty.match(FILES, "in")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "file,label\n1.png,cat\n2.png,dog\nx.png,cat\n",
            "has 2 of the 3 names .* column file; missing are train/b/3",
        ),
        (
            ",file,label\n0,1.png,cat\n1,2.png,dog\n2,x.png,cat\n",
            "has 2 of the 3 names .* column file; missing are",
        ),
        (
            "file,label\nx,cat\ny,dog\nz,cat\n",
            "no column of labels.csv has the names of in .*column file has 'x'",
        ),
        ("file,label\n1,cat\n2,dog\n3,cat\n1,dog\n", "labels.csv has '1' in column file more than once"),
        ("a,b,label\n1,3,cat\n2,2,dog\n3,1,cat\n", "columns a and b both fit the names of in and differ"),
        (
            "file,label,class\n1,cat,a\n2,dog,b\n3,cat,c\n",
            "several columns of labels: label, class; .*--label-column",
        ),
        (
            "file,x,y2\n1,cat,a\n2,dog,b\n3,cat,c\n",
            "columns file, x, y2, and none is called .*--label-column",
        ),
        ("file,a,b\n1,1,0\n2,1,1\n3,0,1\n", "none is called"),
        ("file,split,label\n1,train,a\n2,what,b\n3,test,a\n", "column split: 'what' is no part"),
        ("cat\ndog\n", "has 2 labels and in 3 rows"),
        ("cat\ndog,cat\n", "lines of 1 and of 2 cells"),
        ("file,label\n1\n", "lines of 2 and of 1 cells"),
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("file,label\n", "has a header and no rows"),
        (b"\xff\xfea", "not UTF-8"),
        (b"file,label\n1,\xff\n", "cannot be read"),
    ],
)
def test_each_fault_has_its_message(text: str | bytes, sentence: str) -> None:
    """What is missing, ambiguous or damaged is a sentence that names the table, and never taken by place."""
    with pytest.raises(DataError, match=sentence) as raised:
        table(text).match(FILES, "in")
    assert "labels.csv" in str(raised.value)


def test_a_name_that_is_there_twice_is_refused() -> None:
    """By the name that is in the table twice, and by two images of one name in different folders."""
    with pytest.raises(DataError, match=r"has '1\.png' in column file more than once"):
        table("file,label\n1.png,a\n2.png,b\n3.png,a\n1.png,b\n").match(FILES, "in")
    again = table("file,label\n1.png,a\n2.png,b\n")
    with pytest.raises(DataError, match="no column"):
        again.match(["a/1.png", "b/1.png"], "in")
    with pytest.raises(DataError, match=r"one label for a/1 and b/1: give the images' paths"):
        match_found([again], ["a/1.png", "b/1.png"], "in")


def test_the_label_column_may_be_named() -> None:
    """Of several, and one that would be taken for the names' own."""
    two = table("file,label,class\n1,cat,a\n2,dog,b\n3,cat,c\n")
    assert named(two.match(FILES, "in", label_column="class")) == ["a", "b", "c"]
    with pytest.raises(DataError, match="has no column 'klass': it has file, label, class"):
        two.match(FILES, "in", label_column="klass")


def test_labels_that_are_numbers_stay_numbers() -> None:
    """Whole floats too, in the order of their size."""
    found = table("file,label\n1,10\n2,9.0\n3,10.0\n").match(FILES, "in")
    assert found.numeric
    assert found.values == ("9", "10")
    assert found.numbers().tolist() == [10, 9, 10]


def test_one_column_for_each_class() -> None:
    """The columns' names are the classes, in their order, those without an image too."""
    found = table("image,MEL,NV,UNK\n1,1.0,0.0,0.0\n2,0.0,1.0,0.0\n3,1.0,0.0,0.0\n").match(FILES, "in")
    assert found.values == ("MEL", "NV", "UNK")
    assert named(found) == ["MEL", "NV", "MEL"]


def test_a_column_of_parts() -> None:
    """`split`, `usage` and the like say which part each image is."""
    match = table("file,Usage,label\n1,Training,a\n2,test,b\n3,valid,a\n").match_rows(FILES, "in")
    assert match.parts is not None
    assert match.parts.tolist() == [0, 2, 1]
    assert named(match.labels) == ["a", "b", "a"]


def test_tables_beside_images_are_for_the_folders_that_they_name() -> None:
    """`train.csv` for `train_images/`; images that no table names have no label."""
    names = ["train_images/1.png", "train_images/2.png", "test_images/1.png"]
    tables = [table("id_code,diagnosis\n2,b\n1,a\n", "train.csv"), table("id_code\n1\n", "test.csv")]
    labels, parts = match_found(tables, names, "in")
    assert named(labels) == ["a", "b", None]
    assert parts.tolist() == [0, 0, UNKNOWN]


def test_tables_beside_images_are_never_matched_by_place() -> None:
    """One label a line says nothing of the files of a folder; two tables that differ are refused."""
    with pytest.raises(DataError, match="no column with the names"):
        match_found([table("a\nb\na\n")], FILES, "in")
    first, second = (
        table("file,label\n1,a\n2,b\n3,a\n", "one.csv"),
        table("file,label\n1,a\n2,b\n3,b\n", "two.csv"),
    )
    with pytest.raises(DataError, match=r"one.csv and two.csv both have labels"):
        match_found([first, second], FILES, "in")


def test_a_million_rows_in_any_order() -> None:
    """By name, in columns and not row by row."""
    count = 1_000_000
    order = np.random.default_rng(0).permutation(count)
    text = "file,label\n" + "".join(f"{number}.png,{number % 7}\n" for number in order.tolist())
    rows = [f"some/folder/{number}.png" for number in range(count)]
    found = table(text).match(rows, "in")
    assert np.array_equal(found.numbers(), np.arange(count) % 7)


def test_what_is_no_file_of_labels_is_refused(tmp_path: Path) -> None:
    """A folder, a named pipe, nothing, and damage."""
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "l.csv.gz").write_bytes(gzip.compress(b"file,label\n" * 99)[:-9])
    (tmp_path / "l.parquet").write_bytes(b"PAR1")
    for name, sentence in {
        "": "is not a regular file",
        "pipe.csv": "is not a regular file",
        "none.csv": "No such file",
        "l.csv.gz": "cannot be read",
        "l.parquet": "cannot be read",
    }.items():
        with pytest.raises(DataError, match=sentence):
            read_label_table(tmp_path / name)


@settings(
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.binary(max_size=200) | st.text('ab,"\n;\t10.', max_size=60).map(str.encode))
def test_any_bytes_are_a_table_or_a_sentence(data: bytes) -> None:
    """No bytes give anything but labels or a `DataError`."""
    with suppress(DataError):
        assert len(table(data).match(NUMBERS, "in", partial=True)) == 3


def test_a_column_for_each_class_may_be_named_as_the_class_is() -> None:
    """A header is told by the usual names in it, although the model's classes are there too."""
    for names in (("0", "1"), ("cat", "dog")):
        data = f"row,{','.join(names)}\n2,1,0\n0,0,1\n1,1,0\n".encode()
        table = label_table_of(data, "labels.csv", classes=names)
        labels = table.match(["0", "1", "2"], "the input")
        assert [labels.values[code] for code in labels.codes] == [names[1], names[0], names[0]]
    assert not label_table_of(b"label\ncat\n", "labels.csv", classes=("label", "cat")).headed
