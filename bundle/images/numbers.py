"""From an array of numbers, whatever its type and shape, to images of the input contract; NumPy alone.

    images = to_pixels(array)                           the range of its values is found out
    images = to_pixels(array, pixels="0..1")            it is declared

Of an array that is streamed, every chunk is read as the whole is:

    count = count_of(shape)                             from the header, before anything is allocated
    check_type(dtype)
    values = joined(map(values_of, chunks))             unless `needs_no_values(dtype, pixels)`
    factor = judge(values, dtype, pixels)               once
    images = scale(shaped(chunk), factor)               of each chunk

A range is found out over the whole array, and only where it allows no doubt, because one number is white in one range
and next to black in the other:

    type               values                                       read as
    bool               any                                          0 and 255
    uint8              any                                          0..255: no other range is usual for this type
    another, all 0     0                                            black, in either range
    other integers     within 0..255, beyond 1                      0..255
    floats             within 0..1, one strictly between            0..1: times 255, rounded
    floats             within 0..255, beyond 1, whole               0..255
    floats             within 0..255, beyond 2                      0..255, rounded
    not uint8          0 and 1 alone                                refused: 1 is white, or next to black
    floats             within 0..2, beyond 1, not whole             refused: 0..1 exceeded by interpolation, or 0..255
    any                negative, beyond 255, NaN or infinite        refused

Numbers are rounded half to even (`numpy.rint`): k / 255 becomes k again, of float16 too.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from bundle.images.contract import IMAGE_SIZE, PIXELS
from bundle.images.errors import NumbersError

PixelRange = Literal["auto", "0..1", "0..255"]
"""The range of an array's values as it is declared; `auto` is none."""
Factor = Literal[1, 255]
"""What values are multiplied by to become pixels."""

OVERSHOOT = 2
"""Greatest value that may still belong to the range 0..1, which cubic and Lanczos interpolation exceed."""
BLOCK_IMAGES = 4096
"""Images that are converted at once, which bounds the memory for intermediate arrays."""

CONVERT = (
    "numpy.rint(255 * array).astype(numpy.uint8) if 1 is white, "
    "or numpy.rint(array).astype(numpy.uint8) if 255 is"
)
"""What makes pixels of a range in doubt; `astype` alone would turn 0..1 into zeros."""

_SIDES = (IMAGE_SIZE, IMAGE_SIZE)
_IMAGE_SHAPES = (_SIDES, (*_SIDES, 1), (1, *_SIDES), (PIXELS,))


class Values(NamedTuple):
    """What the range of an array is judged by."""

    minimum: float
    maximum: float
    """Both are NaN if a value is."""
    whole: bool
    """Whether all values are integers."""


def to_pixels(array: npt.NDArray[Any], *, pixels: PixelRange = "auto") -> npt.NDArray[np.uint8]:
    """Return an array of numbers as images.

    Args:
        array: booleans, integers or floats, in any byte order and memory order; of the shape `[n, 28, 28]`,
            `[n, 28, 28, 1]`, `[n, 1, 28, 28]` or `[n, 784]`, or one image, `[28, 28]`, `[28, 28, 1]` or `[784]`.
        pixels: the declared range of its values; `auto` finds it out by the table above.

    Returns:
        `uint8[n, 28, 28]`, n at least 1, in C order; the memory is the array's own where nothing is to convert.

    Raises:
        NumbersError: the type, the shape or a value is none of images, or the range is in doubt.
    """
    check_type(array.dtype)
    images = shaped(array)
    values = None if needs_no_values(array.dtype, pixels) else joined(map(values_of, _blocks(images)))
    factor = judge(values, array.dtype, pixels)
    if array.dtype == np.uint8 and factor == 1:
        return np.ascontiguousarray(images)
    converted = np.empty(images.shape, np.uint8)
    for source, target in zip(_blocks(images), _blocks(converted), strict=True):
        target[...] = scale(source, factor)
    return converted


def check_type(dtype: "np.dtype[Any]") -> None:
    """Check that a type is one of real numbers.

    Raises:
        NumbersError: it is another: complex, text, objects, a structure.
    """
    if dtype.kind not in "buif":
        raise NumbersError(f"the array's type is {str(dtype)[:60]}", "save uint8, from 0 to 255")


def count_of(shape: tuple[int, ...]) -> int:
    """Return how many images an array of this shape has, at least 1.

    Raises:
        NumbersError: it is not a shape of images.
    """
    if shape in (_SIDES, (*_SIDES, 1), (PIXELS,)):
        return 1
    if shape[1:] in _IMAGE_SHAPES and shape[0] > 0:
        return shape[0]
    listed = ", ".join(map(str, shape[:8])) + (", ..." if len(shape) > 8 else "")
    raise NumbersError(f"the array's shape is [{listed}]", _reshaping(shape))


