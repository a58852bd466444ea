"""`--data` and IDX directories, against torchvision's readers; class names; held-out test sets."""

import gzip
import hashlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import datasets as torchvision_datasets

from common.progress import Progress
from imagesets.errors import DataError
from imagesets.formats.arrays.array_source import ArraySource
from imagesets.names import known_sets
from imagesets.names.class_names import read_names
from imagesets.names.known_sets import KNOWN
from imagesets.source import RawRows
from tests.idx_arrays import read_idx
from training.data import loading
from training.data.dataset import DataSet, Images
from training.data.loading import load
from training.data.splits import hold_out

GENERATOR = np.random.default_rng(0)
PLAIN = ("train", "t10k")


def images_file(images: npt.NDArray[np.uint8]) -> bytes:
    """Return images as an IDX file."""
    return struct.pack(">4I", 0x803, *images.shape) + images.tobytes()


def labels_file(labels: npt.ArrayLike) -> bytes:
    """Return labels as an IDX file."""
    data = np.asarray(labels, dtype=np.uint8)
    return struct.pack(">2I", 0x801, len(data)) + data.tobytes()


def write(
    directory: Path,
    *,
    classes: int = 10,
    first: int = 0,
    prefix: str = "",
    parts: tuple[str, ...] = PLAIN,
    each: int = 4,
    compress: bool = False,
) -> dict[str, bytes]:
    """Write a set of random images, `each` of every class and part; return the raw files by name."""
    directory.mkdir(parents=True, exist_ok=True)
    raw: dict[str, bytes] = {}
    for part in parts:
        labels = GENERATOR.permutation(np.repeat(np.arange(first, first + classes), each))
        images = GENERATOR.integers(0, 256, (len(labels), 28, 28), dtype=np.uint8)
        raw[f"{prefix}{part}-images-idx3-ubyte"] = images_file(images)
        raw[f"{prefix}{part}-labels-idx1-ubyte"] = labels_file(labels)
    for name, data in raw.items():
        if compress:
            (directory / f"{name}.gz").write_bytes(gzip.compress(data, 1))
        else:
            (directory / name).write_bytes(data)
    return raw


def read(path: object, said: list[str] | None = None, **options: Any) -> DataSet:
    """Load an IDX set as the job does."""
    progress: Any = Progress(quiet=True)
    if said is not None:
        progress.say = said.append
    return load(f"idx:{path}", mnist_directory=Path("nowhere"), progress=progress, **options)


def assert_equal(images: Images, reference: Any, first: int = 0, *, transposed: bool = False) -> None:
    """Compare with a set of torchvision's."""
    expected = reference.data.numpy().transpose(0, 2, 1) if transposed else reference.data.numpy()
    np.testing.assert_array_equal(images.images, expected)
    np.testing.assert_array_equal(images.labels, reference.targets.numpy() - first)


@pytest.mark.parametrize(
    "spec", ["", "mnst", "idx", "idx:", "what:x", "MNIST", "/nowhere", "folder:", "npz:\0"]
)
def test_a_bad_spec_is_rejected_with_the_forms(tmp_path: Path, spec: str) -> None:
    """Whatever is no data set ends with a sentence that lists the forms there are."""
    with pytest.raises(DataError, match=r"is not a data set: .*idx:PATH, npz:PATH"):
        load(spec, mnist_directory=tmp_path, progress=Progress(quiet=True))


