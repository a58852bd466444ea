"""`npz:FILE`: a NumPy archive of images and labels, with or without a test set.

Three naming schemes are supported: `x_train, y_train, x_test, y_test` (Keras), `images, labels, test_images,
test_labels`, and `train_images, train_labels, test_images, test_labels` (MedMNIST). Images are `uint8[n, 28, 28]` or
`uint8[n, 784]`, labels integers of shape `[n]` or `[n, 1]`; the optional `classes` is an array of strings.

Pickles are never loaded: arrays of objects are rejected. The size in an array's header is compared with the archive's
directory and with a limit before its data is decompressed.

Source of the format: `numpy.lib.format`.
"""

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bundle.images.contract import IMAGE_SIZE, PIXELS
from common.atomic_files import sha256_file
from common.errors import listing, one_line
from common.progress import Progress
from imagesets.array_files import NpyHeader, read_npy_header
from training.data.class_names import LEAST_TO_TRAIN, check_counts, check_range, checked_names, say_untested
from training.data.dataset import DataSet, Images
from training.data.formats.idx import MAX_ELEMENTS
from training.data.splits import hold_out_images
from training.errors import DataError

NAMINGS = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("images", "labels", "test_images", "test_labels"),
    ("train_images", "train_labels", "test_images", "test_labels"),
)
"""Training images, training labels, test images, test labels."""
CLASSES = "classes"


def load_npz(path: Path, *, seed: int, test_share: float, progress: Progress) -> DataSet:
    """Read an archive.

    The test images are not read before `DataSet.test()`, except for their header. The test labels are read and checked.

    Raises:
        DataError: the file is not an archive of such arrays; the message names the array.
    """
    names = _names(path)
    images_name, labels_name, test_images_name, test_labels_name = _naming(path, names)
    labels = _labels(path, labels_name)
    classes = _classes(path, names, labels, labels_name)
    labels = check_range(labels, len(classes), f"{path}: {labels_name}")
    _check_images(path, images_name, len(labels), labels_name)
    has_test = test_images_name in names
    if has_test:
        check_counts(labels, classes, LEAST_TO_TRAIN, f"{path}: {labels_name}")
        test_labels = check_range(
            _labels(path, test_labels_name), len(classes), f"{path}: {test_labels_name}"
        )
        _check_images(path, test_images_name, len(test_labels), test_labels_name)
        say_untested(f"{path}: {test_labels_name}", test_labels, classes, progress)
    if unused := sorted(names - {images_name, labels_name, test_images_name, test_labels_name, CLASSES}):
        progress.say(f"{path}: unused arrays: {', '.join(unused)}")

    sha256 = _sha256(path)
    training = Images(images=_images(path, images_name), labels=labels)
    if not has_test:
        training, held_out = hold_out_images(
            training, classes, share=test_share, seed=seed, where=str(path), progress=progress
        )

    def read_test() -> Images:
        if not has_test:
            return held_out
        if _sha256(path) != sha256:
            raise DataError(f"{path} was changed during training: train again")
        return Images(images=_images(path, test_images_name), labels=test_labels)

    return DataSet(
        name=path.stem, classes=classes, sha256={path.name: sha256}, training=training, read_test=read_test
    )


def _names(path: Path) -> set[str]:
    """Return the names of the arrays."""
    with _guard(path), zipfile.ZipFile(path) as archive:
        members = archive.namelist()
    if len(set(members)) != len(members):
        raise DataError(f"{path} has two arrays of the same name: save it again")
    return {name.removesuffix(".npy") for name in members}


def _naming(path: Path, names: set[str]) -> tuple[str, str, str, str]:
    """Return the naming scheme of the archive."""
    followed = [naming for naming in NAMINGS if naming[0] in names and naming[1] in names]
    known = "; ".join(", ".join(naming) for naming in NAMINGS)
    if len(followed) != 1:
        what = "mixes naming schemes" if followed else "lacks training images and labels"
        raise DataError(
            f"{path} {what}: it has {listing([name[:50] for name in sorted(names)]) or 'no array'}; known are {known}"
        )
    naming = followed[0]
    if (naming[2] in names) != (naming[3] in names):
        there, lacking = sorted(naming[2:], key=lambda name: name not in names)
        raise DataError(f"{path} has {there} but lacks {lacking}: add it, or remove both")
    return naming


