"""Arrays of numbers as images: types, shapes and ranges that are read, and those that are refused with a remedy."""

import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bench.support.pictures import Pixels, a_digit
from bundle.images.errors import NumbersError
from bundle.images.numbers import (
    BLOCK_IMAGES,
    PixelRange,
    check_type,
    count_of,
    joined,
    judge,
    needs_no_values,
    scale,
    shaped,
    to_pixels,
    values_of,
)

Array = npt.NDArray[Any]

FLOATS = ("<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "longdouble")
INTEGERS = ("i2", ">i2", "u2", "i4", "u4", ">i8", "u8")


def images(*shape: int) -> Pixels:
    """Return the same noise each time, of shape `[..., 28, 28]`, with both ends of the range."""
    made = np.random.default_rng(3).integers(0, 256, (*shape, 28, 28), dtype=np.uint8)
    made[..., 0, :2] = 0, 255
    return made


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_of_either_range_become_the_pixels_that_they_were_made_of(dtype: str) -> None:
    """K / 255 becomes k, in every precision and byte order, and k becomes k."""
    every = np.zeros((1, 28, 28), np.uint8)
    every.ravel()[:256] = np.arange(256)
    assert np.array_equal(to_pixels((every / 255).astype(dtype)), every)
    assert np.array_equal(to_pixels(every.astype(dtype)), every)
    between = np.where(every == 7, 7.25, every).astype(dtype)
    assert np.array_equal(to_pixels(between), every)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_of_any_width_are_taken_if_all_are_pixels(dtype: str) -> None:
    """Signed or not, in either byte order."""
    assert np.array_equal(to_pixels(images(2).astype(dtype)), images(2))


def test_a_boolean_is_black_or_white() -> None:
    """Whatever range is declared: it is no number."""
    mask = images(2) > 128
    for pixels in ("auto", "0..1", "0..255"):
        assert np.array_equal(to_pixels(mask, pixels=pixels), np.where(mask, 255, 0))


def test_unsigned_bytes_are_taken_as_they_are_without_a_copy() -> None:
    """Ones, too: who sends bytes of 0 and 1 gets a warning elsewhere, and the images next to black."""
    array = images(3)
    assert np.shares_memory(to_pixels(array), array)
    assert np.array_equal(to_pixels(array & 1), array & 1)
    assert np.array_equal(to_pixels(array & 1, pixels="0..1"), 255 * (array & 1))


@pytest.mark.parametrize("dtype", ["u1", "f4", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "shape", [(3, 28, 28), (3, 28, 28, 1), (3, 1, 28, 28), (3, 784), (28, 28, 28), (784, 784)]
)
def test_every_shape_of_images_is_read_in_either_memory_order(
    shape: tuple[int, ...], order: Any, dtype: str
) -> None:
    """The last two have an axis that is as long as another, and one meaning all the same."""
    expected = images(shape[0]) & 128 if dtype != "?" else np.where(images(shape[0]) > 127, 255, 0)
    array = np.asarray(expected.reshape(shape), dtype, order=order)
    found = to_pixels(array)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 1), (1, 28, 28), (784,), (1, 784), (1, 1, 28, 28)])
def test_one_image_needs_no_axis_of_images(shape: tuple[int, ...]) -> None:
    """It is returned with one."""
    assert np.array_equal(to_pixels(images().reshape(shape)), images(1))


@pytest.mark.parametrize(
    ("shape", "word"),
    [
        ((), "[]"),
        ((0, 28, 28), "N at least 1"),
        ((2, 32, 32), "[2, 32, 32]"),
        ((28, 28, 3), "gray"),
        ((2, 28, 28, 3), "gray"),
        ((2, 28, 28, 4), "gray"),
        ((28, 28, 60), "numpy.moveaxis(array, -1, 0)"),
        ((784, 60), "array.T"),
        ((2, 2, 28, 28), "[N, 28, 28]"),
        ((1,) * 40, "..."),
    ],
)
def test_another_shape_is_refused_with_the_way_to_a_right_one(shape: tuple[int, ...], word: str) -> None:
    """It is known by the header, before an array of that shape is made."""
    with pytest.raises(NumbersError) as caught:
        count_of(shape)
    assert word in str(caught.value)


@pytest.mark.parametrize("dtype", ["c8", "U3", "S3", "O", "M8[s]", "m8[s]", "V784", [("a", "u1")]])
def test_another_type_is_refused(dtype: Any) -> None:
    """A value of it is never looked at."""
    with pytest.raises(NumbersError, match="uint8"):
        check_type(np.dtype(dtype))
    with pytest.raises(NumbersError, match="uint8"):
        to_pixels(np.zeros((2, 28, 28), dtype))


def with_value(value: float, others: Array) -> Array:
    """Return an array of the others' type, of images with one value of another range."""
    array = others.copy()
    array[1, 5, 5] = value
    return array