def test_mnist_comes_from_its_own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mnist` is fetched to, or found in, the directory that is named for it."""
    asked: list[Path] = []

    def load_mnist(directory: Path, progress: Progress) -> DataSet:
        asked.append(directory)
        raise DataError("stop here")

    monkeypatch.setattr(loading, "load_mnist", load_mnist)
    with pytest.raises(DataError, match="stop here"):
        load("mnist", mnist_directory=tmp_path, progress=Progress(quiet=True))
    assert asked == [tmp_path]


def test_a_set_without_prefix_is_what_torchvision_reads(tmp_path: Path) -> None:
    """Files named as Fashion-MNIST's come back as torchvision returns them, names and all."""
    raw = tmp_path / "FashionMNIST" / "raw"
    write(raw)
    data = read(f"{raw}#fashion-mnist")
    assert data.name == "fashion-mnist"
    assert_equal(data.training, torchvision_datasets.FashionMNIST(tmp_path, train=True))
    assert_equal(data.test(), torchvision_datasets.FashionMNIST(tmp_path, train=False))
    assert list(data.classes) == torchvision_datasets.FashionMNIST.classes


@pytest.mark.parametrize("split", torchvision_datasets.EMNIST.splits)
def test_emnist_is_upright_and_counts_from_zero(tmp_path: Path, split: str) -> None:
    """Each of EMNIST's sets is torchvision's, transposed, with the labels of Letters moved by one."""
    raw = tmp_path / "EMNIST" / "raw"
    names = torchvision_datasets.EMNIST.classes_split_dict[split]
    first = 1 if split == "letters" else 0
    classes = len(names) - first
    write(raw, classes=classes, first=first, prefix=f"emnist-{split}-", parts=("train", "test"))
    data = read(raw)
    assert data.name == f"emnist-{split}"
    assert data.classes == tuple(name.upper() if split == "letters" else name for name in names[first:])
    for part, train in ((data.training, True), (data.test(), False)):
        reference = torchvision_datasets.EMNIST(tmp_path, split, train=train)
        assert_equal(part, reference, first, transposed=True)
        assert part.images.flags.c_contiguous


def test_other_sets_are_not_transposed(tmp_path: Path) -> None:
    """A set with a prefix that is not EMNIST's is read as it lies, and named after its prefix."""
    raw = write(tmp_path, prefix="runes-")
    data = read(tmp_path)
    assert data.name == "runes"
    assert data.training.images.tobytes() == raw["runes-train-images-idx3-ubyte"][16:]


def test_kmnist_is_named_as_torchvision_does() -> None:
    """KMNIST's classes are the characters that torchvision writes in Latin letters."""
    latin = dict(zip("おきすつなはまやれを", torchvision_datasets.KMNIST.classes, strict=True))
    assert [latin[name] for name in KNOWN["kmnist"].classes] == torchvision_datasets.KMNIST.classes


@pytest.mark.parametrize("compress", [False, True])
def test_a_published_set_is_recognised_by_its_labels(
    tmp_path: Path, compress: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training labels with the known SHA-256, raw or compressed, tell which set it is."""
    raw = write(tmp_path, compress=compress)
    assert read(tmp_path).classes == tuple("0123456789")
    digest = hashlib.sha256(raw["train-labels-idx1-ubyte"]).hexdigest()
    monkeypatch.setitem(known_sets.LABELS_SHA256, digest, "fashion-mnist")
    assert read(tmp_path).name == "fashion-mnist"
    assert read(tmp_path).classes[9] == "Ankle boot"


def test_raw_and_compressed_files_are_the_same_set(tmp_path: Path) -> None:
    """The recorded SHA-256s are those of the raw files, however they lie on the disk."""
    raw = write(tmp_path / "gz", compress=True)
    (tmp_path / "raw").mkdir()
    for name, data in raw.items():
        (tmp_path / "raw" / name.replace("-idx", ".idx")).write_bytes(data)
    (tmp_path / "both").mkdir()
    for name, data in raw.items():
        (tmp_path / "both" / name).write_bytes(data)
        (tmp_path / "both" / f"{name}.gz").write_bytes(b"never looked at")
    expected = {name: hashlib.sha256(data).hexdigest() for name, data in raw.items()}
    sets = {name: read(tmp_path / name) for name in ("gz", "raw", "both")}
    assert sets["gz"].sha256 == sets["both"].sha256 == expected
    assert sorted(sets["raw"].sha256.values()) == sorted(expected.values())
    for other in sets.values():
        np.testing.assert_array_equal(other.training.images, sets["gz"].training.images)


def test_several_sets_are_an_error_that_tells_how_to_choose(tmp_path: Path) -> None:
    """Two of EMNIST's sets in a directory are named, and `#` chooses one of them."""
    write(tmp_path, classes=26, first=1, prefix="emnist-letters-", parts=("train", "test"))
    write(tmp_path, prefix="emnist-digits-", parts=("train", "test"))
    write(tmp_path)
    with pytest.raises(
        DataError,
        match=r"several sets, one without.*'emnist-digits', 'emnist-letters': choose one, as in idx:",
    ):
        read(tmp_path)
    assert read(f"{tmp_path}#emnist-letters").classes[0] == "A"
    assert read(f"{tmp_path}#emnist-digits").classes == tuple("0123456789")
    assert read(f"{tmp_path}#mnist").name == "mnist"
    with pytest.raises(DataError, match=r"no set 'emnist-bymerge'; it has one without a prefix .*, 'emnist-"):
        read(f"{tmp_path}#emnist-bymerge")


