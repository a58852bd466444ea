"""Parquet files of image files, of lists of numbers, and of a column for each pixel, with their labels."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.support.pictures import png
from imagesets.errors import DataError
from imagesets.formats.tables.parquet import open_parquet
from imagesets.source import Options, RawRows, Source
from tests.imagesets.formats.tables import COUNT, LABELS, names_of, numbered, pictures, whole

NAMES = [
    "T - shirt / top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]
DIGITS = [str(label) for label in LABELS.tolist()]
FLAT = pictures().reshape(COUNT, 784)
FILES = [png(image) for image in pictures()]
STRUCTS = [{"bytes": file, "path": None} for file in FILES]


def opened(path: Path, **options: Any) -> Source:
    """Open a file that has one source."""
    (source,) = open_parquet(path.name, path, Options(**options))
    return source


def table(path: Path, columns: dict[str, Any], metadata: dict[str, Any] | None = None) -> Path:
    """Write columns in row groups of 25 rows."""
    encoded = {key: json.dumps(value) for key, value in (metadata or {}).items()}
    pq.write_table(pa.table(columns).replace_schema_metadata(encoded), path, row_group_size=25)
    return path


def rows_of(source: Source, first: int = 0, count: int | None = None) -> RawRows:
    """Return rows, and close the source."""
    try:
        rows = source.take(first, source.count if count is None else count)
    finally:
        source.close()
    assert isinstance(rows, RawRows)
    return rows


def hugging_face(label: dict[str, Any], **others: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata that Hugging Face's `datasets` writes."""
    return {"huggingface": {"info": {"features": {"image": {"_type": "Image"}, "label": label, **others}}}}


@pytest.mark.parametrize("old", [False, True])
def test_hugging_faces_files_have_their_own_class_names(old: bool, tmp_path: Path) -> None:
    """All of them, in the file's order, those of no image too; -1 is a row without a label."""
    feature: dict[str, Any] = {"names": NAMES, "_type": "ClassLabel"}
    if old:
        feature = {"num_classes": 10, "names": NAMES, "names_file": None, "id": None, "_type": "ClassLabel"}
    label = np.where(LABELS == 9, 0, LABELS)
    label[3] = -1
    path = table(tmp_path / "a.parquet", {"image": STRUCTS, "label": label}, hugging_face(feature))
    source = opened(path)
    assert names_of(source) == [None if place == 3 else NAMES[number] for place, number in enumerate(label)]
    labels = source.labels()
    assert labels is not None
    assert labels.values == tuple(NAMES)  # noqa: PD011
    assert rows_of(source).files == FILES


def test_a_number_beyond_the_class_names_is_an_error(tmp_path: Path) -> None:
    """It names the column and the number."""
    feature = {"names": NAMES[:5], "_type": "ClassLabel"}
    path = table(tmp_path / "a.parquet", {"image": STRUCTS, "label": LABELS}, hugging_face(feature))
    source = opened(path)
    with pytest.raises(DataError, match=r"column 'label' has label 5; there are 5 classes"):
        source.labels()
    source.close()
    path = table(tmp_path / "b.parquet", {"image": STRUCTS, "label": DIGITS}, hugging_face(feature))
    source = opened(path)
    assert names_of(source) == DIGITS  # text has no numbers that could be named
    source.close()


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        hugging_face({"dtype": "int64", "_type": "Value"}),
        hugging_face({"num_classes": 10, "_type": "ClassLabel"}),
        {"huggingface": None},
        {"huggingface": {"info": [1]}},
        {"huggingface": {"info": {"features": {"label": {"_type": "ClassLabel", "names": [1, None]}}}}},
        {"pandas": {"columns": [None, {"name": []}]}},
    ],
)
def test_without_class_names_the_labels_are_numbers(metadata: dict[str, Any], tmp_path: Path) -> None:
    """Whatever the metadata hold instead."""
    source = opened(table(tmp_path / "a.parquet", {"image": STRUCTS, "label": LABELS}, metadata))
    labels = source.labels()
    assert labels is not None
    assert labels.numeric
    assert labels.numbers().tolist() == LABELS.tolist()
    source.close()


