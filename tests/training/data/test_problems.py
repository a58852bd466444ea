"""What is wrong with images and sets: the list of what is left out, warnings, and remedies."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.progress import Progress
from imagesets.errors import DataError
from training.data.dataset import DataSet
from training.data.loading import load
from training.data.splits import split_data

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 28, 28), np.uint8)
LABELS = np.arange(24) % 3


def read(path: Path, said: list[str] | None = None, **options: Any) -> DataSet:
    """Load a set as the job does."""
    progress: Any = Progress(quiet=True)
    if said is not None:
        progress.say = said.append
    return load(str(path), mnist_directory=Path("nowhere"), progress=progress, **options)


def folders(root: Path) -> Path:
    """Write a training and a test part as folders, and damage three images of the first and one of the other."""
    for part in ("train", "test"):
        for row, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
            path = root / part / f"class {label}" / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    (root / "train" / "class 0" / "0.png").write_bytes(b"")
    (root / "train" / "class 1" / "1.png").write_bytes(b"nothing of an image")
    Image.new("L", (30, 30)).save(root / "train" / "class 2" / "2.png")
    Image.new("L", (30, 30)).save(root / "test" / "class 2" / "2.png")
    return root


def test_the_list_of_what_is_left_out_stays_whole_when_the_test_images_are_read(tmp_path: Path) -> None:
    """Reading the test images, after training, repeats what is known of them and loses nothing of the others."""
    said: list[str] = []
    listed = tmp_path / "bad.txt"
    data = read(folders(tmp_path / "set"), said, skip_bad=listed)
    before = listed.read_text()
    assert len(before.splitlines()) == 4
    assert (len(data.training), len(data.test())) == (21, 23)
    assert listed.read_text() == before
    assert sum("left out" in line for line in said) == 1


def test_damage_behind_the_header_is_added_to_the_list(tmp_path: Path) -> None:
    """A test image whose header is good is found when it is decoded, after training."""
    root = folders(tmp_path / "set")
    damaged = root / "test" / "class 0" / "0.png"
    damaged.write_bytes(damaged.read_bytes()[:400])
    listed = tmp_path / "bad.txt"
    data = read(root, skip_bad=listed)
    assert len(data.test()) == 22
    assert len(listed.read_text().splitlines()) == 5


def test_images_of_another_size_are_told_of_resizing(tmp_path: Path) -> None:
    """Files and arrays that --resize would take are refused with it."""
    with pytest.raises(DataError, match="--resize fit, pad or mnist"):
        read(folders(tmp_path / "set"))
    large = np.kron(IMAGES, np.ones((1, 2, 2), np.uint8)).astype(np.uint8)
    np.savez(tmp_path / "large.npz", x_train=large, y_train=LABELS)
    with pytest.raises(DataError, match=r"uint8\[24, 56, 56\].*--resize fit, pad or mnist"):
        read(tmp_path / "large.npz")
    assert read(tmp_path / "large.npz", resize="mnist").training.images.shape[1:] == (28, 28)
    coloured = np.repeat(large[..., None], 3, axis=3)
    np.savez(tmp_path / "coloured.npz", x_train=coloured, y_train=LABELS)
    assert read(tmp_path / "coloured.npz", resize="pad").training.images.shape[1:] == (28, 28)


def test_bytes_of_0_and_1_are_warned_of(tmp_path: Path) -> None:
    """They are nearly black as they are; other bytes are not spoken of."""
    said: list[str] = []
    np.savez(tmp_path / "ones.npz", x_train=IMAGES & 1, y_train=LABELS)
    assert read(tmp_path / "ones.npz", said).training.images.max() == 1
    assert any("no pixel above 1" in line for line in said)
    said.clear()
    np.savez(tmp_path / "whole.npz", x_train=IMAGES, y_train=LABELS)
    read(tmp_path / "whole.npz", said)
    assert not any("no pixel above 1" in line for line in said)


def test_a_validation_part_is_the_validation_set(tmp_path: Path) -> None:
    """MedMNIST's arrays are taken as they are named, and no number of others beside them."""
    arrays: dict[str, Any] = {f"{part}_images": IMAGES for part in ("train", "test")}
    arrays |= {f"{part}_labels": LABELS[:, None] for part in ("train", "test")}
    np.savez(tmp_path / "some.npz", **arrays, val_images=255 - IMAGES[:6], val_labels=LABELS[:6, None])
    data = read(tmp_path / "some.npz")
    training, validation = split_data(data, None, 0)
    assert (len(training), len(validation), len(data.test())) == (24, 6, 24)
    np.testing.assert_array_equal(validation.images, 255 - IMAGES[:6])
    with pytest.raises(DataError, match="6 validation images of its own: leave out --validation"):
        split_data(data, 3, 0)


def test_labels_with_gaps_are_classes_in_their_order_or_named_by_a_file(tmp_path: Path) -> None:
    """Whole floats from 1 with a gap are three classes; as many lines name them in that order."""
    np.savez(tmp_path / "gaps.npz", x_train=IMAGES, y_train=np.array([1.0, 5.0, 9.0])[LABELS])
    assert read(tmp_path / "gaps.npz").classes == ("1", "5", "9")
    names = tmp_path / "names.txt"
    names.write_text("cat\nant\nbee\n")
    assert read(tmp_path / "gaps.npz", classes=names).classes == ("cat", "ant", "bee")


def test_a_table_without_known_labels_is_told_of_the_option(tmp_path: Path) -> None:
    """A column of another name is taken when it is named."""
    rows = np.column_stack([LABELS, IMAGES.reshape(-1, 784)])
    heading = ",".join(["writer", *(f"pixel{at}" for at in range(784))])
    np.savetxt(tmp_path / "table.csv", rows, "%d", ",", header=heading, comments="")
    with pytest.raises(DataError, match="--label-column"):
        read(tmp_path / "table.csv")
    assert read(tmp_path / "table.csv", label_column="writer").classes == ("0", "1", "2")
