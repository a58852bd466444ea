"""Tables of pixels as text, in the layouts in which they are published, and what is wrong with others."""

import bz2
import gzip
import hashlib
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.support.pictures import png
from imagesets.errors import DataError
from imagesets.formats.tables.csv_files import MAX_LINE, open_csv, read_csv_labels
from imagesets.formats.tables.parquet import open_parquet
from imagesets.source import Options, RawRows, Source
from tests.imagesets.formats.tables import (
    COUNT,
    LABELS,
    label_first,
    names_of,
    numbered,
    pictures,
    text,
    whole,
    write,
)

DIGITS = [str(label) for label in LABELS.tolist()]
BY_ROW = [f"{row}x{column}" for row in range(1, 29) for column in range(1, 29)]


def last(rows: list[list[Any]]) -> list[list[Any]]:
    """Return rows with their first cell at the end."""
    return [[*row[1:], row[0]] for row in rows]


def unlabelled(rows: list[list[Any]]) -> list[list[Any]]:
    """Return rows without their first cell."""
    return [row[1:] for row in rows]


def opened(path: Path, **options: Any) -> Source:
    """Open a file that has one source."""
    (source,) = open_csv(path.name, path, Options(**options))
    assert source.count == COUNT
    return source


def amat(rows: list[list[Any]]) -> str:
    """Return rows as the variations of MNIST are: floats from 0 to 1 and the label, padded with blanks."""
    return "".join(
        "   " + "   ".join(f"{pixel / 255:.7e}" for pixel in row[1:]) + f"   {row[0]:.7e}\n" for row in rows
    )


