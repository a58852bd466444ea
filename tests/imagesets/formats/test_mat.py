"""MATLAB files: EMNIST's structure and plain variables; what they claim is checked before SciPy allocates it."""

import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.io import savemat

from imagesets.errors import DataError
from imagesets.formats.arrays import mat
from imagesets.formats.arrays.mat import open_mat, read_mat_labels
from imagesets.opening import open_file
from imagesets.source import Options, Source

Images = npt.NDArray[np.uint8]


def images_of(count: int, seed: int = 0) -> Images:
    """Return images without symmetry."""
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28), np.uint8)


def taken(source: Source) -> Images:
    """Return all images of a source."""
    rows = source.take(0, source.count)
    source.close()
    return rows.pixels  # type: ignore[union-attr,return-value]


def texts_of(source: Source) -> list[str]:
    """Return the label of each image as text."""
    column = source.labels()
    assert column is not None
    return [column.values[code] for code in column.codes]


def emnist(path: Path, train: Images, test: Images, mapping: Any, label_type: str = "f8") -> None:
    """Write a file as NIST publishes EMNIST: rows column by column, labels [n, 1], in structures of one element."""

    def part(images: Images, first: int) -> dict[str, Any]:
        numbers = first + np.arange(len(images)) % len(mapping)
        return {
            "images": images.transpose(0, 2, 1).reshape(len(images), 784),
            "labels": numbers[:, None].astype(label_type),
            "writers": np.arange(len(images), dtype="f8")[:, None],
        }

    first = int(mapping[0][0])
    content = {"train": part(train, first), "test": part(test, first), "mapping": np.array(mapping, "f8")}
    savemat(path, {"dataset": content}, do_compression=True)


@pytest.mark.parametrize("label_type", ["f8", "u1"])
def test_emnists_structure_has_both_parts_upright_with_the_letters_of_its_mapping(
    label_type: str, tmp_path: Path
) -> None:
    """Letters are numbered from 1, and the first of their codes is the upper case."""
    train, test = images_of(7), images_of(3, seed=1)
    emnist(tmp_path / "emnist-letters.mat", train, test, [(1, 65, 97), (2, 66, 98), (3, 67, 99)], label_type)
    training, testing = open_mat("emnist", tmp_path / "emnist-letters.mat", Options())
    assert (training.part, testing.part) == ("training", "test")
    np.testing.assert_array_equal(taken(training), train)
    np.testing.assert_array_equal(taken(testing), test)
    assert texts_of(training) == list("ABCABCA")
    assert texts_of(testing) == list("ABC")


def test_emnists_structure_is_upright_whatever_the_file_is_called(tmp_path: Path) -> None:
    """The structure tells what the name does not."""
    train = images_of(4)
    emnist(tmp_path / "mine.mat", train, images_of(2), [(0, 48), (1, 49)])
    np.testing.assert_array_equal(taken(open_file("mine", tmp_path / "mine.mat", Options())[0]), train)


