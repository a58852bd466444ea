"""NumPy archives as data sets: what is read, and what is rejected with which array's name."""

import contextlib
import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.progress import Progress
from imagesets.errors import DataError
from imagesets.formats.arrays import numpy_files
from training.data.dataset import DataSet
from training.data.loading import load

LABELS = np.arange(12) % 3
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)
TEST_LABELS = np.arange(6) % 3
TEST_IMAGES = np.random.default_rng(1).integers(0, 256, (6, 28, 28), dtype=np.uint8)
WHOLE: dict[str, Any] = {
    "x_train": IMAGES,
    "y_train": LABELS,
    "x_test": TEST_IMAGES,
    "y_test": TEST_LABELS,
}


def save(path: Path, arrays: dict[str, Any]) -> Path:
    """Write an archive."""
    np.savez_compressed(path, **arrays)
    return path


def read(path: Path, **options: Any) -> DataSet:
    """Load an archive as the job does."""
    return load(f"npz:{path}", mnist_directory=path.parent, progress=Progress(quiet=True), **options)


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("images", "labels", "test_images", "test_labels"),
        ("train_images", "train_labels", "test_images", "test_labels"),
    ],
)
@pytest.mark.parametrize("flat", [False, True])
def test_what_was_saved_is_read(tmp_path: Path, names: tuple[str, ...], flat: bool) -> None:
    """Every naming, square or flat images, a column of labels: all come back as they were saved."""
    arrays = (IMAGES, LABELS.astype(np.uint8)[:, None], TEST_IMAGES, TEST_LABELS.astype(">i4"))
    if flat:
        arrays = (IMAGES.reshape(12, 784), *arrays[1:2], np.asfortranarray(TEST_IMAGES), *arrays[3:])
    data = read(save(tmp_path / "set.npz", dict(zip(names, arrays, strict=True))))
    test = data.test()
    assert data.name == "set"
    assert data.classes == ("0", "1", "2")
    np.testing.assert_array_equal(data.training.images, IMAGES)
    np.testing.assert_array_equal(data.training.labels, LABELS)
    np.testing.assert_array_equal(test.images, TEST_IMAGES)
    np.testing.assert_array_equal(test.labels, TEST_LABELS)
    assert data.training.labels.dtype == test.labels.dtype == np.int64
    assert test.images.flags.c_contiguous


@pytest.mark.parametrize("names", [["a", "b", "ß"], [b"a", b"b", "ß".encode()]])
def test_class_names_come_along(tmp_path: Path, names: list[Any]) -> None:
    """The array `classes`, of text or UTF-8 bytes, names the classes."""
    assert read(save(tmp_path / "set.npz", WHOLE | {"classes": names})).classes == ("a", "b", "ß")


def test_two_classes_are_enough(tmp_path: Path) -> None:
    """A set of two classes is read."""
    arrays = {"images": IMAGES, "labels": np.arange(12) % 2}
    assert read(save(tmp_path / "set.npz", arrays)).classes == ("0", "1")


