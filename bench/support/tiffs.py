"""TIFF files of every kind, written from the specification (TIFF 6.0, Adobe, 1992) and not by a library."""

import io
import lzma
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from bench.support.handmade import Order, a_tiff

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK, CMYK, YCBCR, CIELAB = 0, 1, 2, 3, 4, 5, 6, 8
UNSIGNED, SIGNED, FLOAT, UNDEFINED = 1, 2, 3, 4
RAW, CCITT, GROUP3, GROUP4, LZW, OLD_JPEG, JPEG, DEFLATE = 1, 2, 3, 4, 5, 6, 7, 8
PACKBITS, OLD_DEFLATE, LZMA = 32773, 32946, 34925
CONTIGUOUS, PLANAR = 1, 2
COLOURS = {RGB: 3, CMYK: 4, YCBCR: 3, CIELAB: 3, 9: 3, 10: 3, 34892: 3, 32845: 3}
"""Photometric tag to its number of samples, where that is not one."""

Samples = npt.NDArray[Any]
Tag = tuple[int, list[int]]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What the tags of a TIFF say about its pixels."""

    bits: int = 8
    format: int = UNSIGNED
    photometric: int = BLACK_IS_ZERO
    samples: int = 1
    extra: int | None = None
    """What the samples beyond the colours are (ExtraSamples); None is no such tag."""
    planar: int = CONTIGUOUS
    order: Order = "<"
    fill: int = 1
    rows: int = 28
    """Of a strip."""
    tile: int = 0
    """Side of a tile; 0 is strips."""
    compression: int = RAW
    predictor: int = 1


def pattern(kind: Kind) -> Samples:
    """Return `[28, 28, samples]` of a kind's samples as integers or floats: its whole range, the same each time."""
    random = np.random.default_rng(7)
    shape = (28, 28, kind.samples)
    if kind.format == FLOAT:
        return random.random(shape)
    low, high = (-(1 << kind.bits - 1), 1 << kind.bits - 1) if kind.format == SIGNED else (0, 1 << kind.bits)
    return random.integers(low, high, shape, dtype=np.int64)


def colour_map(bits: int) -> npt.NDArray[np.int64]:
    """Return `[3, 2^bits]`: 16-bit reds, greens and blues (section 5), each a multiple of 257."""
    return np.random.default_rng(8).integers(0, 256, (3, 1 << bits)) * 257


def written(kind: Kind, samples: Samples | None = None, tags: dict[int, Tag] | None = None) -> bytes:
    """Return a TIFF of 28x28 pixels.

    Args:
        kind: what its tags say.
        samples: `[28, 28, kind.samples]`; `pattern(kind)` if None.
        tags: more of them, or others: type and values.
    """
    samples = pattern(kind) if samples is None else samples
    blocks = [_packed(kind, block) for block in _blocks(kind, samples)]
    fields: dict[int, Tag] = {
        256: (3, [28]),
        257: (3, [28]),
        258: (3, [kind.bits] * kind.samples),
        259: (3, [kind.compression]),
        262: (3, [kind.photometric]),
        266: (3, [kind.fill]),
        277: (3, [kind.samples]),
        284: (3, [kind.planar]),
        339: (3, [kind.format] * kind.samples),
    }
    places, at = [], 8
    for block in blocks:
        places.append(at)
        at += len(block)
    if kind.tile:
        fields |= {322: (3, [kind.tile]), 323: (3, [kind.tile])}
    else:
        fields[278] = (3, [kind.rows])
    fields |= {
        324 if kind.tile else 273: (4, places),
        325 if kind.tile else 279: (4, [len(block) for block in blocks]),
    }
    if kind.photometric == PALETTE and kind.bits <= 8:
        fields[320] = (3, colour_map(kind.bits).ravel().tolist())
    if kind.photometric == YCBCR:
        fields |= {530: (3, [1, 1]), 532: (5, [0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1])}
    if kind.extra is not None:
        fields[338] = (3, [kind.extra] * (kind.samples - COLOURS.get(kind.photometric, 1)))
    if kind.predictor != 1:
        fields[317] = (3, [kind.predictor])
    return assembled(b"".join(blocks), fields | (tags or {}), kind.order)


