"""NumPy's files: `.npy`, compressed or not, and `.npz`.

In an archive the names of the arrays tell what they are, by the words in `file_names.py`: `x_train` and `y_train`
(Keras), `train_images`, `val_labels` (MedMNIST), `images`, `test_labels`. An array of names, `classes`, belongs to the
numbers of the labels. `arr_0`, as `numpy.savez(FILE, array)` names it, is images or labels by its shape.

Pickles are never loaded: arrays of objects are refused. The size in an array's header is compared with that of the file
before its data is read.

Sources: `numpy.lib.format`; the names, from the data sets' own documentation.
"""

import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from common.errors import listing, one_line
from imagesets.errors import DataError
from imagesets.formats.arrays.array_source import MAX_BYTES, ArraySource, check_size
from imagesets.formats.arrays.headers import NpyHeader, read_npy_header
from imagesets.formats.arrays.numbers import convert, image_count, is_as_it_is
from imagesets.labels import LabelColumn, column_of
from imagesets.names.class_names import checked_names, names_by_number
from imagesets.names.file_names import read_name
from imagesets.source import Options
from imagesets.streams import is_compressed, opener_of, raw_sha256

CLASSES = ("classes", "class_names", "label_names", "target_names")
RESIZED = ": convert the colours to gray and resize them, or give --resize fit, pad or mnist"
BATCH = 4096
"""Images that are converted at once."""


def open_npy(name: str, path: Path, options: Options) -> list[ArraySource]:
    """Open a `.npy` file of images.

    Raises:
        DataError: it is not a `.npy` file, its array does not hold images, or it is truncated.
    """
    with _guard(name):
        opener = opener_of(path)
        with opener() as file:
            header = _checked_header(file, name)
            start = file.tell()
        count = image_count(header.shape, name, options)
        if not is_compressed(path):
            check_size(path, start, math.prod(header.shape) * header.dtype.itemsize, count)
        return [_source(name, path, opener, header, start, options, lambda: raw_sha256(path))]


def open_npz(name: str, path: Path, options: Options) -> list[ArraySource]:
    """Open the arrays of images in a `.npz` archive, ordered by name, with their labels.

    Arrays that no word names as images are sources if they are unsigned bytes, or if there are no others.

    Raises:
        DataError: it is not a `.npz` archive, or has no array of images; or two arrays are images of one part.
    """
    headers = _headers(name, path)
    fit = [member for member, header in headers.items() if _are_images(header, options)]
    named = [member for member in fit if read_name(member).role == "images"]
    fit = [member for member in fit if member in named or headers[member].dtype == np.uint8] or fit
    if not fit:
        resizing = replace(options, resize="fit")
        shapes = listing(
            [f"{member} {header.dtype}{list(header.shape)}" for member, header in headers.items()], 8
        )
        raise DataError(
            f"{name} has no array of images, [n, 28, 28] or [n, 784]; it has {shapes or 'no array'}"
            + (RESIZED if any(_are_images(header, resizing) for header in headers.values()) else "")
        )
    labels = {member: _labels_of(member, headers) for member in fit}
    sources = [_member_source(name, path, member, headers[member], options) for member in fit]
    for member, source in zip(fit, sources, strict=True):
        source.part = read_name(member).part
        if (beside := labels[member]) is not None:
            source.read_labels = _label_reader(name, path, beside, headers)
    _check_parts(name, fit, labels)
    used = {*fit, *labels.values(), *CLASSES}
    if unused := [member for member in headers if member not in used]:
        options.say(
            f"{name}: arrays that are not used: {listing([one_line(member, 50) for member in unused])}"
        )
    return sources


def read_npy_labels(path: Path) -> LabelColumn:
    """Read a `.npy` file of labels.

    Raises:
        DataError: it is not such a file, or its array does not hold labels.
    """
    with _guard(str(path)):
        with opener_of(path)() as file:
            _checked_header(file, str(path))
        with opener_of(path)() as file:
            return column_of(np.lib.format.read_array(file, allow_pickle=False), str(path))


def read_npz_labels(path: Path) -> LabelColumn:
    """Read the labels in a `.npz` archive, of which one array must be labels.

    Raises:
        DataError: it is not such an archive, or none or several of its arrays may be labels.
    """
    name = str(path)
    headers = _headers(name, path)
    fit = [
        member
        for member, header in headers.items()
        if not _are_images(header, Options()) and member not in CLASSES and header.shape
    ]
    fit = [member for member in fit if read_name(member).role == "labels"] or fit
    if len(fit) != 1:
        raise DataError(
            f"{name} has {'several arrays' if fit else 'no array'} of labels ({listing([*headers], 8)}): save one alone"
        )
    return _label_reader(name, path, fit[0], headers)()


def _are_images(header: NpyHeader, options: Options) -> bool:
    try:
        shape = (max(1, header.shape[0]), *header.shape[1:]) if header.shape else ()
        return len(shape) > 1 and header.dtype.kind in "buif" and image_count(shape, "", options) >= 1
    except DataError:
        return False


def _labels_of(member: str, headers: Mapping[str, NpyHeader]) -> str | None:
    """Return the array with the labels of an array of images, None if there is none."""
    images = read_name(member)
    fit = [
        other
        for other in headers
        if (said := read_name(other)).role == "labels"
        and (said.prefix, said.part) == (images.prefix, images.part)
    ]
    return fit[0] if len(fit) == 1 else None


