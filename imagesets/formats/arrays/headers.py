"""Parsers of the headers of IDX and NumPy's `.npy` files, shared by training and scoring.

Callers check type and shape, and must not trust them about how many bytes follow.

Sources: IDX, the format's description on the MNIST page by Yann LeCun, Corinna Cortes and Christopher
J. C. Burges; `.npy`, NumPy's Enhancement Proposal 1.
"""

import struct
from typing import IO, Any, NamedTuple, Protocol

import numpy as np

IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""The third byte of an IDX file to NumPy's name of the type."""


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class IdxHeader(NamedTuple):
    """The header of an IDX file."""

    start: bytes
    """The first four bytes: two zeros, the type, and the number of axes."""
    dtype: "np.dtype[Any] | None"
    """None if this is not an IDX file, or it ends within the header."""
    shape: tuple[int, ...]


class NpyHeader(NamedTuple):
    """The header of a `.npy` file."""

    dtype: "np.dtype[Any]"
    shape: tuple[int, ...]
    fortran: bool
    """Whether the first axis varies fastest."""


def read_idx_header(file: _Readable) -> IdxHeader:
    """Read the header of an IDX file: a type, the number of axes, and their lengths (big-endian)."""
    start = file.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in IDX_TYPES:
        return IdxHeader(start, None, ())
    sizes = file.read(4 * start[3])
    if len(sizes) < 4 * start[3]:
        return IdxHeader(start, None, ())
    return IdxHeader(start, np.dtype(IDX_TYPES[start[2]]), struct.unpack(f">{start[3]}I", sizes))


def read_npy_header(file: IO[bytes]) -> NpyHeader:
    """Read the header of a `.npy` file.

    Raises:
        ValueError: it is not such a file, or has an unknown version.
    """
    match np.lib.format.read_magic(file):
        case (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        case (2, 0) | (3, 0):  # they differ in the encoding of field names, which plain arrays do not have
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        case version:
            raise ValueError(f"version {version} of the format is not supported")
    if any(axis < 0 for axis in shape):
        raise ValueError(f"shape {list(shape)} has a negative axis")
    return NpyHeader(dtype, shape, fortran)