def assembled(data: bytes, fields: dict[int, Tag], order: Order = "<") -> bytes:
    """Return a TIFF whose pixels begin at offset 8, of tags with all their values."""
    tags = {}
    for tag, (kind, values) in fields.items():
        form = {1: "B", 3: "H", 4: "I", 5: "I", 6: "b", 8: "h", 9: "i", 12: "d", 16: "Q"}[kind]
        count = len(values) // 2 if kind == 5 else len(values)
        content = struct.pack(f"{order}{len(values)}{form}", *values)
        if len(content) > 4:
            data += bytes(len(data) & 1)
            tags[tag] = (kind, count, 8 + len(data))
            data += content
        elif count == 1:
            tags[tag] = (kind, 1, values[0])
        else:
            tags[tag] = (
                kind,
                count,
                int.from_bytes(content.ljust(4, b"\0"), "little" if order == "<" else "big"),
            )
    return a_tiff(tags, data, order=order)


def _blocks(kind: Kind, samples: Samples) -> list[Samples]:
    """Return the strips or tiles of `[28, 28, n]` (sections 3 and 15), plane after plane if they are apart."""
    planes = (
        [samples] if kind.planar == CONTIGUOUS else [samples[..., i : i + 1] for i in range(kind.samples)]
    )
    side = kind.tile
    blocks = []
    for plane in planes:
        if not side:
            blocks += [plane[top : top + kind.rows] for top in range(0, 28, kind.rows)]
            continue
        for top in range(0, 28, side):
            for left in range(0, 28, side):
                block = np.zeros((side, side, plane.shape[2]), plane.dtype)
                inside = plane[top : top + side, left : left + side]
                block[: inside.shape[0], : inside.shape[1]] = inside
                blocks.append(block)
    return blocks


def _packed(kind: Kind, block: Samples) -> bytes:
    if kind.compression == JPEG:
        return _jpeg(block)
    if kind.predictor == 2:  # section 14: the difference to the pixel on the left
        block = np.diff(block, axis=1, prepend=np.zeros_like(block[:, :1])) % (1 << kind.bits)
    data = b"".join(_row(kind, row) for row in block)
    packed = _COMPRESSED[kind.compression](data, len(data) // len(block))
    return packed.translate(_REVERSED) if kind.fill == 2 else packed


def _row(kind: Kind, row: Samples) -> bytes:
    values = row.ravel()
    if kind.format == FLOAT:
        return values.astype(f"{kind.order}f{kind.bits // 8}").tobytes()
    if kind.bits >= 8 and kind.bits in (8, 16, 32, 64):
        sign = "i" if kind.format == SIGNED else "u"
        return values.astype(f"{kind.order}{sign}{kind.bits // 8}").tobytes()
    bits = (values[:, None] >> np.arange(kind.bits - 1, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8).ravel()).tobytes()


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _packbits(data: bytes, width: int) -> bytes:
    """Pack each row (section 9), as literal runs alone."""
    rows = [data[at : at + width] for at in range(0, len(data), width)]
    return b"".join(
        bytes([len(row[at : at + 128]) - 1]) + row[at : at + 128]
        for row in rows
        for at in range(0, len(row), 128)
    )


def _lzw(data: bytes, _: int) -> bytes:
    """Return LZW codes of 9 bits (section 13): a clear code before its table would need a tenth."""
    codes = []
    for at in range(0, len(data), 200):
        codes += [256, *data[at : at + 200]]
    codes.append(257)
    bits = (np.array(codes)[:, None] >> np.arange(8, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8).ravel()).tobytes()


def _jpeg(block: Samples) -> bytes:
    buffer = io.BytesIO()
    pixels = block.astype(np.uint8)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.save(
        buffer, "JPEG", quality=100, subsampling=0, **({"keep_rgb": True} if image.mode == "RGB" else {})
    )
    return buffer.getvalue()


_COMPRESSED: dict[int, Callable[[bytes, int], bytes]] = {
    RAW: lambda data, _: data,
    LZW: _lzw,
    DEFLATE: lambda data, _: zlib.compress(data),
    OLD_DEFLATE: lambda data, _: zlib.compress(data),
    PACKBITS: _packbits,
    LZMA: lambda data, _: lzma.compress(data),
}
"""How the bytes of a block are packed, given the length of a row."""
