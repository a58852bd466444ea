"""BMP files of a palette, rewritten with 8 bits a pixel and 256 colours.

Pillow (13.0) takes a palette of black and white alone for a file of 1 bit, and rejects run-length encoded pixels that
leave some out. Source: Microsoft, BITMAPCOREHEADER, BITMAPINFOHEADER, and "Bitmap Compression".
"""

import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bundle.images.errors import HostileImageError

_CORE, _HEADERS = 12, (40, 52, 56, 64, 108, 124)
_RUNS = {8: 1, 4: 2}
"""Bits of a pixel to the compression that is run-length encoding."""
_COLOURS = 256

_Bytes = npt.NDArray[np.uint8]


class _Header(NamedTuple):
    """What the headers of a BMP say."""

    offset: int
    """Of the pixels, as it stands there."""
    size: int
    """Of the second header."""
    width: int
    height: int
    """Negative if the rows stand from top to bottom."""
    bits: int
    compression: int
    colours: int
    """Of the palette; 0 is as many as the bits allow."""


def _header(data: bytes) -> _Header | None:
    """Return the headers; None if they are cut off, of an unknown size, or without a pixel."""
    try:
        offset, size = struct.unpack_from("<II", data, 10)
        if size == _CORE:
            width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
            compression = colours = 0
        else:
            width, height, _, bits, compression, _, _, _, colours = struct.unpack_from("<iiHHIIiiI", data, 18)
    except struct.error:
        return None
    if size not in (_CORE, *_HEADERS) or width < 1 or height == 0:
        return None
    return _Header(offset, size, width, height, bits, compression, colours)


def size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height), or None if only a parser can tell them."""
    found = _header(data)
    return found and (found.width, abs(found.height))


def plain(data: bytes, most: int) -> bytes:
    """Return the file as Pillow reads it right; unchanged if it has no palette, or is of another kind.

    Args:
        data: the file, whose `size` has been checked.
        most: of runs and steps, which are read one by one.

    Raises:
        ValueError: it ends too early, or its runs leave the image.
        HostileImageError: it has too many runs.
    """
    head = _header(data)
    if head is None or head.bits not in (1, 2, 4, 8) or head.compression not in (0, _RUNS.get(head.bits)):
        return data
    start, entry = 14 + head.size, 3 if head.size == _CORE else 4
    behind = start + entry * (head.colours or 1 << head.bits)
    pixels = np.frombuffer(data[behind if head.offset in (0, start) else head.offset :], np.uint8)
    shape = abs(head.height), head.width
    is_run = head.compression != 0
    indices = _run(pixels, head.bits, shape, most) if is_run else _unpacked(pixels, head.bits, shape)
    return _written(data[start:behind], entry, indices, head.height)


def _unpacked(data: _Bytes, bits: int, shape: tuple[int, int]) -> _Bytes:
    """Return the samples of rows that are padded to 4 bytes, in the order of the file."""
    height, width = shape
    stride = (width * bits + 31) // 32 * 4
    if len(data) < height * stride:
        raise ValueError("not enough image data")
    return _samples(data[: height * stride], bits).reshape(height, -1)[:, :width]


def _samples(data: _Bytes, bits: int) -> _Bytes:
    """Return one byte for each sample, of which the first is in the upper bits."""
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    return (data[:, None] >> shifts & np.uint8((1 << bits) - 1)).ravel() if bits < 8 else data


def _run(data: _Bytes, bits: int, shape: tuple[int, int], most: int) -> _Bytes:
    """Return run-length encoded samples in the order of the file; those that are left out are 0."""
    height, width = shape
    indices = np.zeros(shape, np.uint8)
    samples, each = _samples(data, bits), 8 // bits
    pairs = data.tobytes()
    x = y = at = 0
    for _ in range(most):
        if at + 1 >= len(pairs):
            if y * width + x < height * width:
                raise ValueError("not enough image data")
            return indices
        count, value = pairs[at : at + 2]
        at += 2
        if count == 0 and value == 1:
            return indices
        if count == 0 and value == 0:
            x, y = 0, y + 1
            if y == height:
                return indices
            continue
        if count == 0 and value == 2:
            step = pairs[at : at + 2].ljust(2, b"\0")
            x, y, at = x + step[0], y + step[1], at + 2
            continue
        if count:
            values = np.resize(samples[each * (at - 1) : each * at], count)
        else:
            size = value * bits + 7 >> 3
            values, at = samples[each * at : each * at + value], at + size + (size & 1)
        if y >= height or x + len(values) > width:
            raise ValueError("its runs leave the image")
        indices[y, x : x + len(values)] = values
        x += len(values)
    raise HostileImageError(f"it is read in more than {most} pieces")


def _written(palette: bytes, entry: int, indices: _Bytes, height: int) -> bytes:
    if entry == 3:
        palette = b"".join(palette[at : at + 3] + b"\0" for at in range(0, len(palette) - 2, entry))
    colours = palette[: 4 * _COLOURS].ljust(4 * _COLOURS, b"\0")
    width = indices.shape[1]
    rows = np.zeros((len(indices), -(-width // 4) * 4), np.uint8)
    rows[:, :width] = indices
    offset = 14 + 40 + 4 * _COLOURS
    head = struct.pack("<2sIHHI", b"BM", offset + rows.size, 0, 0, offset)
    about = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 0, rows.size, 0, 0, _COLOURS, 0)
    return head + about + colours + rows.tobytes()