def _check_parts(name: str, members: Iterable[str], labels: Mapping[str, str | None]) -> None:
    """Check that the archive does not hold one part twice, by two naming schemes."""
    parts: dict[str, str] = {}
    for member in members:
        if labels[member] is None:
            continue
        part = read_name(member).part or "training"
        if (other := parts.setdefault(part, member)) != member:
            raise DataError(
                f"{name} has two arrays of {part} images with labels, {other} and {member}: remove one of them"
            )


def _label_reader(
    name: str, path: Path, member: str, headers: Mapping[str, NpyHeader]
) -> Callable[[], LabelColumn]:
    def read() -> LabelColumn:
        labels = column_of(_data(name, path, member), f"{name}: {member}")
        classes = next((other for other in CLASSES if other in headers), None)
        if classes is None or not labels.numeric:
            return labels
        names = _class_names(name, path, classes, headers[classes])
        numbers = [int(value) for value in labels.values]
        return labels.named(names_by_number(names, numbers, f"{name}: {classes}"), f"{name}: {member}")

    return read


def _class_names(name: str, path: Path, member: str, header: NpyHeader) -> tuple[str, ...]:
    if header.dtype.kind not in "US" or not header.dtype.itemsize or len(header.shape) != 1:
        raise DataError(
            f"{name}: {member} is {header.dtype} of shape {list(header.shape)}; it must be an array of strings, "
            "[classes]"
        )
    with _guard(f"{name}: {member}"):
        data = _data(name, path, member)
        texts = np.char.decode(data, "utf-8") if data.dtype.kind == "S" else data
        return checked_names(texts.tolist(), f"{name}: {member}")


def _headers(name: str, path: Path) -> dict[str, NpyHeader]:
    """Return the headers of the arrays, checked, by name in the order of names."""
    headers = {}
    with _guard(name), zipfile.ZipFile(path) as archive:
        members = archive.namelist()
        if len(set(members)) != len(members):
            raise DataError(f"{name} has two arrays of the same name: save it again")
        for member in sorted(members):
            if not member.endswith(".npy"):
                continue
            array = member.removesuffix(".npy")
            with _guard(f"{name}: {array}"), archive.open(member) as file:
                header = _checked_header(file, f"{name}: {array}")
                size = math.prod(header.shape) * header.dtype.itemsize
                if file.tell() + size != archive.getinfo(member).file_size:
                    raise DataError(
                        f"{name}: {array} claims shape {list(header.shape)} but has another size: "
                        "restore it and run again"
                    )
                headers[array] = header
    return headers


def _checked_header(file: IO[bytes], where: str) -> NpyHeader:
    header = read_npy_header(file)
    if header.dtype.hasobject:
        raise DataError(f"{where} has Python objects, and pickles are not loaded: save numbers or strings")
    size = math.prod(max(1, length) for length in header.shape) * header.dtype.itemsize
    if size > MAX_BYTES:
        raise DataError(f"{where} claims {size} bytes, more than the limit of {MAX_BYTES}")
    return header


def _member_source(name: str, path: Path, member: str, header: NpyHeader, options: Options) -> ArraySource:
    opener = _member_opener(path, f"{member}.npy")
    with _guard(f"{name}: {member}"):
        with opener() as file:
            read_npy_header(file)
            start = file.tell()
        return _source(f"{name}:{member}", path, opener, header, start, options, None)


def _source(
    name: str,
    path: Path,
    opener: Callable[[], IO[bytes]],
    header: NpyHeader,
    start: int,
    options: Options,
    read_sha256: Callable[[], Mapping[str, str]] | None,
) -> ArraySource:
    """Return the source of an array: read as it is if it is unsigned bytes in C order, else converted."""
    count = image_count(header.shape, name, options)
    if is_as_it_is(header.dtype, header.shape, options) and (not header.fortran or count == 1):
        return ArraySource(
            name=name, count=count, path=path, open=opener, start=start, read_sha256=read_sha256
        )

    def batches() -> Iterator[npt.NDArray[Any]]:
        if header.fortran:
            with opener() as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
            yield from (array[first : first + BATCH] for first in range(0, len(array), BATCH))
            return
        each = math.prod(header.shape[1:])
        with opener() as file:
            file.seek(start)
            for first in range(0, header.shape[0], BATCH):
                shape = (min(BATCH, header.shape[0] - first), *header.shape[1:])
                size = shape[0] * each * header.dtype.itemsize
                if len(data := file.read(size)) != size:
                    raise DataError(f"{name} is truncated: restore it and run again")
                yield np.frombuffer(data, header.dtype).reshape(shape)

    return convert(name, path, batches, header.dtype, options, read_sha256=read_sha256)


def _member_opener(path: Path, member: str) -> Callable[[], IO[bytes]]:
    def opened() -> IO[bytes]:
        archive = zipfile.ZipFile(path)
        try:
            return archive.open(member)  # the member keeps the archive's file open, and closes it
        finally:
            archive.close()

    return opened


def _data(name: str, path: Path, member: str) -> npt.NDArray[Any]:
    """Read an array after its header has been checked."""
    with _guard(f"{name}: {member}"), zipfile.ZipFile(path) as archive, archive.open(f"{member}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


@contextmanager
def _guard(where: str) -> Iterator[None]:
    """Turn the libraries' exceptions about a broken file into a DataError that names the array."""
    try:
        yield
    except DataError:
        raise
    # zipfile, zlib, lzma and NumPy's header parser raise a dozen types, MemoryError among them.
    except Exception as error:  # noqa: BLE001
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(
            f"{where} cannot be read: {one_line(reason, 200)}; restore it and run again"
        ) from None