def _reshaping(shape: tuple[int, ...]) -> str:
    if shape[-3:-1] == _SIDES and shape[-1] in (3, 4):
        return "convert the colours to gray, so that a pixel is one number"
    if len(shape) == 3 and shape[:2] == _SIDES:
        return "put the axis of the images first: numpy.moveaxis(array, -1, 0)"
    if len(shape) == 2 and shape[0] == PIXELS:
        return "put the axis of the images first: array.T"
    return f"save [N, {IMAGE_SIZE}, {IMAGE_SIZE}] or [N, {PIXELS}], N at least 1"


def shaped(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array, or a chunk of one along its first axis, as `[n, 28, 28]` of the same type.

    Raises:
        NumbersError: it has not the shape of images.
    """
    return array.reshape(count_of(array.shape), *_SIDES)


def needs_no_values(dtype: "np.dtype[Any]", pixels: PixelRange = "auto") -> bool:
    """Tell whether the type alone, or with what is declared, decides the range, so that no value need be read."""
    return dtype == np.bool_ or (dtype == np.uint8 and pixels != "0..1")


def values_of(array: npt.NDArray[Any]) -> Values:
    """Return what the range of an array, of one element at least, is judged by."""
    whole = array.dtype.kind != "f" or bool((array == np.floor(array)).all())
    # Which of 0 and -0 is the least depends on NumPy's loop: adding 0 makes either 0.
    return Values(float(array.min()) + 0.0, float(array.max()) + 0.0, whole)


def joined(chunks: Iterable[Values]) -> Values:
    """Return the values of an array by those of its chunks, of which there is one at least."""
    lows, highs, wholes = zip(*chunks, strict=True)
    return Values(float(np.min(lows)), float(np.max(highs)), all(wholes))  # min() and max() would lose a NaN


def judge(values: Values | None, dtype: "np.dtype[Any]", pixels: PixelRange = "auto") -> Factor:
    """Return what an array's values are multiplied by, by the table above.

    Args:
        values: of the whole array; None if `needs_no_values`.
        dtype: the array's, which `check_type` accepts.
        pixels: the declared range.

    Raises:
        NumbersError: a value is none of a pixel, contradicts the declared range, or leaves the range in doubt.
    """
    if values is None:
        return 255 if dtype == np.bool_ else 1
    low, high, whole = values
    found = f"the values are {dtype.name} from {low:.9g} to {high:.9g}"
    if not (low >= 0 and high <= 255):  # NaN, too
        raise NumbersError(f"{found}; pixels are from 0 to 255", _bounding(low, high))
    if pixels == "0..1" and high > 1:
        raise NumbersError(f"{found}, and are declared as 0..1", "declare 0..255 if 255 is white")
    if pixels != "auto":
        return 255 if pixels == "0..1" else 1
    if whole and high == 1:
        raise NumbersError(f"{found}, which may be 0..1 or 0..255", f"save {CONVERT}", in_doubt=True)
    if whole or high > OVERSHOOT:
        return 1
    if high <= 1:
        return 255
    raise NumbersError(
        f"{found}, which may be 0..255, or 0..1 exceeded by interpolation",
        f"save {CONVERT}; numpy.clip(array, 0, 1) removes the excess",
        in_doubt=True,
    )


def _bounding(low: float, high: float) -> str:
    if not np.isfinite([low, high]).all():
        return "replace what is not a finite number"
    if low < 0:
        tanh = "; numpy.rint(127.5 * (array + 1)) if they are of -1..1" if low >= -1 and high <= 1 else ""
        return f"undo their normalisation, and save uint8{tanh}"
    return "scale them to 0..255: numpy.rint(array / 257).astype(numpy.uint8) if 65535 is white"


def scale(array: npt.NDArray[Any], factor: Factor) -> npt.NDArray[np.uint8]:
    """Return numbers as pixels of the same shape, in C order.

    Args:
        array: of those values that `judge` has seen; others would wrap around.
        factor: what `judge` returned.
    """
    pixels: npt.NDArray[np.uint8]
    if array.dtype.kind == "f":
        wide = array.astype(np.float32) if array.dtype.itemsize == 2 else array
        pixels = np.rint(wide * factor).astype(np.uint8, order="C")
    else:
        pixels = np.multiply(array, factor, dtype=np.uint8, casting="unsafe", order="C")
    return pixels


def _blocks(images: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    return (images[start : start + BLOCK_IMAGES] for start in range(0, len(images), BLOCK_IMAGES))
