"""The heads of files that hold arrays, IDX and NumPy's `.npy`: read here for training and scoring alike.

What a head says of type and shape is for the caller to judge; nothing is believed of how much follows it.

Sources: IDX, the format's description on the MNIST page by Yann LeCun, Corinna Cortes and Christopher
J. C. Burges; `.npy`, NumPy's Enhancement Proposal 1.
"""

import struct
from typing import IO, Any, NamedTuple, Protocol

import numpy as np

IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""The third byte of an IDX file, as NumPy names the type."""


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class IdxHead(NamedTuple):
    """What stands before an IDX file's numbers."""

    start: bytes
    """The first four bytes: two of zero, the type, the number of axes."""
    dtype: "np.dtype[Any] | None"
    """None: the file is no IDX file, or ends before its numbers begin."""
    shape: tuple[int, ...]


class NpyHead(NamedTuple):
    """What stands before a `.npy` file's numbers."""

    dtype: "np.dtype[Any]"
    shape: tuple[int, ...]
    fortran: bool
    """Whether the first axis varies fastest."""


def read_idx_head(file: _Readable) -> IdxHead:
    """Read to where an IDX file's numbers begin: a type, the number of axes, and their sizes (big-endian)."""
    start = file.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in IDX_TYPES:
        return IdxHead(start, None, ())
    sizes = file.read(4 * start[3])
    if len(sizes) < 4 * start[3]:
        return IdxHead(start, None, ())
    return IdxHead(start, np.dtype(IDX_TYPES[start[2]]), struct.unpack(f">{start[3]}I", sizes))


def read_npy_head(file: IO[bytes]) -> NpyHead:
    """Read to where a `.npy` file's numbers begin.

    Raises:
        ValueError: it is no such file, or of a version whose arrays are not plain.
    """
    match np.lib.format.read_magic(file):
        case (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        case (2, 0) | (
            3,
            0,
        ):  # they differ in how the names of fields are written, which plain arrays have not
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        case version:
            raise ValueError(f"version {version} of the format holds no plain array")
    if any(axis < 0 for axis in shape):
        raise ValueError(f"shape {list(shape)} is none")
    return NpyHead(dtype, shape, fortran)