def _labels(path: Path, name: str) -> npt.NDArray[np.integer]:
    header = _header(path, name)
    if header.dtype.kind not in "iu":
        raise DataError(f"{path}: {name} is {header.dtype}; labels must be integers, 0 for the first class")
    if len(header.shape) != 1 and header.shape[1:] != (1,):
        raise DataError(
            f"{path}: {name} has shape {list(header.shape)}; labels must have shape [n] or [n, 1]"
        )
    return _data(path, name).reshape(-1)


def _classes(
    path: Path, names: set[str], labels: npt.NDArray[np.integer], labels_name: str
) -> tuple[str, ...]:
    """Return the class names in the archive, or else the labels as names."""
    if CLASSES in names:
        header = _header(path, CLASSES)
        if header.dtype.kind not in "US" or not header.dtype.itemsize or len(header.shape) != 1:
            raise DataError(
                f"{path}: {CLASSES} is {header.dtype} of shape {list(header.shape)}; it must be an array of strings "
                "of shape [classes]"
            )
        if header.shape[0] > len(labels):
            raise DataError(f"{path}: {CLASSES} has {header.shape[0]} names for {len(labels)} images")
        with _guard(path, CLASSES):
            data = _data(path, CLASSES)
            texts = np.char.decode(data, "utf-8") if data.dtype.kind == "S" else data
            return checked_names(texts.tolist(), f"{path}: {CLASSES}")
    highest = int(labels.max(initial=0))
    if highest >= len(labels):
        raise DataError(
            f"{path}: {labels_name} has label {highest} with {len(labels)} images: labels must count from 0, "
            "without gaps"
        )
    return checked_names([str(label) for label in range(highest + 1)], f"{path}: {labels_name}")


def _check_images(path: Path, name: str, labels: int, labels_name: str) -> None:
    """Check the header of an array of images."""
    header = _header(path, name)
    if header.dtype != np.uint8:
        raise DataError(f"{path}: {name} is {header.dtype}; pixels must be uint8, 0 to 255")
    if header.shape[1:] not in ((IMAGE_SIZE, IMAGE_SIZE), (PIXELS,)):
        raise DataError(f"{path}: {name} has shape {list(header.shape)}; it must be [n, 28, 28] or [n, 784]")
    if header.shape[0] != labels:
        raise DataError(f"{path}: {name} has {header.shape[0]} images but {labels_name} has {labels} labels")


def _images(path: Path, name: str) -> npt.NDArray[np.uint8]:
    data = _data(path, name).reshape(-1, IMAGE_SIZE, IMAGE_SIZE)
    return np.ascontiguousarray(data, dtype=np.uint8)


def _header(path: Path, name: str) -> NpyHeader:
    """Read an array's header, and check its size."""
    with _guard(path, name), zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{name}.npy")
        with archive.open(info) as file:
            header = read_npy_header(file)
            size = math.prod(header.shape) * header.dtype.itemsize
            if header.dtype.hasobject:
                raise DataError(
                    f"{path}: {name} has Python objects, and pickles are not loaded: save numbers"
                )
            if size > MAX_ELEMENTS:
                raise DataError(f"{path}: {name} claims {size} bytes, more than the limit of {MAX_ELEMENTS}")
            if file.tell() + size != info.file_size:
                raise DataError(f"{path}: {name} claims shape {list(header.shape)} but has another size")
    return header


def _data(path: Path, name: str) -> npt.NDArray[Any]:
    """Read an array after its header has been checked."""
    with _guard(path, name), zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


@contextmanager
def _guard(path: Path, name: str = "") -> Iterator[None]:
    """Turn the libraries' exceptions about a broken archive into a DataError that names the array."""
    try:
        yield
    except DataError:
        raise
    # zipfile, zlib, lzma and NumPy's header parser raise a dozen types, MemoryError among them.
    except Exception as error:  # noqa: BLE001
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        where = f"{path}: {name}" if name else str(path)
        raise DataError(f"{where} cannot be read: {one_line(reason, 200)}") from None


def _sha256(path: Path) -> str:
    with _guard(path):
        return sha256_file(path)