@pytest.mark.parametrize(
    "shape",
    [
        lambda images: np.moveaxis(images, 0, -1),
        lambda images: np.moveaxis(images, 0, -1)[:, :, None],
        lambda images: images,
        lambda images: images[..., None],
        lambda images: images.reshape(-1, 784),
        lambda images: images.reshape(-1, 784).T,
    ],
    ids=["28x28xn", "28x28x1xn", "nx28x28", "nx28x28x1", "nx784", "784xn"],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_the_axis_of_the_images_is_the_last_or_the_first(
    shape: Callable[[Images], Images], compressed: bool, tmp_path: Path
) -> None:
    """As MATLAB and as Python have it; labels are a row or a column."""
    images, labels = images_of(5), np.array([3, 1, 4, 1, 5])
    savemat(tmp_path / "a.mat", {"images": shape(images), "labels": labels}, do_compression=compressed)
    (source,) = open_mat("a", tmp_path / "a.mat", Options())
    np.testing.assert_array_equal(taken(source), images)
    assert texts_of(source) == list("31415")
    assert source.part is None


def test_variables_are_named_as_the_arrays_of_an_npz_are(tmp_path: Path) -> None:
    """By part and role; floats of 0..1, in a file that gzip has compressed; other variables are told of."""
    said: list[str] = []
    train, test = images_of(4), images_of(2, seed=3)
    content = {"x_train": train / 255, "y_train": [[0, 1, 0, 1]], "x_test": test, "y_test": [[1], [0]]}
    savemat(tmp_path / "a.mat", {**content, "fonts": np.arange(4)})
    (tmp_path / "a.mat.gz").write_bytes(gzip.compress((tmp_path / "a.mat").read_bytes()))
    training, testing = open_mat("a", tmp_path / "a.mat.gz", Options(say=said.append))
    assert (training.part, testing.part) == ("training", "test")
    np.testing.assert_array_equal(taken(training), train)
    np.testing.assert_array_equal(taken(testing), test)
    assert texts_of(training) == list("0101")
    assert "fonts" in said[-1]
    assert list(training.sha256()) == ["a.mat"]


@pytest.mark.parametrize(
    "texts", [np.array(["bee", "ant", "bee"], object)[:, None], np.array(["bee", "ant", "bee"])]
)
def test_labels_may_be_texts_in_cells_or_rows_of_characters(texts: Any, tmp_path: Path) -> None:
    """Both are arrays of names in MATLAB."""
    savemat(tmp_path / "a.mat", {"X": images_of(3), "y": texts})
    (source,) = open_mat("a", tmp_path / "a.mat", Options())
    assert texts_of(source) == ["bee", "ant", "bee"]


def test_a_file_of_labels_alone_is_read(tmp_path: Path) -> None:
    """And one with two candidates is refused."""
    savemat(tmp_path / "a.mat", {"labels": np.array([2.0, 7.0])})
    assert read_mat_labels(tmp_path / "a.mat").values == ("2", "7")
    savemat(tmp_path / "b.mat", {"first": np.array([2.0]), "second": np.array([7.0])})
    with pytest.raises(DataError, match="several arrays of labels"):
        read_mat_labels(tmp_path / "b.mat")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": images_of(28)}, "first or last axis"),
        ({"a": np.zeros((5, 32, 32), np.uint8)}, r"no array of images.*a uint8\[5, 32, 32\]"),
        ({"a": images_of(2), "b": images_of(3)}, "several arrays of images, a, b"),
        ({"images": images_of(2) / 100 - 1}, "pixels are from 0 to 255"),
        ({"images": images_of(2) + 1j}, "no array of images"),
    ],
)
def test_what_is_in_doubt_is_refused(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    """With the reason."""
    savemat(tmp_path / "a.mat", content)
    with pytest.raises(DataError, match=message):
        open_mat("a.mat", tmp_path / "a.mat", Options())


# Built by hand, because SciPy writes nothing hostile


def element(type_: int, data: bytes, size: int | None = None) -> bytes:
    """Return an element of a MATLAB file, padded."""
    return struct.pack("<2I", type_, len(data) if size is None else size) + data + b"\0" * (-len(data) % 8)


def array(kind: int, shape: tuple[int, ...], *rest: bytes, size: int | None = None) -> bytes:
    """Return an array named a of a class."""
    start = element(6, struct.pack("<2I", kind, 0)) + element(5, struct.pack(f"<{len(shape)}i", *shape))
    return element(14, start + element(1, b"a") + b"".join(rest), size)


def document(*elements: bytes) -> bytes:
    """Return a MATLAB 5 file."""
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x100) + b"IM" + b"".join(elements)


def compressed(data: bytes) -> bytes:
    """Return a compressed element, which is not padded."""
    packed = zlib.compress(data)
    return struct.pack("<2I", 15, len(packed)) + packed


PIXELS = element(2, bytes(784 * 2))
NESTED = b""
for _ in range(20):
    NESTED = array(1, (1, 1), NESTED or array(9, (0, 0), element(2, b"")))