def test_without_a_test_set_a_share_is_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of each class is held out, nothing is lost or in both parts, and it is said."""
    said: list[str] = []
    progress = Progress(quiet=True)
    monkeypatch.setattr(progress, "say", said.append)
    path = save(tmp_path / "set.npz", {"images": IMAGES, "labels": LABELS})
    data = load(f"npz:{path}", mnist_directory=tmp_path, progress=progress, test_share=0.25, seed=5)
    test = data.test()
    assert np.bincount(test.labels).tolist() == [1, 1, 1]
    both = np.concatenate([data.training.images, test.images])
    assert {image.tobytes() for image in both} == {image.tobytes() for image in IMAGES}
    assert len(both) == len(IMAGES)
    assert any("3 of 12 images are held out" in line and "seed 5" in line for line in said)


def test_an_archive_that_changed_meanwhile_is_rejected(tmp_path: Path) -> None:
    """The test set is the one whose SHA-256 was recorded, or none."""
    data = read(save(tmp_path / "set.npz", WHOLE))
    save(tmp_path / "set.npz", WHOLE | {"x_test": TEST_IMAGES[::-1]})
    with pytest.raises(DataError, match="changed during"):
        data.test()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"x_train": IMAGES / 128}, r"x_train: the values are float64 .*--pixels 0..1"),
        ({"x_test": TEST_IMAGES.astype(np.int16) * 2}, r"x_test: the values are int16 from 0 to 510"),
        ({"x_train": IMAGES[:, :27]}, r"has no training images"),
        ({"x_train": IMAGES[:-1]}, r"x_train has 11 images and 12 labels"),
        ({"x_test": TEST_IMAGES[:-1]}, r"x_test has 5 images and 6 labels"),
        ({"y_train": LABELS + 0.5}, r"y_train has the label 0.5 in row 0"),
        ({"y_train": np.ones((12, 3))}, r"y_train has labels of shape \[12, 3\] that are not one-hot"),
        ({"y_test": TEST_LABELS + 1}, r"the test set of .* has label '3', which no training image has"),
        ({"y_train": np.zeros(12, dtype=int)}, r"has one class"),
        ({"y_train": np.array([0] * 11 + [1])}, r"'1' has 1"),
        ({"y_test": TEST_LABELS[:0], "x_test": TEST_IMAGES[:0]}, r"x_test has no images"),
        ({"x_train": IMAGES.astype(object)}, r"x_train.*(object|Python)"),
        ({"classes": ["a", "b", "a"]}, r"classes has the class name 'a' twice"),
        ({"classes": ["a", "e\u0301", "\u00e9"]}, r"classes has the class name .* twice"),
        ({"classes": ["a", "b", "x" * 201]}, r"classes: class name 'x+': .*200"),
        ({"classes": ["a", "b", "c\nd"]}, r"control characters"),
        ({"classes": ["a", "b"]}, r"classes has 2 class names; the labels are 3 numbers from 0 to 2"),
        ({"classes": [1, 2, 3]}, r"classes is int64"),
        ({"classes": [f"c{i}" for i in range(13)]}, r"'c3' has 0"),
        ({"classes": np.array(["a", "b", None], dtype=object)}, r"classes has Python objects"),
        ({"images": IMAGES, "labels": LABELS}, r"two arrays of training images"),
    ],
)
def test_a_wrong_array_is_named(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    """Each wrong type, shape, count or name is rejected when loading, with the array's name."""
    with pytest.raises(DataError, match=sentence):
        read(save(tmp_path / "set.npz", WHOLE | change))


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    """Half a test set, or no known arrays at all, is rejected with what is there and what is known."""
    half = {name: array for name, array in WHOLE.items() if name != "y_test"}
    with pytest.raises(DataError, match="x_test has no labels: add them"):
        read(save(tmp_path / "half.npz", half))
    with pytest.raises(DataError, match="arr_0 has no labels to train on"):
        read(save(tmp_path / "other.npz", {"arr_0": IMAGES}))
    with pytest.raises(DataError, match=r"there is no .*nowhere.npz"):
        read(tmp_path / "nowhere.npz")


def header(shape: str, descr: str = "|u1") -> bytes:
    """Return the header of an array that claims `shape`."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize("shape", ["(100000000000, 28, 28)", "(5500000, 28, 28)", "(13, 28, 28)"])
def test_a_bomb_is_rejected_by_its_header(
    tmp_path: Path, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An array that claims more than the limit, or than the archive holds, is rejected before it is read."""
    path = save(tmp_path / "set.npz", {name: a for name, a in WHOLE.items() if name != "x_train"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train.npy", header(shape) + IMAGES.tobytes())

    def never(*_: object) -> None:
        raise AssertionError("an array is read before its header is checked")

    monkeypatch.setattr(numpy_files, "_source", never)
    with pytest.raises(DataError, match=r"x_train claims"):
        read(path)


def test_an_array_above_the_limit_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An array that holds what it claims, and too much, is rejected."""
    monkeypatch.setattr(numpy_files, "MAX_BYTES", IMAGES.nbytes - 1)
    with pytest.raises(DataError, match=r"x_train claims 9408 bytes, more than the limit of 9407"):
        read(save(tmp_path / "set.npz", WHOLE))


def test_two_arrays_of_one_name_are_rejected(tmp_path: Path) -> None:
    """An archive with a name twice does not say which one is meant."""
    path = save(tmp_path / "set.npz", WHOLE)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train.npy", b"")
    with pytest.raises(DataError, match="two arrays of the same name"):
        read(path)


def whole_archive() -> bytes:
    """Return a good archive, to be damaged."""
    file = io.BytesIO()
    np.savez_compressed(file, **WHOLE)
    return file.getvalue()


ARCHIVE = whole_archive()
same_directory = settings(
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def only_data_errors(path: Path, content: bytes) -> None:
    """Read a file to the end; nothing but a `DataError` may come of it."""
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        read(path).test()


@same_directory
@given(at=st.integers(0, len(ARCHIVE) - 1), garbage=st.binary(max_size=40), cut=st.booleans())
def test_damage_is_a_data_error(tmp_path: Path, at: int, garbage: bytes, cut: bool) -> None:
    """An archive that is overwritten or cut anywhere is read or rejected, and nothing else."""
    rest = b"" if cut else ARCHIVE[at + len(garbage) :]
    only_data_errors(tmp_path / "set.npz", ARCHIVE[:at] + garbage + rest)


@same_directory
@given(
    start=st.binary(max_size=120), magic=st.sampled_from([b"", header("(12,)", "<i8"), b"\x93NUMPY\x02\x00"])
)
def test_a_garbage_array_is_a_data_error(tmp_path: Path, start: bytes, magic: bytes) -> None:
    """Any bytes in the place of an array are rejected."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("images.npy", magic + start)
        archive.writestr("labels.npy", magic + start)
    only_data_errors(tmp_path / "set.npz", file.getvalue())
