"""The IDX reader, against files packed by hand and against torchvision's own reader."""

import bz2
import gzip
import lzma
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torchvision.datasets.mnist import read_image_file, read_label_file

from imagesets.errors import DataError
from imagesets.formats.arrays.idx import open_idx, read_idx_labels
from imagesets.source import Options

MNIST_PARTS = ("train", "t10k")
same_directory = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def packed(shape: tuple[int, ...], data: bytes) -> bytes:
    """Return an IDX file of unsigned bytes: two zeros, the type, the number of axes, sizes, bytes."""
    return bytes([0, 0, 0x08, len(shape)]) + b"".join(struct.pack(">I", size) for size in shape) + data


def write(directory: Path, data: bytes, *, compress: bool) -> Path:
    """Write a file, compressed if asked, under the name that says so."""
    path = directory / ("file.gz" if compress else "file")
    path.write_bytes(gzip.compress(data, 1) if compress else data)
    return path


def images(path: Path) -> npt.NDArray[np.uint8]:
    """Return all images of a file, `uint8[n, 28, 28]`."""
    (source,) = open_idx(str(path), path, Options())
    try:
        source.take(source.count - 1, 1)
        return np.array(source.take(0, source.count).pixels)
    finally:
        source.close()


def labels(path: Path) -> npt.NDArray[np.uint8]:
    """Return all labels of a file, as bytes."""
    return read_idx_labels(path).numbers().astype(np.uint8)


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bz2.compress, bytes])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_what_was_packed_is_read_whatever_the_ending_says(
    tmp_path: Path, compress: Callable[[bytes], bytes], ending: str
) -> None:
    """Compressed in any way or not, the content decides."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    path = tmp_path / f"images{ending}"
    for shape in ((5, 28, 28), (5, 28, 28, 1), (5, 1, 28, 28), (5, 784)):
        path.write_bytes(compress(packed(shape, pixels.tobytes())))
        assert np.array_equal(images(path), pixels)
    path.write_bytes(compress(packed((3,), b"\7\0\xff")))
    assert labels(path).tolist() == [7, 0, 255]


@pytest.mark.parametrize(
    ("code", "dtype", "factor"),
    [(9, ">i1", 0), (0xB, ">i2", 1), (0xC, ">i4", 1), (0xD, ">f4", 1 / 255), (0xE, ">f8", 1 / 255)],
)
def test_every_element_type_is_read(tmp_path: Path, code: int, dtype: str, factor: float) -> None:
    """Whole numbers from 0 to 255, or floats from 0 to 1, are the same images; labels of any type the same numbers."""
    pixels = np.random.default_rng(0).integers(0, 256 if factor else 128, (5, 28, 28))
    header = bytes([0, 0, code, 3]) + struct.pack(">3I", 5, 28, 28)
    (tmp_path / "images").write_bytes(header + (pixels * (factor or 1)).astype(dtype).tobytes())
    assert np.array_equal(images(tmp_path / "images"), pixels)
    header = bytes([0, 0, code, 1]) + struct.pack(">I", 3)
    (tmp_path / "labels").write_bytes(header + np.array([3, 0, 120], dtype).tobytes())
    assert labels(tmp_path / "labels").tolist() == [3, 0, 120]


def test_the_first_column_of_qmnists_labels_is_the_class(tmp_path: Path) -> None:
    """They are `int32[n, 8]`: the class, then where the image comes from."""
    table = np.array([[7, 4, 2610, 25, 75060, 0, 0, 0], [2, 4, 2300, 3, 78690, 1, 0, 0]], ">i4")
    (tmp_path / "labels").write_bytes(bytes([0, 0, 0xC, 2]) + struct.pack(">2I", 2, 8) + table.tobytes())
    assert labels(tmp_path / "labels").tolist() == [7, 2]


@pytest.mark.parametrize("part", MNIST_PARTS)
def test_mnist_is_read_as_torchvision_reads_it(mnist_directory: Path, part: str) -> None:
    """On the real files, images and labels are those that torchvision's reader gives."""
    pictures, names = (mnist_directory / f"{part}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1"))
    assert np.array_equal(images(pictures), read_image_file(str(pictures)).numpy())
    assert np.array_equal(labels(names), read_label_file(str(names)).numpy())


