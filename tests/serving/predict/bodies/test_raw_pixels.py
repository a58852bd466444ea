"""`.npy` bodies: every array that `bundle.images.numbers` reads, by its header; and pixels without one."""

import io
import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.support.pictures import Pixels, a_digit
from serving.errors import InvalidInstanceError, MalformedBodyError, ProblemError, TooManyImagesError
from serving.predict.bodies.raw_pixels import read_npy, read_raw

Array = npt.NDArray[Any]


def images() -> Pixels:
    """Return two different images."""
    return np.stack([a_digit(), a_digit().T])


def npy(array: Array) -> bytes:
    """Return an array as NumPy itself saves it."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def headed(header: str, data: bytes = b"") -> bytes:
    """Return a .npy file with this header, whatever it says."""
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode() + data


@pytest.mark.parametrize("dtype", ["u1", "<f4", ">f4", "<f8", ">f8", "<f2", "<i8", ">i2", "<u4"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(2, 28, 28), (2, 28, 28, 1), (2, 1, 28, 28), (2, 784)])
def test_arrays_of_pixels_are_read_in_every_type_shape_and_order(
    shape: tuple[int, ...], order: Any, dtype: str
) -> None:
    """From 0 to 255; floats from 0 to 1 too."""
    array = np.asarray(images().reshape(shape), dtype, order=order)
    assert np.array_equal(read_npy(npy(array), 2), images())
    if array.dtype.kind == "f":
        assert np.array_equal(read_npy(npy(np.asarray(array / 255, dtype, order=order)), 2), images())


@pytest.mark.parametrize("name", ["uint8", "|u1", "u1", "=u1", "int64", "float32", ">f8"])
def test_a_type_may_be_written_by_its_name(name: str) -> None:
    """As other writers than NumPy do."""
    header = f"{{'descr': '{name}', 'fortran_order': False, 'shape': (1, 28, 28)}}"
    assert np.array_equal(read_npy(headed(header, a_digit().astype(name).tobytes()), 1), a_digit()[None])


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 1), (784,), (1, 28, 28)])
def test_one_image_needs_no_axis_of_images(shape: tuple[int, ...]) -> None:
    """As a program has it that classifies one."""
    assert np.array_equal(read_npy(npy(a_digit().reshape(shape)), 1), a_digit()[None])


def test_booleans_are_black_and_white() -> None:
    """A mask is no image of next to black."""
    assert np.array_equal(read_npy(npy(images() > 9), 2), np.where(images() > 9, 255, 0))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        ((images() > 9).astype(np.float32), ["0..1 or 0..255", "numpy.rint(255 * array)"]),
        (1.05 * images() / 255, ["to 1.05", "numpy.clip"]),
        (images() / 127.5 - 1, ["from -1", "127.5 * (array + 1)"]),
        (images().astype(np.uint16) * 257, ["to 65535", "array / 257"]),
        (np.full((2, 784), np.nan), ["nan", "finite"]),
        (np.zeros((28, 28, 3), np.uint8), ["[28, 28, 3]", "gray"]),
        (np.zeros((2, 32, 32), np.uint8), ["[2, 32, 32]", "[N, 28, 28]"]),
        (np.zeros((2, 28, 28), np.complex64), ["<c8", "uint8"]),
        (np.zeros((2, 28, 28), "U1"), ["<U1", "uint8"]),
        (np.zeros((2, 28, 28), "M8[s]"), ["<M8[s]", "uint8"]),
        (np.zeros((2, 28, 28), [("a", "u1")]), ["[('a', '|u1')]", "uint8"]),
        (np.array([{}], dtype=object), ["|O", "uint8"]),
    ],
)
def test_an_array_in_doubt_is_refused_with_a_remedy(array: Array, words: list[str]) -> None:
    """No pickle is opened, and no remedy makes zeros of 0..1."""
    with pytest.raises(InvalidInstanceError) as caught:
        read_npy(npy(array), 2)
    text = f"{caught.value.detail} {caught.value.remedy}"
    assert all(word in text for word in words), text
    assert "array.astype" not in text


def test_a_header_is_not_believed_about_how_much_follows() -> None:
    """Nothing of the size that it claims is made."""
    huge = "{'descr': '<f8', 'fortran_order': False, 'shape': (%s)}"
    tracemalloc.start()
    for shape, problem in (
        ("1000000000000, 28, 28", TooManyImagesError),
        ("1000, 28, 28", MalformedBodyError),
        ("10**99, 28, 28", MalformedBodyError),
        (f"{10**99}, 28, 28", TooManyImagesError),
        ("-1, 28, 28", InvalidInstanceError),
        ("True, 28, 28", MalformedBodyError),
        ("28.0, 28", MalformedBodyError),
    ):
        with pytest.raises(problem):
            read_npy(headed(huge % shape, bytes(784)), 1024)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize(
    "descr", ["'<f7'", "'u1000'", "'|V100000000'", "'floaty'", "'O'", "'|O8'", "7", "None"]
)
def test_a_type_that_numpy_does_not_know_is_refused(descr: str) -> None:
    """As is one that is no number."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': (1, 28, 28)}}"
    with pytest.raises(InvalidInstanceError, match="dtype"):
        read_npy(headed(header, bytes(784)), 1)


@given(
    st.text("<>=|?bBuifcSUVOmM0123456789[s] ", max_size=6),
    st.lists(st.integers(-1, 30) | st.sampled_from([28, 784]), max_size=4),
    st.binary(max_size=20),
)
def test_any_header_gives_images_or_a_refusal(descr: str, shape: list[int], data: bytes) -> None:
    """Whatever type and shape it names."""
    header = f"{{'descr': {descr!r}, 'fortran_order': True, 'shape': {tuple(shape)}}}"
    try:
        found = read_npy(headed(header, data * 100), 4)
    except ProblemError as error:
        refusal = error
    else:
        assert found.shape[1:] == (28, 28)
        return
    assert 400 <= refusal.status < 500


def test_a_file_that_is_declared_as_pixels_is_told_its_type() -> None:
    """Of any length; JSON and arrays with a header too."""
    for body, word in (
        (npy(images()), "Content-Type: application/x-npy"),
        (b'{"instances": []}', "Content-Type: application/json"),
        (b'\xef\xbb\xbf {"instances": []}', "Content-Type: application/json"),
    ):
        with pytest.raises(InvalidInstanceError) as caught:
            read_raw(body, 1)
        assert word in caught.value.remedy
    with pytest.raises(MalformedBodyError) as malformed:
        read_npy(b'{"instances": []}', 1)
    assert "Content-Type: application/json" in malformed.value.remedy
