"""`POST /predict` with pixels as they are: `application/octet-stream` and `application/x-npy`."""

import ast
from typing import Any

import numpy as np
import numpy.typing as npt

from bundle.images.decoding import sniff
from bundle.manifest import IMAGE_SIZE
from serving.errors import InvalidInstanceError, MalformedBodyError, TooManyImagesError

IMAGE_BYTES = IMAGE_SIZE * IMAGE_SIZE
NPY_MAGIC = b"\x93NUMPY"
MAX_NPY_HEADER_BYTES = 1024
"""NumPy writes 118 for three axes; what is longer has fields that are not read here."""

_SHAPE = f"N x {IMAGE_SIZE} x {IMAGE_SIZE}"


def read_raw(body: bytes, max_images: int) -> npt.NDArray[np.uint8]:
    """Return `uint8[n, 28, 28]` of a body that is nothing but pixels, row by row.

    Raises:
        InvalidInstanceError: the body's length is no multiple of 784.
        TooManyImagesError: there are more than `max_images`.
    """
    count, rest = divmod(len(body), IMAGE_BYTES)
    if rest or not count:
        likely = sniff(body)
        raise InvalidInstanceError(
            f"the body has {len(body)} bytes, which is no multiple of {IMAGE_BYTES}",
            remedy=f"It looks like a file: declare it, with Content-Type: {likely}."
            if likely
            else f"application/octet-stream is uint8 of {_SHAPE} without any header.",
        )
    _check_count(count, max_images)
    return np.frombuffer(body, np.uint8).reshape(count, IMAGE_SIZE, IMAGE_SIZE)


def read_npy(body: bytes, max_images: int) -> npt.NDArray[np.uint8]:
    """Return `uint8[n, 28, 28]` of a .npy file (NEP 1; versions 1.0, 2.0 and 3.0).

    Raises:
        MalformedBodyError: it is no .npy file, or not whole.
        InvalidInstanceError: its array is not `uint8[n, 28, 28]`.
        TooManyImagesError: there are more than `max_images`.
    """
    dtype, fortran, shape, data = _npy_parts(body)
    if dtype not in ("|u1", "u1", "<u1", ">u1", "=u1", "uint8"):
        raise InvalidInstanceError(
            f"the array's dtype is {str(dtype)[:40]!r}",
            remedy="Save uint8 from 0 to 255: array.astype(numpy.uint8).",
        )
    if len(shape) != 3 or shape[1:] != (IMAGE_SIZE, IMAGE_SIZE) or shape[0] < 1:
        raise InvalidInstanceError(
            f"the array's shape is {str(shape)[:60]}",
            remedy=f"Save {_SHAPE}, N at least 1: array.reshape(-1, {IMAGE_SIZE}, {IMAGE_SIZE}).",
        )
    _check_count(shape[0], max_images)
    if len(data) != shape[0] * IMAGE_BYTES:
        raise MalformedBodyError(
            f"the file has {len(data)} bytes of data, its shape asks for {shape[0] * IMAGE_BYTES}",
            remedy="Send the whole file that numpy.save wrote.",
        )
    images = np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")
    return np.ascontiguousarray(images)


def _npy_parts(body: bytes) -> tuple[Any, bool, tuple[int, ...], bytes]:
    """Return dtype, whether it is in Fortran's order, shape, and the data behind the header.

    Not by `imagesets.array_files`: NumPy's reader makes a body of one image 1.14 times as long, 15.3 us for 13.5, and
    reads a header that does not parse a second time, as Python 2 wrote it, with a warning.
    """
    if len(body) < 12 or not body.startswith(NPY_MAGIC) or body[6] not in (1, 2, 3):
        raise MalformedBodyError(
            "the body is no .npy file", remedy="Send what numpy.save writes, not savez and not a pickle."
        )
    start = 10 if body[6] == 1 else 12  # versions 2.0 and 3.0 have four bytes of length
    end = start + int.from_bytes(body[8:start], "little")
    try:
        if end > min(len(body), start + MAX_NPY_HEADER_BYTES):
            raise ValueError("it is cut off, or too long")
        header = ast.literal_eval(body[start:end].decode("utf-8" if body[6] == 3 else "latin-1").strip())
        dtype, fortran, shape = header["descr"], header["fortran_order"], header["shape"]
        if (
            type(fortran) is not bool
            or type(shape) is not tuple
            or any(type(axis) is not int for axis in shape)
        ):
            raise ValueError("its fields have other types")
    # literal_eval is safe and has many ways to refuse.
    except (ValueError, SyntaxError, TypeError, LookupError, RecursionError) as error:
        raise MalformedBodyError(
            f"the .npy file's header cannot be read: {str(error)[:100]}",
            remedy="Send what numpy.save writes, of an array of uint8.",
        ) from None
    return dtype, fortran, shape, body[end:]


def _check_count(count: int, max_images: int) -> None:
    if count > max_images:
        raise TooManyImagesError(
            f"the body has {count} images; {max_images} are allowed",
            remedy="Send them in several requests, or raise GLYPH_MAX_IMAGES.",
        )
