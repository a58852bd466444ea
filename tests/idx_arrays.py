"""Reads IDX files as arrays, as their description says; for tests that need MNIST's own numbers."""

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt


def read_idx(path: Path, axes: int) -> npt.NDArray[np.uint8]:
    """Return the unsigned bytes of an uncompressed IDX file with so many axes."""
    data = path.read_bytes()
    assert data[:4] == bytes([0, 0, 8, axes])
    shape = struct.unpack(f">{axes}I", data[4 : 4 + 4 * axes])
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape).copy()