@pytest.mark.parametrize("compress", [False, True])
@same_directory
@given(head=st.sampled_from([b"", b"\0\0\x08\1", b"\0\0\x08\3"]), tail=st.binary(max_size=40))
@example(head=b"\0\0\x08\3", tail=b"\0\0\0\0" + b"\xff" * 8)
@example(head=b"\0\0\x08\3", tail=b"\xff" * 12)
@example(head=b"\0\0\x08\1", tail=b"\xff" * 4)
@example(head=b"\0\0\x08\1", tail=b"\0\0\0\0")
def test_arbitrary_bytes_give_an_error_or_their_labels(
    tmp_path: Path, compress: bool, head: bytes, tail: bytes
) -> None:
    """Whatever the bytes: a DataError, or labels that pack to those very bytes; images are never read of so few."""
    path = write(tmp_path, head + tail, compress=compress)
    try:
        read = labels(path)
    except DataError as error:
        assert str(path) in str(error)  # noqa: PT017 - both outcomes are right
    else:
        assert packed(read.shape, read.tobytes()) == head + tail
    with pytest.raises(DataError):
        images(path)


@same_directory
@given(st.binary(max_size=60))
def test_arbitrary_compressed_bytes_are_rejected(tmp_path: Path, data: bytes) -> None:
    """Bytes that are no gzip file behind its first bytes are a DataError."""
    (tmp_path / "file.gz").write_bytes(b"\x1f\x8b" + data)
    with pytest.raises(DataError):
        labels(tmp_path / "file.gz")


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("change", [-1, 1, 1000])
def test_bytes_too_few_or_too_many_are_rejected(tmp_path: Path, compress: bool, change: int) -> None:
    """A file that is shorter or longer than it claims is rejected, and which of both is said."""
    path = write(tmp_path, packed((4, 28, 28), bytes(4 * 784 + change)), compress=compress)
    with pytest.raises(DataError, match="fewer" if change < 0 else "more"):
        images(path)


def test_every_cut_of_a_compressed_file_is_rejected(tmp_path: Path) -> None:
    """A `.gz` that ends early, wherever, is a DataError."""
    whole = write(tmp_path, packed((40,), bytes(range(40))), compress=True).read_bytes()
    for length in range(len(whole)):
        (tmp_path / "file.gz").write_bytes(whole[:length])
        with pytest.raises(DataError):
            labels(tmp_path / "file.gz")


def test_every_changed_byte_of_a_compressed_file_is_rejected_or_harmless(tmp_path: Path) -> None:
    """One wrong byte in a `.gz` is a DataError, unless gzip keeps a date or the like there."""
    content = bytes(range(200)) * 3
    whole = write(tmp_path, packed((len(content),), content), compress=True).read_bytes()
    rejected = 0
    for position in range(len(whole)):
        data = bytearray(whole)
        data[position] ^= 0x55
        (tmp_path / "file.gz").write_bytes(data)
        try:
            assert labels(tmp_path / "file.gz").tobytes() == content
        except DataError:
            rejected += 1
    assert rejected >= len(whole) - 7  # of the ten bytes of a gzip header


def test_a_wrong_checksum_is_rejected(tmp_path: Path) -> None:
    """A compressed file whose content does not match its CRC is rejected."""
    path = write(tmp_path, packed((40,), bytes(40)), compress=True)
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="CRC"):
        labels(path)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("shape", [(2**32 - 1,), (2**31, 28, 28), (2**32 - 1, 2**32 - 1, 2**32 - 1)])
def test_a_claimed_size_is_not_believed(tmp_path: Path, compress: bool, shape: tuple[int, ...]) -> None:
    """A file of a few bytes that claims gigabytes is rejected without taking memory for them."""
    path = write(tmp_path, packed(shape, b"short"), compress=compress)
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            (labels if len(shape) == 1 else images)(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_images_and_labels_are_told_apart(tmp_path: Path) -> None:
    """Each says that it is the other."""
    with pytest.raises(DataError, match="1 axis, as labels have"):
        images(write(tmp_path, packed((12,), bytes(12)), compress=False))
    with pytest.raises(DataError, match="3 axes, labels have one"):
        labels(write(tmp_path, packed((2, 28, 28), bytes(2 * 784)), compress=False))
    with pytest.raises(DataError, match="images of 32x32"):
        images(write(tmp_path, packed((2, 32, 32), bytes(2 * 1024)), compress=False))


def test_what_cannot_be_opened_is_a_data_error(tmp_path: Path) -> None:
    """A missing file and a directory are DataErrors that name the path."""
    for path in (tmp_path / "missing", tmp_path):
        for read in (labels, images):
            with pytest.raises(DataError, match=str(path)):
                read(path)