def test_a_column_of_classes_is_the_label_by_its_type(tmp_path: Path) -> None:
    """Whatever its name; of two, none is."""
    one = {"names": NAMES, "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, "coarse": one, "kind": one}
    metadata = {"huggingface": {"info": {"features": features}}}
    source = opened(table(tmp_path / "a.parquet", {"image": STRUCTS, "kind": LABELS}, metadata))
    assert names_of(source) == [NAMES[label] for label in LABELS]
    source.close()
    path = table(tmp_path / "b.parquet", {"image": STRUCTS, "kind": LABELS, "coarse": LABELS // 2}, metadata)
    source = opened(path)
    with pytest.raises(DataError, match="in coarse, kind: choose with --label-column"):
        source.labels()
    source.close()
    source = opened(path, label_column="coarse")
    assert names_of(source) == [NAMES[label // 2] for label in LABELS]
    source.close()


@pytest.mark.parametrize("image", ["jpg", "png", "img", "anything"])
@pytest.mark.parametrize("structs", [False, True])
def test_a_converted_web_dataset_is_read(image: str, structs: bool, tmp_path: Path) -> None:
    """Its columns are called by the files' endings; bytes, or structs of bytes and path."""
    columns = {"__key__": list(map(str, range(COUNT))), image: STRUCTS if structs else FILES, "cls": LABELS}
    source = opened(table(tmp_path / "a.parquet", columns))
    assert names_of(source) == DIGITS
    rows = rows_of(source, 30, 10)
    assert rows.files == FILES[30:40]
    assert rows.columns.to_pylist() == [
        {"__key__": str(row), "cls": int(LABELS[row])} for row in range(30, 40)
    ]


def test_a_null_image_is_a_row_with_an_error(tmp_path: Path) -> None:
    """A struct that is null, or whose bytes are; and in lists."""
    files = [STRUCTS[0], None, {"bytes": None, "path": "a.png"}, STRUCTS[3]]
    rows = rows_of(opened(table(tmp_path / "a.parquet", {"image": files})))
    assert rows.files == [FILES[0], "the image is null", "the image is null", FILES[3]]
    rows = rows_of(
        opened(table(tmp_path / "b.parquet", {"image": [FLAT[0].tolist(), None, FLAT[2].tolist()]}))
    )
    assert rows.errors == {1: "the image is null"}
    assert rows.pixels is not None
    np.testing.assert_array_equal(rows.pixels[[0, 2]], pictures()[[0, 2]])


def test_several_columns_of_images_are_ambiguous(tmp_path: Path) -> None:
    """`--column` chooses; a usual name among others is taken."""
    path = table(tmp_path / "a.parquet", {"left": FILES, "right": FILES[::-1], "label": LABELS})
    with pytest.raises(DataError, match="ambiguous between left, right: choose with --column"):
        opened(path)
    assert rows_of(opened(path, column="right")).files == FILES[::-1]
    with pytest.raises(DataError, match="no column 'rigth'; did you mean 'right'"):
        opened(path, column="rigth")
    with pytest.raises(DataError, match="'label' is int64; images are bytes or 784 numbers"):
        opened(path, column="label")
    path = table(tmp_path / "b.parquet", {"embedding": FLAT[:, :5].tolist(), "image": FILES, "y": LABELS})
    assert rows_of(opened(path)).files == FILES


@pytest.mark.parametrize("kind", ["uint8", "int64", "float32", "0..1", "0..1 of two bytes"])
@pytest.mark.parametrize("shape", ["lists", "nested", "fixed", "tensor", "columns"])
def test_numbers_of_any_type_and_shape_are_the_pixels(kind: str, shape: str, tmp_path: Path) -> None:
    """Lists of 784, 28 lists of 28, of fixed size, tensors, and a column for each pixel."""
    dtype = np.dtype({"0..1": "float64", "0..1 of two bytes": "float16"}.get(kind, kind))
    values = (FLAT / (255 if "0..1" in kind else 1)).astype(dtype)
    element = pa.from_numpy_dtype(dtype)
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 784)
    columns: dict[str, Any] = {
        "lists": lambda: {"x": pa.array(values.tolist(), pa.list_(element))},
        "nested": lambda: {"x": pa.array(values.reshape(-1, 28, 28).tolist(), pa.list_(pa.list_(element)))},
        "fixed": lambda: {"x": fixed},
        "tensor": lambda: {
            "x": pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(element, [28, 28]), fixed)
        },
        "columns": lambda: dict(zip(numbered(), values.T, strict=True)),
    }[shape]()
    source = opened(table(tmp_path / "a.parquet", columns | {"digit": LABELS}))
    assert names_of(source) == DIGITS
    assert source.columns.names == ["digit"]
    np.testing.assert_array_equal(whole(source), pictures())
    source.transposed = True
    np.testing.assert_array_equal(whole(source), pictures().transpose(0, 2, 1))


@pytest.mark.parametrize("shape", ["lists", "columns"])
def test_a_range_is_judged_once_for_the_whole_column(shape: str, tmp_path: Path) -> None:
    """Zeros and ones are refused unless they are declared; a row that is nearly black is not taken for 0..1."""

    def written(values: Any) -> Path:
        lists = shape == "lists"
        columns = {"x": values.tolist()} if lists else dict(zip(numbered(), values.T, strict=True))
        return table(tmp_path / "a.parquet", columns)

    ink = (FLAT > 99).astype(np.float64)
    path = written(ink)
    with pytest.raises(DataError, match=r"a\.parquet.* --pixels 0\.\.1"):
        opened(path)
    np.testing.assert_array_equal(whole(opened(path, pixels="0..1")).reshape(COUNT, 784), ink * 255)
    np.testing.assert_array_equal(whole(opened(path, pixels="0..255")).reshape(COUNT, 784), ink)
    dark = FLAT.astype(np.float32)
    dark[:40] = ink[:40]
    np.testing.assert_array_equal(whole(opened(written(dark))).reshape(COUNT, 784), dark)
    smooth = FLAT.astype(np.float32) * np.float32(0.9)
    np.testing.assert_array_equal(whole(opened(written(smooth))).reshape(COUNT, 784), np.rint(smooth))
    with pytest.raises(DataError, match=r"declared as 0\.\.1"):
        opened(written(dark), pixels="0..1")


def test_bad_rows_of_lists_have_an_error(tmp_path: Path) -> None:
    """A wrong number of numbers, one out of range, a fraction among whole numbers, a null among them."""
    image = FLAT[0].astype(float).tolist()
    column = [
        image,
        image[:783],
        [256, *image[1:]],
        [0.5, *image[1:]],
        [None, *image[1:]],
        [-1.0, *image[1:]],
        image,
    ]
    rows = rows_of(
        opened(table(tmp_path / "a.parquet", {"pixels": pa.array(column, pa.list_(pa.float64()))}))
    )
    assert {row: error.split(";")[0] for row, error in rows.errors.items()} == {
        1: "the image is a list of 783 numbers",
        2: "pixel 0 is 256",
        3: "pixel 0 is 0.5",
        4: "pixel 0 is nan",
        5: "pixel 0 is -1",
    }
    assert rows.pixels is not None
    np.testing.assert_array_equal(rows.pixels[[0, 6]], pictures()[[0, 0]])


def test_a_bad_cell_of_a_column_of_pixels_is_named(tmp_path: Path) -> None:
    """With its row and column: null, beyond 255, text."""
    cells: tuple[tuple[Any, str], ...] = (
        (None, "row 41 of column 'pixel7' is empty"),
        (256, "row 41 of column 'pixel7' is 256"),
    )
    for value, message in cells:
        columns: dict[str, Any] = dict(zip(numbered(), FLAT.T.astype(int).tolist(), strict=True))
        columns["pixel7"][41] = value
        with pytest.raises(DataError, match=message):
            opened(table(tmp_path / "a.parquet", columns))
    text: dict[str, Any] = {**dict(zip(numbered(), FLAT.T, strict=True)), "pixel7": ["x"] * COUNT}
    with pytest.raises(DataError, match=r"a\.parquet"):
        opened(table(tmp_path / "a.parquet", text))


@pytest.mark.parametrize("ordered", [False, True])
def test_pandas_categories_keep_their_order(ordered: bool, tmp_path: Path) -> None:
    """Those without an image too; OpenML's frames have them."""
    frame = pd.DataFrame(FLAT.astype(np.int64), columns=numbered(first=1))
    frame["class"] = pd.Categorical.from_codes(
        np.where(LABELS == 4, -1, LABELS), NAMES[::-1], ordered=ordered
    )
    frame.to_parquet(tmp_path / "a.parquet", row_group_size=25)
    source = opened(tmp_path / "a.parquet")
    labels = source.labels()
    assert labels is not None
    assert labels.values == tuple(NAMES[::-1])  # noqa: PD011
    assert names_of(source) == [None if label == 4 else NAMES[::-1][label] for label in LABELS]
    np.testing.assert_array_equal(whole(source), pictures())


@pytest.mark.parametrize(
    "kind",
    [
        "text",
        "large text",
        "dictionary",
        "numbers as text",
        "floats",
        "nulls",
        "booleans",
        "numbers' categories",
    ],
)
def test_labels_of_every_type_are_read(kind: str, tmp_path: Path) -> None:
    """Names are sorted by their text, numbers stay numbers, and null is no label."""
    names = [NAMES[label] for label in LABELS]
    column: Any = {
        "text": pa.array(names),
        "large text": pa.array(names, pa.large_string()),
        "dictionary": pa.array(names).dictionary_encode(),
        "numbers as text": pa.array(DIGITS),
        "floats": pa.array(LABELS.astype(np.float64)),
        "nulls": pa.array([None, *LABELS.tolist()[1:]], pa.int16()),
        "booleans": pa.array(LABELS > 4),
        "numbers' categories": pa.array(LABELS).dictionary_encode(),
    }[kind]
    expected: list[str | None] = (
        [*names] if column.type in (pa.string(), pa.large_string()) or kind == "dictionary" else [*DIGITS]
    )
    if kind == "numbers as text":
        expected = [*DIGITS]
    if kind == "nulls":
        expected[0] = None
    if kind == "booleans":
        expected = [str(int(label > 4)) for label in LABELS]
    source = opened(table(tmp_path / "a.parquet", {"image": FILES, "target": column}))
    assert names_of(source) == expected
    labels = source.labels()
    assert labels is not None
    assert labels.numeric == (expected[1] not in NAMES)
    if not labels.numeric:
        assert labels.values == tuple(sorted(set(names)))  # noqa: PD011
    source.close()


def test_labels_that_are_none_are_refused(tmp_path: Path) -> None:
    """Fractions and lists of several lengths; lists are not taken for labels by their name."""
    source = opened(table(tmp_path / "a.parquet", {"image": FILES, "label": LABELS + 0.5}))
    with pytest.raises(DataError, match=r"a\.parquet, column 'label' has the label 0\.5 in row 0"):
        source.labels()
    source.close()
    lists = [list(range(row % 3)) for row in range(COUNT)]
    path = table(tmp_path / "b.parquet", {"image": FILES, "labels": pa.array(lists, pa.list_(pa.int64()))})
    source = opened(path)
    assert source.labels() is None
    source.close()
    source = opened(path, label_column="labels")
    with pytest.raises(DataError, match="column 'labels'"):
        source.labels()
    source.close()
    one_hot = np.eye(10, dtype=int)[LABELS].tolist()
    source = opened(table(tmp_path / "c.parquet", {"image": FILES, "hot": one_hot}), label_column="hot")
    assert names_of(source) == DIGITS
    source.close()


def test_other_columns_of_a_table_of_pixels_are_passed_through(tmp_path: Path) -> None:
    """With their types; an id is no label; the pixels may be in any order."""
    columns: dict[str, Any] = dict(zip(numbered()[::-1], FLAT.T[::-1], strict=True))
    when = pa.array(range(COUNT), pa.timestamp("us", "UTC"))
    source = opened(
        table(tmp_path / "a.parquet", {"id": pa.array(range(COUNT), pa.int16()), "when": when, **columns})
    )
    assert source.labels() is None
    assert source.columns == pa.schema({"id": pa.int16(), "when": pa.timestamp("us", "UTC")})
    rows = rows_of(source, 20, 3)
    assert rows.columns.column("id").to_pylist() == [20, 21, 22]
    np.testing.assert_array_equal(whole(source), pictures())


def test_unnamed_columns_are_told_apart_by_their_content(tmp_path: Path) -> None:
    """As pandas saves a frame without names; both a doubt and a choice are as in CSV."""
    columns = {str(place): values for place, values in enumerate([LABELS, *FLAT.T])}
    source = opened(table(tmp_path / "a.parquet", columns))
    assert names_of(source) == DIGITS
    np.testing.assert_array_equal(whole(source), pictures())
    path = table(tmp_path / "b.parquet", columns | {"784": LABELS})
    with pytest.raises(DataError, match="--label-column first or --label-column last"):
        opened(path)
    assert names_of(opened(path, label_column="last")) == DIGITS


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    """By their size."""
    columns: dict[str, Any] = {f"pixel{place}": np.zeros(3, np.uint8) for place in range(1024)}
    with pytest.raises(DataError, match="32x32"):
        opened(table(tmp_path / "a.parquet", columns | {"label": [0, 1, 2]}))


@pytest.mark.parametrize("shape", ["files", "lists", "columns"])
def test_a_damaged_file_is_an_error(shape: str, tmp_path: Path) -> None:
    """Cut off, or with its pages overwritten: a sentence that names it."""
    kinds: dict[str, dict[str, Any]] = {
        "files": {"image": FILES},
        "lists": {"image": FLAT.tolist()},
        "columns": dict(zip(numbered(), FLAT.T, strict=True)),
    }
    columns = kinds[shape]
    path = table(tmp_path / "a.parquet", columns | {"label": [str(label) * 9 for label in LABELS]})
    data = path.read_bytes()
    path.write_bytes(data[:-9])
    with pytest.raises(DataError, match=r"a\.parquet is not a Parquet file, or damaged"):
        opened(path)
    path.write_bytes(data[:4] + b"\xff" * (len(data) // 3) + data[4 + len(data) // 3 :])
    with pytest.raises(DataError, match=r"a\.parquet"):
        rows_of(opened(path))


def test_a_columns_name_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    """The library's own exception for it is not one of Parquet's."""
    path = table(tmp_path / "a.parquet", {"image": FILES, "kinds": LABELS})
    path.write_bytes(path.read_bytes().replace(b"kinds", b"kin\xff\xfe"))
    with pytest.raises(DataError, match=r"a\.parquet"):
        opened(path).close()


def test_a_file_without_rows_has_no_images(tmp_path: Path) -> None:
    """A source of none where the images are one column, and an error where the pixels are."""
    source = opened(table(tmp_path / "a.parquet", {"image": pa.array([], pa.list_(pa.float32()))}))
    assert source.count == 0
    source.close()
    with pytest.raises(DataError, match="has no images"):
        opened(table(tmp_path / "b.parquet", {name: pa.array([], pa.uint8()) for name in numbered()}))


def test_without_pyarrow_its_package_is_named() -> None:
    """Where training was installed without it; the modules can be imported."""
    script = (
        "import sys, pathlib\n"
        "sys.modules['pyarrow'] = None\n"
        "from imagesets.formats.tables import csv_files, parquet\n"
        "from imagesets.source import Options\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "try:\n"
        "    parquet.open_parquet('a', path, Options())\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, __file__], capture_output=True, text=True, check=False
    )
    assert (
        run.stdout.strip()
        == 'DataError a is read by pyarrow, which is not installed: pip install "glyph[data]"'
    ), run