def test_a_directory_may_have_a_hash_in_its_name(tmp_path: Path) -> None:
    """A directory of the very name goes before the choice of a set."""
    write(tmp_path / "a#b")
    assert read(tmp_path / "a#b").name == "a#b"
    assert read(f"{tmp_path / 'a#b'}#kmnist").name == "kmnist"


def test_class_names_come_from_classes_txt(tmp_path: Path) -> None:
    """The lines of the file beside the data name the classes, before what is known of the set."""
    write(tmp_path, classes=3)
    (tmp_path / "classes.txt").write_bytes("\ufeffrock \r\npaper\r\nschère\r\n".encode())
    assert read(tmp_path).classes == ("rock", "paper", "schère")


def test_emnists_mapping_file_names_the_classes(tmp_path: Path) -> None:
    """A mapping file is read; the first of two codes, the upper case, is the name."""
    write(tmp_path, classes=2, first=1, prefix="emnist-letters-", parts=("train",))
    (tmp_path / "emnist-letters-mapping.txt").write_text("1 88 120\n2 89 121\n")
    assert read(tmp_path).classes == ("X", "Y")


@pytest.mark.parametrize("line", ["3 90 122", "2", "2 x", "2 999", "2 89 89\n2 90 90", "\u0661 88"])
def test_a_broken_mapping_file_is_rejected_with_its_line(tmp_path: Path, line: str) -> None:
    """A line that is not the next label and an ASCII code is quoted."""
    write(tmp_path, classes=2, first=1, prefix="emnist-letters-", parts=("train",))
    (tmp_path / "emnist-letters-mapping.txt").write_text(f"1 88 120\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"mapping.txt, line [23], is .*an ASCII code is expected"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a\n\nb\nc\n", "line 2 is empty"),
        (b"a\nb\na\n", "has the class name 'a' twice"),
        (b"a\nb\n" + b"c" * 201, "class name"),
        (b"a\nb\n\xff\n", "not UTF-8"),
        (b"a\n", "has one class"),
        (b"", "line 1 is empty"),
        (b"a\nb\n", "has 2 class names; the labels are 3 numbers"),
        (b"a\nb\nc\nd\n", "'d' has 0"),
        (b"a" * (2 << 20), "larger than"),
    ],
)
def test_broken_class_names_are_rejected(tmp_path: Path, content: bytes, sentence: str) -> None:
    """Names that a bundle cannot carry, or that do not fit the labels, end with a sentence."""
    write(tmp_path, classes=3)
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        read(tmp_path)


