"""Raw pixels: `application/octet-stream` and `application/x-npy`."""

import ast
import re
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from bundle.images.contract import IMAGE_SIZE, PIXELS
from bundle.images.errors import NumbersError
from bundle.images.numbers import count_of, to_pixels
from serving.errors import InvalidInstanceError, MalformedBodyError, TooManyImagesError
from serving.predict.bodies.media_types import NPY_MAGIC, remedy
from serving.predict.bodies.octet_types import mistaken

MAX_NPY_HEADER_BYTES = 1024
"""NumPy writes 118 for three axes; a longer one has fields of structured dtypes, which are not supported."""

_TYPE = re.compile(r"[<>=|]?(?:[?bBuif]|bool|u?int|float)[0-9]{0,3}")
"""Types of numbers in a header, as NumPy's array interface writes them or by name."""


def read_raw(body: bytes, max_images: int) -> npt.NDArray[np.uint8]:
    """Return `uint8[n, 28, 28]` from a body of pixels in row-major order.

    Raises:
        InvalidInstanceError: the length of the body is not a multiple of 784, or it is certainly of another type.
        TooManyImagesError: there are more than `max_images`.
    """
    count, rest = divmod(len(body), PIXELS)
    if rest or not count:
        raise InvalidInstanceError(
            f"the body has {len(body)} bytes, which is not a multiple of {PIXELS}",
            remedy=remedy(body) or f"Send N x {IMAGE_SIZE} x {IMAGE_SIZE} pixels of uint8 without a header.",
        )
    _check_count(count, max_images)
    if (other := mistaken(body)) is not None:
        raise InvalidInstanceError(
            f"the body has the length of {count} image{'s' if count > 1 else ''} of uint8, but it is {other.found}",
            remedy=other.remedy,
        )
    return np.frombuffer(body, np.uint8).reshape(count, IMAGE_SIZE, IMAGE_SIZE)


def read_npy(body: bytes, max_images: int) -> npt.NDArray[np.uint8]:
    """Return `uint8[n, 28, 28]` from a .npy file (NEP 1; versions 1.0, 2.0 and 3.0), as `to_pixels` reads its array.

    Raises:
        MalformedBodyError: it is not a .npy file, or truncated.
        InvalidInstanceError: its array is not one of images, or the range of its values is in doubt.
        TooManyImagesError: there are more than `max_images`.
    """
    descr, fortran, shape, data = _npy_parts(body)
    try:
        dtype = _dtype(descr)
        count = count_of(shape)
        _check_count(count, max_images)
        size = count * PIXELS * dtype.itemsize
        if len(data) != size:
            raise MalformedBodyError(
                f"the file has {len(data)} bytes of data, but its shape needs {size}",
                remedy="Send the whole file that numpy.save wrote.",
            )
        return to_pixels(np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C"))
    except NumbersError as error:
        advice = f"{error.remedy[0].upper()}{error.remedy[1:]}."
        raise InvalidInstanceError(error.detail, remedy=advice) from None


def _dtype(descr: Any) -> "np.dtype[Any]":
    """Return the type that a header names.

    Raises:
        NumbersError: it is none of numbers, or unknown to NumPy.
    """
    if isinstance(descr, str) and _TYPE.fullmatch(descr):
        with suppress(TypeError):
            return np.dtype(descr)
    raise NumbersError(f"the array's dtype is {str(descr)[:40]!r}", "save uint8, from 0 to 255")


def _npy_parts(body: bytes) -> tuple[Any, bool, tuple[int, ...], memoryview]:
    """Return dtype, whether the order is Fortran's, shape, and the data after the header.

    This is not `imagesets.formats.arrays.headers`, because NumPy's reader takes 1.14 times as long for a request of one
    image (15.3 us instead of 13.5), and parses a malformed header again in the format of Python 2, with a warning.
    """
    if len(body) < 12 or not body.startswith(NPY_MAGIC) or body[6] not in (1, 2, 3):
        raise MalformedBodyError(
            "the body is not a .npy file",
            remedy=remedy(body) or "Send the output of numpy.save, not of savez or pickle.",
        )
    start = 10 if body[6] == 1 else 12  # versions 2.0 and 3.0 have a length of four bytes
    end = start + int.from_bytes(body[8:start], "little")
    try:
        if end > min(len(body), start + MAX_NPY_HEADER_BYTES):
            raise ValueError("it is truncated, or too long")
        return *_npy_header(body[start:end], "utf-8" if body[6] == 3 else "latin-1"), memoryview(body)[end:]
    # The exceptions of literal_eval, which evaluates literals only.
    except (ValueError, SyntaxError, TypeError, LookupError, RecursionError) as error:
        raise MalformedBodyError(
            f"the .npy file's header cannot be parsed: {str(error)[:100]}",
            remedy="Send the output of numpy.save for an array of uint8.",
        ) from None


@lru_cache(maxsize=64)
def _npy_header(text: bytes, encoding: str) -> tuple[Any, bool, tuple[int, ...]]:
    """Return dtype, order and shape, as `_npy_parts`; a client sends few different headers."""
    header = ast.literal_eval(text.decode(encoding).strip())
    dtype, fortran, shape = header["descr"], header["fortran_order"], header["shape"]
    if type(fortran) is not bool or type(shape) is not tuple or any(type(axis) is not int for axis in shape):
        raise ValueError("its fields have other types")
    return dtype, fortran, shape


def _check_count(count: int, max_images: int) -> None:
    if count > max_images:
        raise TooManyImagesError(f"the body has {count} images; at most {max_images} are allowed")
