"""Image files written from their specifications, independently of the libraries that read them."""

import struct
import zlib
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bench.support.pictures import Pixels, a_digit

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PLAIN_HEADER = struct.pack(">IIBBBBB", 28, 28, 8, 0, 0, 0, 0)
"""The content of an IHDR chunk: 28x28, 8 bits, gray, not interlaced."""
GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""PNG, third edition, section 8.1: first row, first column, rows and columns between the pixels of a pass."""

Samples = npt.NDArray[Any]
Order = Literal["<", ">"]


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    """Return one PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def scanlines(samples: Samples, depth: int) -> bytes:
    """Return `[height, width, channels]` as unfiltered PNG rows of samples of `depth` bits."""
    lines = []
    for row in samples.reshape(len(samples), -1):
        if depth == 16:
            line = row.astype(">u2").tobytes()
        elif depth == 8:
            line = row.astype(np.uint8).tobytes()
        else:
            bits = (row[:, None] >> np.arange(depth - 1, -1, -1)) & 1
            line = np.packbits(bits.astype(np.uint8).ravel()).tobytes()
        lines.append(b"\0" + line)
    return b"".join(lines)


def a_png(
    samples: Samples, colour_type: int, depth: int = 8, *, interlaced: bool = False, extra: bytes = b""
) -> bytes:
    """Return a PNG (third edition, section 11).

    Args:
        samples: integers, `[height, width]` or `[height, width, channels]`.
        colour_type: which channels there are.
        depth: bits of a sample.
        interlaced: write the seven passes of Adam7.
        extra: whole chunks between IHDR and IDAT.
    """
    samples = samples.reshape(*samples.shape[:2], -1)
    height, width = samples.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, interlaced)
    if interlaced:
        lines = b"".join(
            scanlines(samples[top::rows, left::columns], depth) for top, left, rows, columns in ADAM7
        )
    else:
        lines = scanlines(samples, depth)
    return SIGNATURE + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND")


def plain(stream: bytes) -> bytes:
    """Return a plain PNG whose pixels are a zlib stream."""
    return SIGNATURE + chunk(b"IHDR", PLAIN_HEADER) + chunk(b"IDAT", stream) + chunk(b"IEND")


def filtered(pixels: Pixels, kind: int) -> bytes:
    """Return scanlines by one of the five filters (PNG, third edition, section 9.2), computed pixel by pixel."""
    lines, above = b"", [0] * 28
    for row in pixels.tolist():
        line = []
        for x, value in enumerate(row):
            a, b, c = (row[x - 1] if x else 0), above[x], (above[x - 1] if x else 0)
            nearest = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
            line.append((value - (0, a, b, (a + b) // 2, nearest)[kind]) % 256)
        lines += bytes([kind, *line])
        above = row
    return lines


RAW = filtered(a_digit(), 0)
UNSOUND = {
    "a byte too many": zlib.compress(RAW + b"\0"),
    "a byte too few": zlib.compress(RAW[:-1]),
    "a filter that is none": zlib.compress(b"\5" + RAW[1:]),
    "something behind the stream": zlib.compress(RAW) + b"\0",
    "no checksum": zlib.compress(RAW)[:-4],
    "another checksum": zlib.compress(RAW)[:-4] + b"\0\0\0\0",
    "a bomb": zlib.compress(b"\0" * (1 << 24)),
    "a preset dictionary": b"\x78\xbb" + zlib.compress(RAW)[2:],
    "nothing": b"",
}
"""Invalid streams of a plain PNG, by fault."""


def a_tiff(tags: dict[int, tuple[int, int, int]], data: bytes, *, order: Order = "<") -> bytes:
    """Return a TIFF (6.0, section 2) of one directory: tag to (type, count, value or offset).

    The data stand at offset 8, the directory behind them.
    """
    kinds = {3: "HHIH2x"}
    entries = b"".join(
        struct.pack(order + kinds.get(kind if count == 1 else 0, "HHII"), tag, kind, count, value)
        for tag, (kind, count, value) in sorted(tags.items())
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def raw_tiff(
    samples: Samples, photometric: int, *, order: Order = "<", **tags: tuple[int, int, int]
) -> bytes:
    """Return an uncompressed TIFF of one strip; `t274=(3, 1, 6)` adds a tag.

    Args:
        samples: `uint8` or `uint16[height, width, channels]`.
        photometric: 1 is black is zero, 2 RGB, 5 CMYK (TIFF 6.0, sections 4, 6 and 16).
        order: of the bytes of a number.
        tags: more of them.
    """
    height, width, channels = samples.shape
    pixels = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    bits = 8 * samples.dtype.itemsize
    depths = struct.pack(f"{order}{channels}H", *[bits] * channels)
    fields = {
        256: (3, 1, width),
        257: (3, 1, height),
        258: (3, channels, 8 + len(pixels)) if channels > 2 else (3, 1, bits),
        259: (3, 1, 1),
        262: (3, 1, photometric),
        273: (4, 1, 8),
        277: (3, 1, channels),
        278: (3, 1, height),
        279: (4, 1, len(pixels)),
    }
    fields |= {int(name[1:]): value for name, value in tags.items()}
    return a_tiff(fields, pixels + depths, order=order)
