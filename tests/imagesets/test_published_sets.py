"""Published sets are read as they are: upright, with every label by name, in their parts; docs/data.md lists them."""

import io
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, UnidentifiedImageError

from bench.support.published_sets import SETS, MadePart, PublishedSet, enter_labels
from imagesets.errors import DataError
from imagesets.image_set import open_set
from imagesets.labels import UNKNOWN, LabelColumn, merged
from imagesets.names import known_sets
from imagesets.source import Options, RawRows, Source

DOCUMENT = Path(__file__).parents[2] / "docs" / "data.md"
Pixels = npt.NDArray[np.uint8]


def decoded(data: bytes | str) -> Pixels | None:
    """Return an image file's pixels, None if it cannot be decoded."""
    assert isinstance(data, bytes), data
    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("L"))
    except UnidentifiedImageError:
        return None


def images_of(source: Source) -> list[Pixels | None]:
    """Return all images of a source, read in two slices."""
    images: list[Pixels | None] = []
    for first, last in pairwise((0, source.count // 2, source.count)):
        rows = source.take(first, last - first)
        if isinstance(rows, RawRows) and rows.pixels is not None:
            assert not rows.errors
            images += [*rows.pixels]
            continue
        files = rows.files if isinstance(rows, RawRows) else rows.read()
        assert files is not None
        images += map(decoded, files)
    source.close()
    return images


def labels_of_part(sources: Sequence[Source]) -> LabelColumn | None:
    """Return the labels of all sources of a part, None if they have none."""
    columns = [source.labels() for source in sources]
    known = [column for column in columns if column is not None]
    assert len(known) in (0, len(columns))
    return merged(known) if known else None


def check_part(
    row: PublishedSet, made: MadePart, sources: Sequence[Source], labels: LabelColumn | None
) -> None:
    """Compare a part's images and labels with what was written, in the order of the file."""
    images = [image for source in sources for image in images_of(source)]
    texts = [""] * len(images)
    if labels is not None:
        assert UNKNOWN not in labels.codes
        texts = [labels.values[code] for code in labels.codes]
    names = [row.classes[label] if labels is not None else "" for label in made.labels.tolist()]
    expected = [(name, image.tobytes()) for name, image in zip(names, made.images, strict=True)]
    found = [(text, image.tobytes()) for text, image in zip(texts, images, strict=True) if image is not None]
    if any(source.needs_decoding for source in sources):  # folders are in the order of their names
        expected, found = sorted(expected), sorted(found)
    assert len(images) - len(found) == row.broken
    assert [text for text, _ in found] == [text for text, _ in expected]
    assert found == expected


@pytest.mark.parametrize("title", SETS)
def test_a_published_set_is_read_as_its_authors_meant_it(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images are upright and equal to those written, the labels named, the parts and classes the set's own."""
    row = SETS[title]
    made = row.make()
    row.write(tmp_path, made)
    if row.by_labels:
        monkeypatch.setattr(known_sets, "LABELS_SHA256", enter_labels(row, made))
    spec = row.spec.format(tmp_path)
    if row.refused:
        with pytest.raises(DataError, match=row.refused):
            labels_of_part(open_set(spec, Options()).sources)
        return
    found = open_set(spec, Options(pixels=row.pixels))
    parts = {source.part for source in found.sources}
    assert parts == ({None} if row.one_part else set(row.parts))
    columns = {part: labels_of_part(found.part(part)) for part in row.parts}
    for part, content in made.items():
        assert (columns[part] is None) == (part in row.unlabelled)
        check_part(row, content, found.part(part), columns[part])
    labelled = [column for column in columns.values() if column is not None]
    if labelled:
        assert merged(labelled).values == tuple(row.classes.values())
    if row.name:
        known = found.known()
        assert known is not None
        assert known.name == row.name


def test_labels_say_more_than_a_folders_name_and_the_user_more_than_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KMNIST has MNIST's file names, and is unpacked into a folder called mnist."""
    row = SETS["KMNIST, IDX"]
    made = row.make()
    folder = tmp_path / "mnist"
    row.write(folder, made)
    monkeypatch.setattr(known_sets, "LABELS_SHA256", enter_labels(row, made))
    for spec, name in ((folder, "kmnist"), (f"{folder}#mnist", "mnist")):
        found = open_set(str(spec), Options())
        labels = labels_of_part(found.part("training"))
        assert labels is not None
        assert labels.values == known_sets.KNOWN[name].classes


@pytest.mark.parametrize(
    ("title", "chosen", "known"),
    [
        ("HAM10000", "ham10000", "ham10000"),
        ("Kuzushiji-49, Kaggle kuzushiji", "kuzushiji-49", "kuzushiji-49"),
        ("Kuzushiji-49, Kaggle kuzushiji", "kmnist", "kmnist"),
        ("EMNIST Letters, IDX", "emnist-digits", "emnist-digits"),
        ("KMNIST, IDX", "kmnist", "kmnist"),
    ],
)
def test_a_set_in_a_folder_is_chosen_by_the_known_sets_name(
    title: str, chosen: str, known: str, tmp_path: Path
) -> None:
    """Or by what its files' names begin with."""
    row = SETS[title]
    row.write(tmp_path, row.make())
    found = open_set(f"{tmp_path}#{chosen}", Options()).known()
    assert found is not None
    assert found.name == known


@pytest.mark.parametrize("chosen", ["FashionMNIST", "fashion-mnist"])
def test_a_set_of_torchvisions_is_chosen_by_its_folder(chosen: str, tmp_path: Path) -> None:
    """There are several in one folder, with the same names of files, in folders called raw."""
    row = SETS["Fashion-MNIST, IDX"]
    made = row.make()
    row.write(tmp_path / "FashionMNIST" / "raw", made)
    row.write(tmp_path / "MNIST" / "raw", SETS["MNIST, IDX"].make())
    with pytest.raises(
        DataError, match=r"has several sets, 'FashionMNIST', 'MNIST': choose one, as in .*#MNIST"
    ):
        open_set(str(tmp_path), Options())
    found = open_set(f"{tmp_path}#{chosen}", Options())
    labels = labels_of_part(found.part("training"))
    assert labels is not None
    assert labels.values == tuple(row.classes.values())
    check_part(row, made["training"], found.part("training"), labels)


def test_the_documents_table_and_the_tests_have_the_same_sets() -> None:
    """Each line of docs/data.md has a test, and each test a line."""
    table = DOCUMENT.read_text(encoding="utf-8").partition("## Published sets")[2]
    lines = re.findall(r"^\| ([^|]+?) +\| ", table, re.MULTILINE)
    assert [line for line in lines if line != "set"] == [
        *dict.fromkeys(SETS[title].line or title for title in SETS)
    ]