LAYOUTS: dict[str, Callable[[], str]] = {
    "Kaggle's digit recognizer": lambda: text(label_first(), ["label", *numbered()]),
    "Fashion-MNIST, Sign Language": lambda: text(label_first(), ["label", *numbered(first=1)]),
    "MNIST in CSV": lambda: text(label_first(), ["label", *BY_ROW]),
    "HAM10000": lambda: text(last(label_first()), [*(f"pixel{i:04}" for i in range(784)), "label"]),
    "OpenML": lambda: text(last(label_first()), [*numbered(first=1), "class"]),
    "pjreddie, EMNIST: no header": lambda: text(label_first()),
    "A_Z, saved again by pandas": lambda: text(label_first(), ["0", *(f"0.{i}" for i in range(1, 785))]),
    "label last, no header": lambda: text(last(label_first())),
    "pandas without names": lambda: text(label_first(), list(map(str, range(785)))),
    "R without names": lambda: text(label_first(), [*numbered("V", 1), "V785"]),
    "variations of MNIST": lambda: amat(label_first()),
    "shuffled columns": lambda: text([row[::-1] for row in label_first()], ["label", *numbered()][::-1]),
    "TSV": lambda: text(label_first(), ["label", *numbered()], "\t"),
    "semicolons, CRLF": lambda: text(label_first(), ["label", *numbered()], ";", "\r\n"),
    "quotes": lambda: text([[f'"{cell}"' for cell in row] for row in label_first()], ["label", *numbered()]),
    "byte order mark": lambda: "\ufeff" + text(label_first(), ["label", *numbered()]),
    "byte order mark, no header": lambda: "\ufeff" + text(label_first()),
    "blank lines": lambda: "\n\n" + text(label_first(), ["label", *numbered()], end="\n\n"),
    "blank lines, no header": lambda: "\r\n" + text(label_first(), end="\r\n\r\n"),
    "a comma at the end": lambda: text([[*row, ""] for row in label_first()]),
    "floats of 0..255": lambda: text([[row[0], *map(float, row[1:])] for row in label_first()]),
    "floats of 0..1": lambda: text(
        [[float(row[0]), *(f"{pixel / 255:.4f}" for pixel in row[1:])] for row in label_first()]
    ),
    "no line end at the end": lambda: text(label_first()).rstrip(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_pixels_and_labels_that_were_written(layout: str, tmp_path: Path) -> None:
    """Whether the label is first or last, named or not, and whatever separates the cells."""
    source = opened(write(tmp_path / "a.csv", LAYOUTS[layout]()))
    np.testing.assert_array_equal(whole(source), pictures())
    assert names_of(source) == DIGITS


@pytest.mark.parametrize("header", [[], numbered(), numbered("", 0), numbered("", 1)])
def test_784_columns_have_no_labels(header: list[str], tmp_path: Path) -> None:
    """As in the digit recognizer's test.csv, and Arabic Handwritten Digits' images."""
    source = opened(write(tmp_path / "a.csv", text(unlabelled(label_first()), header)))
    np.testing.assert_array_equal(whole(source), pictures())
    assert source.labels() is None
    assert source.columns is None


def test_images_that_are_stored_by_columns_are_taken_upright(tmp_path: Path) -> None:
    """EMNIST's and Arabic Handwritten Digits' are; who opens them knows it."""
    turned = pictures().transpose(0, 2, 1).reshape(COUNT, 784).tolist()
    source = opened(write(tmp_path / "a.csv", text(turned)))
    source.transposed = True
    np.testing.assert_array_equal(whole(source), pictures())


def test_other_columns_are_passed_through(tmp_path: Path) -> None:
    """An id as a number, a font's name with a comma, a number that would lose its zeros; the label too."""
    rows = [[place, f'"font, {place}"', f"{place:03}", *row] for place, row in enumerate(label_first())]
    source = opened(
        write(tmp_path / "a.csv", text(rows, ["id", "names", "code", "labels", *numbered("", 1)]))
    )
    rest = source.take(10, 2)
    source.close()
    assert isinstance(rest, RawRows)
    assert rest.columns.to_pylist() == [
        {"id": place, "names": f"font, {place}", "code": f"{place:03}", "labels": int(LABELS[place])}
        for place in (10, 11)
    ]
    assert source.columns == rest.columns.schema
    assert names_of(source) == DIGITS
    np.testing.assert_array_equal(whole(source), pictures())


def test_an_id_is_no_label(tmp_path: Path) -> None:
    """As in Kannada-MNIST's test.csv."""
    rows = [[place, *row[1:]] for place, row in enumerate(label_first())]
    source = opened(write(tmp_path / "a.csv", text(rows, ["id", *numbered()])))
    assert source.labels() is None
    assert source.columns.names == ["id"]


@pytest.mark.parametrize("header", [[], ["character", *numbered()]])
def test_labels_may_be_names(header: list[str], tmp_path: Path) -> None:
    """A comma and a quote among them, quoted; an empty one is no label; with and without a header."""
    names = ["cat", "a,b", 'say "hi"', " dog "]
    rows = [
        [f'"{names[place % 4].replace(chr(34), chr(34) * 2)}"', *row[1:]]
        for place, row in enumerate(label_first())
    ]
    rows[5][0] = ""
    source = opened(write(tmp_path / "a.csv", text(rows, header)))
    expected: list[str | None] = [names[place % 4].strip() for place in range(COUNT)]
    expected[5] = None
    assert names_of(source) == expected
    labels = source.labels()
    assert labels is not None
    assert labels.values == ("a,b", "cat", "dog", 'say "hi"')  # noqa: PD011
    assert not labels.numeric


def test_labels_with_gaps_keep_their_numbers(tmp_path: Path) -> None:
    """Sign Language has no 9."""
    rows = [[place % 25 + (place % 25 == 9), *row[1:]] for place, row in enumerate(label_first())]
    labels = opened(write(tmp_path / "a.csv", text(rows, ["label", *numbered(first=1)]))).labels()
    assert labels is not None
    assert labels.numeric
    assert labels.numbers().tolist() == [row[0] for row in rows]


def test_a_label_column_may_be_chosen(tmp_path: Path) -> None:
    """By name, or as the first or the last column; several usual names are a doubt only where labels are asked for."""
    rows = [[*row, place % 3] for place, row in enumerate(label_first())]
    path = write(tmp_path / "a.csv", text(rows, ["label", *numbered(), "class"]))
    source = opened(path)
    np.testing.assert_array_equal(whole(source), pictures())
    with pytest.raises(DataError, match=r"'label', 'class': choose with --label-column"):
        source.labels()
    assert names_of(opened(path, label_column="class")) == [str(place % 3) for place in range(COUNT)]
    assert names_of(opened(path, label_column="first")) == DIGITS
    assert opened(path, label_column="class").columns.names == ["label", "class"]
    with pytest.raises(DataError, match="no column 'clas'; did you mean 'class'"):
        opened(path, label_column="clas")


@pytest.mark.parametrize("place", ["first", "last"])
def test_where_the_label_cannot_be_told_it_is_asked_for(place: str, tmp_path: Path) -> None:
    """A corner that is as a label is: both may be; a label that is always the same: neither is."""
    both = [[*row[:-1], row[0]] for row in label_first()]
    neither = [[3, *row[1:]] for row in label_first()]
    for rows, which in ((both, "both"), (neither, "neither")):
        path = write(tmp_path / "a.csv", text(rows))
        with pytest.raises(
            DataError, match=rf"{which} the first .* --label-column first or --label-column last"
        ):
            opened(path)
        source = opened(path, label_column=place)
        labels = source.labels()
        assert labels is not None
        column = 0 if place == "first" else -1
        assert labels.numbers().tolist() == [row[column] for row in rows]
        pixels = np.array([row[1:] if place == "first" else row[:-1] for row in rows])
        np.testing.assert_array_equal(whole(source).reshape(COUNT, 784), pixels)


@pytest.mark.parametrize("sorted_labels", [False, True])
def test_the_corner_may_have_any_pixels(sorted_labels: bool, tmp_path: Path) -> None:
    """Noise, or dark but for a few; the labels may be sorted, so that the first lines do not tell."""
    rows = label_first()
    if sorted_labels:
        rows.sort(key=lambda row: row[0])
    noise = np.random.default_rng(4).integers(0, 256, COUNT).tolist()
    for corner in (noise, [0] * (COUNT - 2) + [1, 200], [0] * (COUNT - 3) + [1, 2, 1]):
        given = [[*row[:-1], pixel] for row, pixel in zip(rows, corner, strict=True)]
        source = opened(write(tmp_path / "a.csv", text(given)))
        labels = source.labels()
        assert labels is not None
        assert labels.numbers().tolist() == [row[0] for row in rows]
        assert whole(source)[:, 27, 27].tolist() == corner


@pytest.mark.parametrize(
    ("compress", "ending"), [(gzip.compress, ".gz"), (lzma.compress, ""), (bz2.compress, ".bz2")]
)
def test_a_table_may_be_compressed(compress: Callable[[bytes], bytes], ending: str, tmp_path: Path) -> None:
    """Whatever its name; the hash is that of the text."""
    content = text(label_first()).encode()
    source = opened(write(tmp_path / f"a.csv{ending}", compress(content)))
    np.testing.assert_array_equal(whole(source), pictures())
    assert source.sha256() == {"a.csv": hashlib.sha256(content).hexdigest()}
    broken = write(tmp_path / "b.csv", compress(content)[:-40])
    with pytest.raises(DataError, match=r"b\.csv cannot be read"):
        open_csv("b.csv", broken, Options())


def with_cell(row: int, column: int, cell: object) -> list[list[Any]]:
    """Return the rows with one cell replaced."""
    rows = label_first()
    rows[row][column] = cell
    return rows


def spoiled(row: int, change: Callable[[list[Any]], list[Any]]) -> str:
    """Return a table without a header, in which one row is changed."""
    rows = label_first()
    rows[row] = change(rows[row])
    return text(rows)


HEADER = ["label", *numbered()]
WRONG: dict[str, tuple[Callable[[], str | bytes], str]] = {
    "a value of 256": (
        lambda: text(with_cell(7, 3, 256), HEADER),
        "line 9: column 'pixel2' is '256'; .*0 to 255",
    ),
    "negative": (lambda: text(with_cell(7, 3, -1)), "line 8: column 4 is '-1'"),
    "empty cell": (lambda: text(with_cell(50, 700, ""), HEADER), "line 52: column 'pixel699' is empty"),
    "NaN": (lambda: text(with_cell(0, 9, "NaN"), HEADER), "line 2: column 'pixel8' is 'NaN'"),
    "infinity": (lambda: text(with_cell(0, 9, "inf"), HEADER), "line 2: column 'pixel8' is 'inf'"),
    "text": (lambda: text(with_cell(2, 9, "x\x1b[31m")), r"line 3: column 10 is 'x\\u001b\[31m'"),
    "a fraction among whole ones": (lambda: text(with_cell(9, 400, 256.5)), "line 10: column 401 is '256.5'"),
    "in the last pixel": (lambda: text(with_cell(9, 784, 999)), "line 10: column 785 is '999'"),
    "a cell less": (lambda: spoiled(4, lambda row: row[:-1]), "line 5 has 784 cells; 785 are required"),
    "a cell more": (lambda: spoiled(4, lambda row: [*row, 0]), "line 5 has 786 cells; 785 are required"),
    "a line of commas": (lambda: spoiled(59, lambda row: [""] * len(row)), "line 60: column 2 is empty"),
    "a sentence at the end": (lambda: text(label_first()) + "the end\n", "line 61 has 1 cells"),
    "blank lines before it": (
        lambda: "\n" + text(label_first(), HEADER, end="\n\n") + "1,2\n",
        "line 124 has 2 cells; 785 are required, as in line 2",
    ),
    "an amat line": (lambda: amat(label_first()) + " 1 2\n", "line 61 has 2 cells"),
    "an open quote": (lambda: spoiled(4, lambda row: [f'"{row[0]}', *row[1:]]), "cells|quot|table"),
    "a huge line": (
        lambda: text(label_first()) + "0," * (3 * MAX_LINE) + "\n",
        f"line 61: it has more than {MAX_LINE} bytes",
    ),
    "a huge first line": (lambda: "0," * MAX_LINE, f"line 1: it has more than {MAX_LINE} bytes"),
    "no UTF-8": (
        lambda: text([["é", *row[1:]] for row in label_first()], HEADER).encode("latin-1"),
        "line 2 is not UTF-8",
    ),
    "no UTF-8 in the header": (
        lambda: text(label_first(), ["é", *numbered()]).encode("latin-1"),
        "is not UTF-8",
    ),
    "empty": (lambda: "", "is empty"),
    "blank": (lambda: "\n \r\n\n", "is empty"),
    "header only": (lambda: text([], HEADER), "has no images"),
    "header only, no line end": (lambda: text([], HEADER).strip(), "has no images"),
    "8x8": (
        lambda: text([[1] * 64 + [0]] * 3, [*(f"pixel{i:04}" for i in range(64)), "label"]),
        "images of 8x8",
    ),
    "32x32 without a header": (lambda: text([[1] * 1024] * 3), "images of 32x32"),
    "three colours": (
        lambda: text([[1] * 2353] * 3, [*(f"pixel{i:04}" for i in range(2352)), "label"]),
        "28x28 in three colours",
    ),
    "786 columns": (lambda: text([[1] * 786] * 3), "786 columns of pixels: give a table with 784"),
    "783 pixels": (lambda: text([[1] * 784] * 3, ["label", *numbered()[:-1]]), "783 columns of pixels"),
    "a gap in the columns": (
        lambda: text([[1] * 783] * 3, [*numbered()[:9], *numbered()[10:]]),
        "783 columns",
    ),
    "zeros and ones": (
        lambda: text([[row[0], *(int(p > 99) for p in row[1:])] for row in label_first()]),
        "--pixels",
    ),
    "fractional labels": (
        lambda: text([[row[0] + 0.5, *row[1:]] for row in label_first()], HEADER),
        "label 0.5 in row 0",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_with_its_line(case: str, tmp_path: Path) -> None:
    """In one sentence that names the file."""
    made, message = WRONG[case]
    path = write(tmp_path / "a.csv", made())
    with pytest.raises(DataError, match=message) as raised:
        opened(path).labels()
    assert str(raised.value).startswith("a.csv")
    assert len(str(raised.value)) < 400
    assert str(raised.value).isprintable()


def test_a_range_in_doubt_may_be_declared(tmp_path: Path) -> None:
    """Zeros and ones are black and white, or black and nearly black."""
    rows = [[row[0], *(int(pixel > 99) for pixel in row[1:])] for row in label_first()]
    path = write(tmp_path / "a.csv", text(rows))
    ink = pictures() > 99
    np.testing.assert_array_equal(whole(opened(path, pixels="0..1")), 255 * ink)
    np.testing.assert_array_equal(whole(opened(path, pixels="0..255")), ink)


def test_many_batches_are_one_source(tmp_path: Path) -> None:
    """More text than is parsed at once, compressed too, with a float in the last row."""
    images = np.random.default_rng(3).integers(0, 256, (6000, 784), dtype=np.uint8)
    rows = [[place % 10, *image] for place, image in enumerate(images.tolist())]
    rows[-1][9] = "12.0"
    images[-1, 8] = 12
    content = text(rows).encode()
    for data in (content, gzip.compress(content, 1), content.replace(b",", b" ")):
        (source,) = open_csv("a.csv", write(tmp_path / "a.csv", data), Options(label_column="first"))
        np.testing.assert_array_equal(whole(source), images.reshape(-1, 28, 28))
        assert names_of(source) == [str(place % 10) for place in range(6000)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("3\n1\n\n4\n", ["3", "1", "4"]),
        ("label\r\n3\r\n1\r\n4\r\n", ["3", "1", "4"]),
        ("\ufeffid,Label\n1,3\n2,1\n3,4\n", ["3", "1", "4"]),
        ("Ankle boot\nBag\nAnkle boot\n", ["Ankle boot", "Bag", "Ankle boot"]),
        ("0.0 0.0 1.0\n1.0 0.0 0.0\n 0.0 1.0 0.0\n", ["2", "0", "1"]),
        ("0,0,1\n1,0,0\n0,1,0\n", ["2", "0", "1"]),
    ],
)
def test_labels_may_be_in_a_table_of_their_own(content: str, expected: list[str], tmp_path: Path) -> None:
    """One column as in Arabic Handwritten Digits, a named one, or one-hot as in ARDIS."""
    column = read_csv_labels(write(tmp_path / "a.csv", content))
    assert [column.values[code] for code in column.codes] == expected  # noqa: PD011


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("1,2\n3,4\n", "not one-hot"),
        ("a,b\nc,d\n", "none of them named label: choose with --label-column"),
        ("label,class\n1,2\n", "'label', 'class': choose"),
        ("1\n2.5\n", "a.csv"),
        ("1,0\n1\n", "row 1"),
        (b"label\ncat\n\xe9t\xe9\n", "line 3 is not UTF-8"),
        (b"1\n" + b"2" * MAX_LINE + b"\n", "line 2: it has more than"),
        (b"label\n" + b"2" * (1 << 18) + b"\n", "line 2: field larger"),
    ],
)
def test_a_table_of_labels_that_is_none_is_refused(
    content: str | bytes, message: str, tmp_path: Path
) -> None:
    """With the way round."""
    with pytest.raises(DataError, match=message):
        read_csv_labels(write(tmp_path / "a.csv", content))


def test_the_same_images_are_the_same_in_every_table(tmp_path: Path) -> None:
    """CSV with and without a header, TSV, pandas', and Parquet of files, of lists and of a column for each pixel."""
    images, flat = pictures(), pictures().reshape(COUNT, 784)
    frame = pd.DataFrame(flat, columns=numbered()).assign(label=LABELS)
    frame.to_csv(tmp_path / "pandas.csv", index=False)
    frame.to_csv(tmp_path / "index.csv")
    frame.to_parquet(tmp_path / "columns.parquet")
    write(tmp_path / "bare.csv", text(label_first()))
    write(tmp_path / "named.csv", text(label_first(), ["label", *numbered()]))
    write(tmp_path / "named.tsv", text(label_first(), ["label", *numbered()], "\t"))
    label = pa.array(LABELS)
    pq.write_table(pa.table({"pixels": flat.tolist(), "label": label}), tmp_path / "lists.parquet")
    pq.write_table(pa.table({"image": images.tolist(), "label": label}), tmp_path / "nested.parquet")
    files = [{"bytes": png(image), "path": None} for image in images]
    pq.write_table(pa.table({"image": files, "label": label}), tmp_path / "files.parquet")
    for path in sorted(tmp_path.iterdir()):
        open_table = open_parquet if path.suffix == ".parquet" else open_csv
        (source,) = open_table(path.name, path, Options())
        assert names_of(source) == DIGITS, path
        assert source.count == COUNT
        if source.needs_decoding:
            rows = source.take(0, COUNT)
            source.close()
            assert isinstance(rows, RawRows)
            assert rows.files == [png(image) for image in images]
        else:
            np.testing.assert_array_equal(whole(source), images, str(path))