def test_missing_class_names_are_a_sentence(tmp_path: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_names(tmp_path / "classes.txt")


def test_the_test_images_stay_unread_until_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading reads all training images, and of the test images the last, which shows that none is missing."""
    write(tmp_path)
    taken: list[tuple[str, int]] = []
    take = ArraySource.take

    def spy(self: ArraySource, first: int, count: int) -> RawRows:
        taken.append((self.path.name, count))
        return take(self, first, count)

    monkeypatch.setattr(ArraySource, "take", spy)
    data = read(tmp_path)
    assert sorted(taken) == [("t10k-images-idx3-ubyte", 1), ("train-images-idx3-ubyte", 40)]
    data.test()
    assert taken[2:] == [("t10k-images-idx3-ubyte", 40)]


@pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_test_set_that_changed_meanwhile_is_rejected(tmp_path: Path, name: str) -> None:
    """The test set is the one whose SHA-256s were recorded, or none."""
    raw = write(tmp_path)
    data = read(tmp_path)
    (tmp_path / name).write_bytes(raw[name][:-1] + bytes([raw[name][-1] ^ 1]))
    with pytest.raises(DataError, match=f"{tmp_path}.* changed during training"):
        data.test()


def resized(size: int) -> bytes:
    """Return 40 images of `size` x `size`."""
    return images_file(np.zeros((40, size, size), dtype=np.uint8))


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("t10k-images-idx3-ubyte", lambda _: resized(32), "t10k-images-idx3-ubyte: images of 32x32"),
        (
            "t10k-images-idx3-ubyte",
            lambda data: data[:8] + struct.pack(">2I", 14, 56) + data[16:],
            "t10k-images-idx3-ubyte: images of 14x56",
        ),
        (
            "t10k-images-idx3-ubyte",
            lambda data: data[:-1],
            "t10k-images.* declares 40 images and has fewer bytes",
        ),
        (
            "t10k-images-idx3-ubyte",
            lambda data: data + b"x",
            "t10k-images.* declares 40 images and has more bytes",
        ),
        ("t10k-images-idx3-ubyte", lambda _: b"", "t10k-images-idx3-ubyte is empty"),
        ("t10k-labels-idx1-ubyte", lambda _: labels_file(range(40)), "label '10', which no training"),
        (
            "t10k-labels-idx1-ubyte",
            lambda _: labels_file([0] * 39),
            "t10k-images-idx3-ubyte has 40 images and 39 labels",
        ),
        ("t10k-labels-idx1-ubyte", lambda _: labels_file([]), "has 40 images and 0 labels"),
        ("train-images-idx3-ubyte", lambda _: resized(32), "train-images-idx3-ubyte: images of 32x32"),
        ("train-labels-idx1-ubyte", lambda _: labels_file([0] * 40), "has one class, '0'"),
        (
            "train-labels-idx1-ubyte",
            lambda _: labels_file([0, 2] * 20),
            "label '1', which no training image has",
        ),
        ("train-labels-idx1-ubyte", lambda _: labels_file([0] + [1] * 39), "'0' has 1"),
        ("train-labels-idx1-ubyte", lambda data: data[:-1], "declares 40 labels and has fewer"),
    ],
)
def test_a_broken_file_is_found_when_loading(
    tmp_path: Path, name: str, change: Callable[[bytes], bytes], sentence: str
) -> None:
    """What is wrong with a file, of the test set too, is said before any training."""
    raw = write(tmp_path)
    (tmp_path / name).write_bytes(change(raw[name]))
    with pytest.raises(DataError, match=sentence):
        read(tmp_path)


def test_letters_that_count_from_zero_are_rejected(tmp_path: Path) -> None:
    """A label 0 is none of EMNIST Letters'."""
    write(tmp_path, classes=27, prefix="emnist-letters-", parts=("train",))
    with pytest.raises(DataError, match="has label 0; there are 26 classes, with labels 1, 2"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte and lacks the test images"),
        ("t10k-labels-idx1-ubyte", "t10k-images-idx3-ubyte has no labels"),
        ("train-images-idx3-ubyte", "not both images and labels"),
        ("train-labels-idx1-ubyte", "not both images and labels"),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, name: str, sentence: str) -> None:
    """Half a pair is rejected with the name of the other half."""
    write(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=sentence):
        read(tmp_path)


def test_a_directory_without_idx_files_is_a_sentence(tmp_path: Path) -> None:
    """A directory that is empty, missing or ambiguous is said to be so."""
    with pytest.raises(DataError, match="has no idx files; it has nothing"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"there is no .*nowhere"):
        read(tmp_path / "nowhere")
    write(tmp_path, parts=("train", "t10k", "test"))
    with pytest.raises(DataError, match="has both t10k-images-idx3-ubyte and test-images-idx3-ubyte"):
        read(tmp_path)


def test_a_test_class_without_images_is_said(tmp_path: Path) -> None:
    """A class that the test labels lack is no error, and is named."""
    raw = write(tmp_path)
    labels = np.frombuffer(raw["t10k-labels-idx1-ubyte"][8:], dtype=np.uint8)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(labels_file(np.minimum(labels, 8)))
    said: list[str] = []
    read(tmp_path, said)
    assert any("has no images of 9: the model is not tested" in line for line in said)


def test_without_test_files_a_share_is_held_out(tmp_path: Path) -> None:
    """A quarter of each class is held out, nothing is lost or in both parts, and it is said."""
    write(tmp_path, classes=3, parts=("train",), each=8)
    said: list[str] = []
    data = read(tmp_path, said, test_share=0.25, seed=3)
    test = data.test()
    assert np.bincount(test.labels).tolist() == [2, 2, 2]
    assert np.bincount(data.training.labels).tolist() == [6, 6, 6]
    whole = read_idx(tmp_path / "train-images-idx3-ubyte", 3)
    both = [image.tobytes() for image in (*data.training.images, *test.images)]
    assert sorted(both) == sorted(image.tobytes() for image in whole)
    assert any("6 of 24 images are held out" in line and "seed 3" in line for line in said)
    again, other = read(tmp_path, test_share=0.25, seed=3).test(), read(tmp_path, test_share=0.25).test()
    np.testing.assert_array_equal(again.images, test.images)
    assert again.images.tobytes() != other.images.tobytes()


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, float("nan")])
def test_a_share_out_of_range_is_rejected(tmp_path: Path, share: float) -> None:
    """Nothing and everything are no shares to test with."""
    write(tmp_path, parts=("train",))
    with pytest.raises(DataError, match="test_share is"):
        read(tmp_path, test_share=share)


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(3, 40), min_size=2, max_size=6),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**31 - 1),
    order=st.randoms(use_true_random=False),
)
def test_holding_out_keeps_to_its_contract(counts: list[int], share: float, seed: int, order: Any) -> None:
    """Each class gives its rounded share and keeps two, whatever order the images are in."""
    labels = np.repeat(np.arange(len(counts)), counts)
    keys = [f"{label}/{index}" for index, label in enumerate(labels)]
    classes = [str(label) for label in range(len(counts))]
    shuffled = list(range(len(labels)))
    order.shuffle(shuffled)

    def held(indices: list[int]) -> npt.NDArray[np.bool_]:
        chosen = [keys[index] for index in indices]
        return hold_out(chosen, labels[indices], classes, share=share, seed=seed, where="here")

    mask = held(list(range(len(labels))))
    for label, count in enumerate(counts):
        taken = int(mask[labels == label].sum())
        assert 1 <= taken <= count - 2
        assert abs(taken - share * count) <= 0.5 or taken in (1, count - 2)
    np.testing.assert_array_equal(held(shuffled), mask[shuffled])


def test_a_class_too_small_to_split_is_named() -> None:
    """Two images are too few for a test, a training and a validation image."""
    labels = np.array([0] * 9 + [1] * 2)
    with pytest.raises(DataError, match=r"here: each class needs at least 3 .* class 'b' has 2"):
        hold_out([str(i) for i in range(11)], labels, ["a", "b"], share=0.2, seed=0, where="here")