UNIT = images(2) / 255


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (with_value(-1e-3, UNIT), "from -0.001 to 1; normalisation; 127.5"),
        (with_value(-2.1, UNIT), "from -2.1; undo their normalisation"),
        (with_value(-1, images(2).astype(int)), "from -1 to 255; normalisation"),
        (with_value(256, images(2).astype(int)), "to 256; 257; 65535"),
        (with_value(np.nan, UNIT), "nan; finite"),
        (with_value(np.inf, UNIT), "inf; finite"),
        (with_value(-np.inf, UNIT), "-inf; finite"),
    ],
)
@pytest.mark.parametrize("pixels", ["auto", "0..1", "0..255"])
def test_what_is_no_pixel_is_refused_whatever_is_declared(
    array: Array, words: str, pixels: PixelRange
) -> None:
    """The sentence says what was found and what to do."""
    with pytest.raises(NumbersError) as caught:
        to_pixels(array, pixels=pixels)
    assert all(word in str(caught.value) for word in words.split("; ")), caught.value
    assert not caught.value.in_doubt


@pytest.mark.parametrize(
    ("array", "as_bytes"),
    [
        ((images(2) & 1).astype(np.float32), images(2) & 1),
        ((images(2) & 1).astype(np.int64), images(2) & 1),
        (1.02 * UNIT, np.rint(1.02 * UNIT)),
        (2 * UNIT, np.rint(2 * UNIT)),
    ],
)
def test_a_range_in_doubt_is_refused_unless_it_is_declared(array: Array, as_bytes: Array) -> None:
    """Zeros and ones alone, and what exceeds 1 by a little; the remedy is not `astype` alone, which makes zeros."""
    with pytest.raises(NumbersError, match=r"numpy.rint\(255 \* array\)") as caught:
        to_pixels(array)
    assert caught.value.in_doubt
    assert np.array_equal(to_pixels(array, pixels="0..255"), as_bytes)
    if array.max() <= 1:
        assert np.array_equal(to_pixels(array, pixels="0..1"), 255 * array)
    else:
        with pytest.raises(NumbersError, match=r"declared as 0\.\.1"):
            to_pixels(array, pixels="0..1")


@pytest.mark.parametrize("dtype", ["f4", "i8", "u1", "?"])
def test_a_blank_array_is_black_in_either_range(dtype: str) -> None:
    """Nothing is in doubt about it."""
    assert not to_pixels(np.zeros((2, 784), dtype)).any()


def test_a_whole_array_is_judged_not_a_block_of_it() -> None:
    """A block of zeros and ones stands beside one that says what they are, in both orders."""
    array = np.zeros((BLOCK_IMAGES + 2, 784), np.float32)
    array[0, 0] = 1
    for decisive, white in ((0.5, 255), (200, 1)):
        array[-1, -1] = decisive
        for one in (array, array[::-1]):
            found = to_pixels(one)
            assert {0, white} <= set(np.unique(found)) == {0, white, round(decisive * white)}


def test_zero_has_no_sign() -> None:
    """Else a message would say that values are from -0, by the order in which NumPy compares."""
    for zeros in ([-0.0], [-0.0, 0.0], [0.0, -0.0]):
        assert str(values_of(np.array(zeros, np.float32))[:2]) == "(0.0, 0.0)"


@given(
    array=arrays.arrays(
        st.sampled_from(["f4", ">f8", "f2", "i2", "u1", "?"]),
        st.tuples(st.integers(1, 4), st.just(784)),
        fill=st.sampled_from([0, 1]),
    ),
    pixels=st.sampled_from(["auto", "0..1", "0..255"]),
)
def test_chunks_are_read_as_the_whole_array_is(array: Array, pixels: PixelRange) -> None:
    """Whatever the values: the same images, or the same refusal."""
    try:
        expected = to_pixels(array, pixels=pixels)
    except NumbersError as error:
        refusal = str(error)
        with pytest.raises(NumbersError) as caught:
            judge(joined(values_of(row) for row in array), array.dtype, pixels)
        assert str(caught.value) == refusal
        return
    values = None if needs_no_values(array.dtype, pixels) else joined(values_of(row) for row in array)
    factor = judge(values, array.dtype, pixels)
    chunks = [scale(shaped(array[at : at + 1]), factor) for at in range(len(array))]
    assert np.array_equal(np.concatenate(chunks), expected)


@given(st.tuples(*[st.integers(-(2**70), 2**70)] * 3) | st.lists(st.integers(0, 40), max_size=5).map(tuple))
def test_any_shape_has_images_or_is_refused(shape: tuple[int, ...]) -> None:
    """A count is exact: as many values as that many images have."""
    try:
        count = count_of(shape)
    except NumbersError:
        return
    assert count * 784 == np.prod(shape, dtype=object)


def test_little_memory_is_taken_beside_the_result() -> None:
    """An array of doubles is looked at and converted in blocks."""
    array = np.full((10 * BLOCK_IMAGES, 784), 0.5)
    array[0] = 0
    block = BLOCK_IMAGES * 784 * 8
    tracemalloc.start()
    to_pixels(array)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < array.size + 3 * block


def test_a_digit_in_the_range_of_floats_is_the_digit() -> None:
    """As torchvision's ToTensor makes it: `float32[1, 28, 28]`, 0..1."""
    tensor = (a_digit() / 255).astype(np.float32)[None]
    assert np.array_equal(to_pixels(tensor)[0], a_digit())
