"""The IDX reader, against files packed by hand and against torchvision's own reader."""

import gzip
import math
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torchvision.datasets.mnist import read_image_file, read_label_file

from training.data.formats.idx import read_idx
from training.errors import DataError

MNIST_PARTS = ("train", "t10k")
same_directory = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def packed(shape: tuple[int, ...], data: bytes) -> bytes:
    """Return an IDX file of unsigned bytes: two zeros, the type, the number of axes, sizes, bytes."""
    return bytes([0, 0, 0x08, len(shape)]) + b"".join(struct.pack(">I", size) for size in shape) + data


def write(directory: Path, data: bytes, *, compress: bool) -> Path:
    """Write a file, compressed if asked, under the name that says so."""
    path = directory / ("file.gz" if compress else "file")
    path.write_bytes(gzip.compress(data, 1) if compress else data)
    return path


@pytest.mark.parametrize("compress", [False, True])
@same_directory
@given(data=st.data())
def test_what_was_packed_is_read(tmp_path: Path, compress: bool, data: st.DataObject) -> None:
    """Any shape and any bytes come back, raw and compressed, in an array that can be written to."""
    shape = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple))
    content = data.draw(st.binary(min_size=math.prod(shape), max_size=math.prod(shape)))
    read = read_idx(write(tmp_path, packed(shape, content), compress=compress), len(shape))
    assert (read.shape, read.tobytes()) == (shape, content)
    assert read.dtype == np.uint8
    read[...] = 0


@pytest.mark.parametrize("part", MNIST_PARTS)
def test_mnist_is_read_as_torchvision_reads_it(mnist_directory: Path, part: str) -> None:
    """On the real files, images and labels are those that torchvision's reader gives."""
    images, labels = (mnist_directory / f"{part}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1"))
    assert np.array_equal(read_idx(images, 3), read_image_file(str(images)).numpy())
    assert np.array_equal(read_idx(labels, 1), read_label_file(str(labels)).numpy())


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dimensions", [1, 3])
@same_directory
@given(head=st.sampled_from([b"", b"\0\0\x08\1", b"\0\0\x08\3"]), tail=st.binary(max_size=40))
@example(head=b"\0\0\x08\3", tail=b"\0\0\0\0" + b"\xff" * 8)
@example(head=b"\0\0\x08\3", tail=b"\xff" * 12)
@example(head=b"\0\0\x08\1", tail=b"\xff" * 4)
@example(head=b"\0\0\x08\1", tail=b"\0\0\0\0")
def test_arbitrary_bytes_give_an_error_or_their_array(
    tmp_path: Path, dimensions: int, compress: bool, head: bytes, tail: bytes
) -> None:
    """Whatever the bytes: a DataError, or an array that packs to those very bytes."""
    path = write(tmp_path, head + tail, compress=compress)
    try:
        read = read_idx(path, dimensions)
    except DataError as error:
        assert str(path) in str(error)  # noqa: PT017 - both outcomes are right
    else:
        assert packed(read.shape, read.tobytes()) == head + tail


@same_directory
@given(st.binary(max_size=60))
def test_arbitrary_compressed_bytes_are_rejected(tmp_path: Path, data: bytes) -> None:
    """Bytes that are no gzip file, under a name that says so, are a DataError."""
    (tmp_path / "file.gz").write_bytes(data)
    with pytest.raises(DataError):
        read_idx(tmp_path / "file.gz", 1)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("change", [-1, 1, 1000])
def test_bytes_too_few_or_too_many_are_rejected(tmp_path: Path, compress: bool, change: int) -> None:
    """A file that is shorter or longer than it claims is rejected, and which of both is said."""
    path = write(tmp_path, packed((4, 28, 28), bytes(4 * 784 + change)), compress=compress)
    with pytest.raises(DataError, match="fewer" if change < 0 else "more"):
        read_idx(path, 3)


def test_every_cut_of_a_compressed_file_is_rejected(tmp_path: Path) -> None:
    """A `.gz` that ends early, wherever, is a DataError."""
    whole = write(tmp_path, packed((40,), bytes(range(40))), compress=True).read_bytes()
    for length in range(len(whole)):
        (tmp_path / "file.gz").write_bytes(whole[:length])
        with pytest.raises(DataError):
            read_idx(tmp_path / "file.gz", 1)


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
            assert read_idx(tmp_path / "file.gz", 1).tobytes() == content
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
        read_idx(path, 1)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("shape", [(2**32 - 1,), (2**31, 1, 2), (2**32 - 1, 2**32 - 1, 2**32 - 1)])
def test_a_claimed_size_is_not_believed(tmp_path: Path, compress: bool, shape: tuple[int, ...]) -> None:
    """A file of a few bytes that claims gigabytes is rejected without taking memory for them."""
    path = write(tmp_path, packed(shape, b"short"), compress=compress)
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            read_idx(path, len(shape))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_another_type_or_another_number_of_axes_is_rejected(tmp_path: Path) -> None:
    """Floats, and labels where images are expected, are rejected by what they are."""
    floats = write(tmp_path, b"\0\0\x0d\1" + struct.pack(">If", 1, 0.5), compress=False)
    with pytest.raises(DataError, match="type 0x0d with 1 axes"):
        read_idx(floats, 1)
    labels = write(tmp_path, packed((12,), bytes(12)), compress=False)
    with pytest.raises(DataError, match=r"with 1 axes; .* with 3 are needed"):
        read_idx(labels, 3)


def test_what_cannot_be_opened_is_a_data_error(tmp_path: Path) -> None:
    """A missing file, a directory and a plain file called `.gz` are DataErrors that name the path."""
    (tmp_path / "plain.gz").write_bytes(packed((1,), b"x"))
    for path in (tmp_path / "missing", tmp_path, tmp_path / "plain.gz"):
        with pytest.raises(DataError, match=str(path)):
            read_idx(path, 1)