HOSTILE = {
    "no MATLAB file": (b"MATLAB 7.3 MAT-file".ljust(126) + b"IM", "is not a MATLAB 5 file"),
    "nothing but a header": (document(), "no array of images"),
    "truncated tag": (document(b"\x0e\0\0"), "truncated"),
    "larger than the file": (document(array(9, (784, 2), PIXELS, size=1 << 30)), "truncated"),
    "larger than the limit": (document(array(9, (784, 2), PIXELS, size=(1 << 32) - 8) * 2), "truncated|larger"),
    "claims more numbers than bytes": (document(array(9, (784, 1 << 30), PIXELS)), r"\[784, 1073741824\]"),
    "claims characters without bytes": (document(array(4, (1, 1 << 30), element(4, b""))), "has 0 bytes"),
    "claims cells": (document(array(1, (1 << 30, 1))), "claims 1073741824 fields"),
    "structures without fields": (document(array(2, (1 << 30, 1), element(5, b" \0\0\0"), element(1, b""))), "claims"),
    "a negative axis": (document(array(9, (-784, 2), PIXELS)), "shape"),
    "an unknown type of numbers": (document(array(9, (784, 2), element(99, bytes(1568)))), "shape"),
    "nested": (document(NESTED), "structures within structures"),
    "an object": (document(array(3, (1, 1))), "has an object"),
    "a function": (document(array(16, (1, 1))), "has a function"),
    "a sparse matrix": (document(array(5, (1, 1))), "has a sparse matrix"),
    "no array": (document(element(2, bytes(8))), "where an array should be"),
    "a compressed element that is damaged": (document(struct.pack("<2I", 15, 8) + b"12345678"), "cannot be read"),
    "a compressed array and more": (document(compressed(array(9, (784, 2), PIXELS) + bytes(8))), "more than an array"),
    "a compressed array that is cut": (document(compressed(array(9, (784, 2), PIXELS)[:-8])), "longer|truncated"),
    "a bomb": (document(compressed(array(9, (784, 2), size=(1 << 32) - 64))), "truncated|shape|longer"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_what_a_file_claims_is_checked_before_it_is_allocated(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SciPy is not called for a file that claims more than it has, or has what is no array."""
    content, message = HOSTILE[what]
    (tmp_path / "a.mat").write_bytes(content)
    if what != "nothing but a header":
        monkeypatch.setattr("scipy.io.loadmat", lambda *_, **__: pytest.fail("it was given to SciPy"))
    with pytest.raises(DataError, match=message):
        open_mat("a.mat", tmp_path / "a.mat", Options())


def test_a_file_larger_than_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its arrays are counted together, decompressed."""
    monkeypatch.setattr(mat, "MAX_BYTES", 10_000)
    one = compressed(array(9, (784, 9), element(2, bytes(784 * 9))))
    (tmp_path / "a.mat").write_bytes(document(one, one))
    with pytest.raises(DataError, match="larger than 10000 bytes"):
        open_mat("a.mat", tmp_path / "a.mat", Options())


@pytest.mark.parametrize("order", ["<", ">"])
def test_every_truncation_and_many_damages_are_data_errors(order: str, tmp_path: Path) -> None:
    """No other exception comes out of a damaged file; what is not noticed gives images."""
    emnist(tmp_path / "a.mat", images_of(2), images_of(2), [(0, 48), (1, 49)])
    savemat(tmp_path / "b.mat", {"images": images_of(1), "labels": np.array(["x"]), "s": {"t": [1, "u"]}})
    random = np.random.default_rng(5)
    for name in ("a.mat", "b.mat"):
        whole = (tmp_path / name).read_bytes()
        broken = [whole[:end] for end in random.integers(0, len(whole), 60)]
        for _ in range(150):
            damaged = bytearray(whole)
            damaged[random.integers(124, min(len(whole), 1200))] ^= 1 << random.integers(8)
            broken.append(bytes(damaged))
        for data in broken:
            (tmp_path / "c.mat").write_bytes(data if order == "<" else data.replace(b"\0\1IM", b"\1\0MI"))
            try:
                for source in open_mat("c.mat", tmp_path / "c.mat", Options()):
                    source.labels()
            except DataError:
                pass
