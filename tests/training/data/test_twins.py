"""The same images in other containers train to the same bytes, and are known to be the same set."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from common.atomic_files import sha256_file
from common.progress import Progress
from imagesets.image_set import open_set
from imagesets.source import Options
from tests.idx_arrays import read_idx
from training.__main__ import main
from training.data.dataset import Images
from training.data.loading import load

PARTS = {"train": 600, "test": 200}
FILES = {"train": "train", "test": "t10k"}


@pytest.fixture(scope="module")
def digits(mnist_directory: Path) -> dict[str, Images]:
    """Return the first images of MNIST's parts."""
    found = {}
    for part, count in PARTS.items():
        images = read_idx(mnist_directory / f"{FILES[part]}-images-idx3-ubyte", 3)[:count]
        labels = read_idx(mnist_directory / f"{FILES[part]}-labels-idx1-ubyte", 1)[:count]
        found[part] = Images(images=images, labels=labels.astype(np.int64))
    return found


def as_idx(place: Path, digits: dict[str, Images]) -> None:
    """As its authors publish it, but uncompressed."""
    for part, data in digits.items():
        for kind, array in (("images-idx3", data.images), ("labels-idx1", data.labels.astype(np.uint8))):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (place / f"{FILES[part]}-{kind}-ubyte").write_bytes(header + array.tobytes())


def as_parquet_of_files(place: Path, digits: dict[str, Images]) -> None:
    """As Hugging Face's data sets are: PNG files, and the names of the classes in the schema's metadata."""
    for part, data in digits.items():
        files = []
        for image in data.images:
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            files.append({"bytes": file.getvalue(), "path": None})
        features = {"image": {"_type": "Image"}, "label": {"names": [*"0123456789"], "_type": "ClassLabel"}}
        schema = pa.schema(
            [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
            metadata={b"huggingface": json.dumps({"info": {"features": features}}).encode()},
        )
        table = pa.table({"image": files, "label": data.labels}, schema=schema)
        pq.write_table(table, place / f"{part}-00000-of-00001.parquet", row_group_size=100)


def as_frame(data: Images) -> pd.DataFrame:
    """Return Kaggle's table: the label, then a column for each pixel."""
    frame = pd.DataFrame(data.images.reshape(-1, 784), columns=[f"pixel{place}" for place in range(784)])
    frame.insert(0, "label", data.labels)
    return frame


def as_csv(place: Path, digits: dict[str, Images]) -> None:
    """As tables on Kaggle are."""
    for part, data in digits.items():
        as_frame(data).to_csv(place / f"{part}.csv", index=False)


def as_parquet_of_columns(place: Path, digits: dict[str, Images]) -> None:
    """As such a table is when it is saved as Parquet."""
    for part, data in digits.items():
        as_frame(data).to_parquet(place / f"{part}.parquet", index=False)


def as_npz(place: Path, digits: dict[str, Images]) -> None:
    """As Keras has it, but with floats from 0 to 1."""
    np.savez(
        place / "mnist.npz",
        x_train=digits["train"].images / np.float32(255),
        y_train=digits["train"].labels,
        x_test=digits["test"].images / np.float32(255),
        y_test=np.eye(10)[digits["test"].labels],
    )


TWINS = (as_parquet_of_files, as_csv, as_parquet_of_columns, as_npz)


def trained(
    place: Path, write: Callable[[Path, dict[str, Images]], None], digits: dict[str, Images]
) -> list[str]:
    """Train on what is written, and return the hashes of the model and of its golden examples."""
    (place / "data").mkdir(parents=True)
    write(place / "data", digits)
    small = ["--epochs", "2", "--hidden", "16", "--batch-size", "64", "--augmentation", "basic"]
    places = ["--models", str(place / "models"), "--runs", str(place / "runs"), "--name", "twin"]
    options = ["--device", "cpu", "--threads", "1", *small, *places]
    assert main(["fit", "--data", str(place / "data"), *options]) == 0
    return [sha256_file(place / "models" / "twin" / "1" / name) for name in ("model.onnx", "golden.npz")]


@pytest.mark.parametrize("write", TWINS)
def test_a_twin_trains_to_the_same_bytes(
    tmp_path: Path, digits: dict[str, Images], write: Callable[[Path, dict[str, Images]], None]
) -> None:
    """Whatever holds the images, the same images in the same order make the same model."""
    expected = trained(tmp_path / "idx", as_idx, digits)
    assert trained(tmp_path / "twin", write, digits) == expected


def test_mnist_is_known_in_any_container(tmp_path: Path, mnist_directory: Path) -> None:
    """By its labels: the name, and that it is handwriting, which decides how it is augmented."""
    arrays: dict[str, Any] = {}
    for part, file in FILES.items():
        arrays[f"{part}_images"] = read_idx(mnist_directory / f"{file}-images-idx3-ubyte", 3)
        arrays[f"{part}_labels"] = read_idx(mnist_directory / f"{file}-labels-idx1-ubyte", 1)
    np.savez(tmp_path / "whatever.npz", **arrays)
    twin = load(str(tmp_path / "whatever.npz"), mnist_directory=tmp_path, progress=Progress(quiet=True))
    assert (twin.name, twin.is_handwriting) == ("mnist", True)
    np.testing.assert_array_equal(twin.training.images, arrays["train_images"])
    np.testing.assert_array_equal(twin.test().labels, arrays["test_labels"])


def test_mnist_with_named_labels_is_known(tmp_path: Path, mnist_directory: Path) -> None:
    """Hugging Face's metadata gives the numbers names; the order of the labels still says what they are of."""
    for part, file in FILES.items():
        labels = read_idx(mnist_directory / f"{file}-labels-idx1-ubyte", 1)
        blank = np.zeros((1, 28, 28), np.uint8).repeat(len(labels), 0)
        as_parquet_of_files(tmp_path, {part: Images(images=blank, labels=labels.astype(np.int64))})
    known = open_set(str(tmp_path), Options()).known()
    assert known is not None
    assert (known.name, known.handwriting) == ("mnist", True)
