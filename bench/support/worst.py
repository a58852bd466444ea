"""The most expensive files to decode for their size, in every format: 28x28 pixels, at most 1 MiB."""

import math
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from bench.support.handmade import GRAY, SIGNATURE, a_png, a_tiff, chunk, plain
from bench.support.pictures import SAMPLES, a_digit, encoded
from bundle.images.hardening import SERVED_PIXELS

MEBIBYTE = 1 << 20
_DEFLATED = zlib.compress(a_digit().tobytes())
_LINES = b"".join(b"\0" + row.tobytes() for row in a_digit())
_DIRECTORY = struct.Struct("<HHII")
_UPRIGHT = (0x112, 3, 1, 6)
"""an orientation, for which Pillow would write all of the EXIF data again."""
_PROGRESSIVE: bytes = encoded(Image.fromarray(a_digit()), "JPEG", progressive=True, quality=95)


def with_chunks(chunks: bytes, *, behind: bool = False) -> bytes:
    """Return the digit as a PNG with more chunks, before its pixels or behind them."""
    data = a_png(a_digit(), GRAY, extra=b"" if behind else chunks)
    return data[:-12] + chunks + data[-12:] if behind else data


def packed_text(kind: bytes, text: bytes, keyword: bytes = b"k") -> bytes:
    """Return a zTXt or iTXt chunk, packed, or an iCCP chunk."""
    between = b"\0\1\0\0\0" if kind == b"iTXt" else b"\0\0"
    return chunk(kind, keyword + between + zlib.compress(text, 9))


def empty_blocks(count: int, content: bytes) -> bytes:
    """Return a zlib stream in which the content stands behind empty blocks of 10 bits; `count` is a multiple of 4."""
    bits = np.tile(np.array([0, 1] + [0] * 8, np.uint8), count)
    return b"\x78\x9c" + np.packbits(bits, bitorder="little").tobytes() + zlib.compress(content)[2:]


def a_directory(*entries: tuple[int, int, int, int], data: bytes = b"") -> bytes:
    """Return EXIF data of one directory, and what stands behind it."""
    packed = b"".join(_DIRECTORY.pack(*entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + bytes(4) + data


def many_entries(count: int) -> bytes:
    """Return EXIF data of many numbers."""
    return a_directory(*((tag, 3, 1, 0) for tag in range(0x200, 0x200 + count)))


def entries_below(count: int) -> bytes:
    """Return EXIF data with many numbers in the directory below the first."""
    start = len(a_directory(_UPRIGHT, _UPRIGHT))
    return a_directory(_UPRIGHT, (34665, 4, 1, start), data=many_entries(count)[8:])


def many_numbers(tags: int, count: int) -> bytes:
    """Return EXIF data of some tags with many numbers each, which stand where those of all tags are."""
    start = len(a_directory(*[_UPRIGHT] * (tags + 1)))
    entries = [(0x5000 + tag, 3, count, start) for tag in range(tags)]
    return a_directory(_UPRIGHT, *entries, data=bytes(2 * tags * count))


def segment(marker: int, content: bytes) -> bytes:
    """Return one segment of a JPEG."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


def with_segments(segments: bytes) -> bytes:
    """Return the digit as a JPEG with something put behind its first marker."""
    data: bytes = SAMPLES["image/jpeg"]
    return data[:2] + segments + data[2:]


def with_exif(block: bytes) -> bytes:
    """Return the digit as a JPEG with EXIF data of any size."""
    pieces = [block[start : start + 65_000] for start in range(0, len(block), 65_000)]
    return with_segments(b"".join(segment(0xE1, b"Exif\0\0" + piece) for piece in pieces))


def many_scans(count: int) -> bytes:
    """Return a progressive JPEG with `count` refinement scans of one bit."""
    scan = b"\xff\xda\0\x08\1\1\0\0\0\x10\0\0"
    end = _PROGRESSIVE.rfind(b"\xff\xd9")
    return _PROGRESSIVE[:end] + scan * count + _PROGRESSIVE[end:]


def in_gif(extensions: bytes) -> bytes:
    """Return the digit as a GIF with more extensions before its pixels."""
    data: bytes = SAMPLES["image/gif"]
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 128 else 0)
    return data[:at] + extensions + data[at:]


def a_bmp(pixels: bytes, *, bits: int = 8, compression: int = 0, colours: int = 256) -> bytes:
    """Return a BMP of a gray palette."""
    palette = b"".join(bytes((value & 255,)) * 3 + b"\0" for value in range(colours))
    offset = 54 + len(palette)
    head = struct.pack("<2sIHHI", b"BM", offset + len(pixels), 0, 0, offset)
    about = (40, 28, 28, 1, bits, compression, len(pixels), 0, 0, colours, 0)
    return head + struct.pack("<IiiHHIIiiII", *about) + palette + pixels


def a_webp(*chunks: tuple[bytes, bytes], flags: int = 0) -> bytes:
    """Return the digit as an extended WebP with more chunks behind its pixels."""
    data: bytes = SAMPLES["image/webp"]
    (length,) = struct.unpack_from("<I", data, 16)
    extended = bytes((flags, 0, 0, 0)) + (27).to_bytes(3, "little") * 2
    body = b"WEBP"
    for kind, content in ((b"VP8X", extended), (data[12:16], data[20 : 20 + length]), *chunks):
        body += kind + struct.pack("<I", len(content)) + content + bytes(len(content) & 1)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def strips(
    compression: int, data: bytes, tags: dict[int, tuple[int, int, int]] | None = None, *, behind: bytes = b""
) -> bytes:
    """Return a TIFF of one strip of 8 bits, gray, or of what the tags say: type, count, value."""
    fields = {256: (4, 1, 28), 257: (4, 1, 28), 258: (3, 1, 8), 259: (3, 1, compression), 262: (3, 1, 1)}
    fields |= {277: (3, 1, 1), 273: (4, 1, 8), 278: (4, 1, 28), 279: (4, 1, len(data))}
    return a_tiff(fields | (tags or {}), data + behind)


def shared_strips(data: bytes) -> bytes:
    """Return a TIFF with a strip for each row, all of which are the same bytes."""
    places, sizes = struct.pack("<28I", *[8] * 28), struct.pack("<28I", *[len(data)] * 28)
    at = 8 + len(data)
    return strips(
        8, data, {273: (4, 28, at), 278: (4, 1, 1), 279: (4, 28, at + len(places))}, behind=places + sizes
    )


def tiles(side: int, *, channels: int = 1, bits: int = 8) -> bytes:
    """Return a TIFF of one tile that unpacks to all of its pixels."""
    data = zlib.compress(bytes(side * side * channels * bits // 8), 9)
    depths = struct.pack(f"<{channels}H", *[bits] * channels)
    fields = {256: (4, 1, 28), 257: (4, 1, 28), 259: (3, 1, 8), 262: (3, 1, 1 if channels == 1 else 2)}
    fields |= {258: (3, 1, bits) if channels <= 2 else (3, channels, 8 + len(data)), 277: (3, 1, channels)}
    fields |= {322: (4, 1, side), 323: (4, 1, side), 324: (4, 1, 8), 325: (4, 1, len(data))}
    if channels == 4:
        fields[338] = (3, 1, 2)
    return a_tiff(fields, data + depths)


def long_tile(side: int) -> bytes:
    """Return a TIFF of one tile whose sides stand elsewhere."""
    data, size = zlib.compress(bytes(side * side), 9), struct.pack("<Q", side)
    at = 8 + len(data)
    fields = {322: (16, 1, at), 323: (16, 1, at), 324: (4, 1, 8), 325: (4, 1, len(data))}
    return strips(8, data, fields, behind=size)


_MOST = bytes(MEBIBYTE - 10)
READ: dict[str, Callable[[], bytes]] = {
    "image/png: zTXt": lambda: with_chunks(packed_text(b"zTXt", _MOST) * 60),
    "image/png: zTXt behind the pixels": lambda: with_chunks(packed_text(b"zTXt", _MOST) * 60, behind=True),
    "image/png: iTXt": lambda: with_chunks(packed_text(b"iTXt", _MOST) * 60),
    "image/png: iCCP": lambda: with_chunks(packed_text(b"iCCP", _MOST)),
    "image/png: tEXt": lambda: with_chunks(chunk(b"tEXt", b"k\0" + bytes(1000)) * 900),
    "image/png: XMP": lambda: with_chunks(
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"tiff:Orientation" * 65_000)
    ),
    "image/png: unknown chunks": lambda: with_chunks(chunk(b"abCd", bytes(1000)) * 900),
    "image/png: empty blocks": lambda: plain(empty_blocks(200_000, _LINES)),
    "image/jpeg: resources": lambda: with_segments(
        segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0" * 5400) * 15
    ),
    "image/jpeg: comments": lambda: with_segments(segment(0xFE, bytes(1000)) * 900),
    "image/jpeg: Huffman tables": lambda: with_segments(segment(0xC4, bytes(17)) * 900),
    "image/jpeg: scans": lambda: many_scans(90),
    "image/gif: comment": lambda: in_gif(b"!\xfe" + (b"\xff" + b"x" * 255) * 1900 + b"\0"),
    "image/bmp: runs": lambda: a_bmp((b"\1\1" * 28 + b"\0\0") * 28, compression=1),
    "image/webp: profile": lambda: a_webp((b"ICCP", bytes(900_000)), flags=32),
    "image/webp: XMP": lambda: a_webp((b"XMP ", b"tiff:Orientation" * 65_000), flags=4),
    "image/webp: unknown chunks": lambda: a_webp(*[(b"abcd", b"")] * 900),
    "image/tiff: tile": lambda: tiles(256, channels=4, bits=16),
    "image/tiff: gigabytes of pixels": lambda: strips(8, zlib.compress(bytes(200 << 20), 9)),
    "image/tiff: empty blocks": lambda: strips(8, empty_blocks(200_000, a_digit().tobytes())),
    "image/tiff: entries": lambda: strips(
        1, a_digit().tobytes(), {30_000 + tag: (3, 1, 0) for tag in range(240)}
    ),
    "image/png: lines of a text": lambda: with_chunks(
        packed_text(b"zTXt", b"\n" * 130_000, b"Raw profile type exif")
    ),
    "image/png: EXIF entries below": lambda: with_chunks(chunk(b"eXIf", entries_below(60_000))),
    "image/png: EXIF numbers": lambda: with_chunks(chunk(b"eXIf", many_numbers(120, 4000))),
    "image/jpeg: EXIF entries below": lambda: with_exif(entries_below(60_000)),
    "image/jpeg: EXIF numbers": lambda: with_exif(many_numbers(120, 4000)),
    "image/webp: EXIF entries below": lambda: a_webp((b"EXIF", entries_below(60_000)), flags=8),
    "image/webp: EXIF numbers": lambda: a_webp((b"EXIF", many_numbers(120, 4000)), flags=8),
    "image/tiff: entries below": lambda: strips(
        8, _DEFLATED, {34665: (4, 1, 8 + len(_DEFLATED))}, behind=many_entries(60_000)[8:]
    ),
    "image/tiff: numbers": lambda: strips(
        8, _DEFLATED, dict.fromkeys((20480, 20481), (3, 3000, 9 + len(_DEFLATED))), behind=bytes(8000)
    ),
    "image/bmp: runs of nothing": lambda: a_bmp(b"\0\0" * 500_000, compression=1),
}
"""By format and what there is much of: they are read, as an ordinary file is."""

REFUSED: dict[str, Callable[[], bytes]] = {
    "image/png: XMP packed": lambda: with_chunks(packed_text(b"iTXt", _MOST, b"XML:com.adobe.xmp")),
    "image/png: EXIF as text": lambda: with_chunks(
        packed_text(b"zTXt", b"\nexif\n 9\n" + entries_below(9000).hex().encode(), b"Raw profile type exif")
    ),
    "image/png: EXIF entries": lambda: with_chunks(chunk(b"eXIf", many_entries(60_000))),
    "image/png: packed pixels": lambda: plain(empty_blocks(800_000, _LINES)),
    "image/png: IDAT chunks": lambda: with_chunks(chunk(b"IDAT", bytes(1000)) * 900, behind=True),
    "image/jpeg: EXIF entries": lambda: with_exif(many_entries(60_000)),
    "image/jpeg: quantization tables": lambda: with_segments(segment(0xDB, (b"\0" + b"\1" * 64) * 1000) * 15),
    "image/jpeg: too many scans": lambda: many_scans(80_000),
    "image/jpeg: segments behind a marker without a length": lambda: with_segments(
        b"\xff\xf0\xff\xf0" + segment(0xE1, b"Exif\0\0" + many_entries(5000))
    ),
    "image/bmp: colours": lambda: a_bmp(bytes(784), colours=65_536),
    "image/webp: EXIF entries": lambda: a_webp((b"EXIF", many_entries(60_000)), flags=8),
    "image/webp: too many chunks": lambda: a_webp(*[(b"abcd", b"")] * 60_000),
    "image/webp: packed pixels": lambda: a_webp((b"VP8L", bytes(300_000))),
    "image/tiff: packed pixels": lambda: strips(8, empty_blocks(800_000, a_digit().tobytes())),
    "image/tiff: strips that are one": lambda: shared_strips(empty_blocks(40_000, a_digit().tobytes())),
    "image/tiff: strips of no size": lambda: strips(
        8, empty_blocks(40_000, a_digit().tobytes()), {279: (4, 1, 0)}
    ),
    "image/tiff: too large a tile of colours": lambda: tiles(512, channels=4, bits=16),
    "image/tiff: strips of 8-byte numbers": lambda: strips(
        8, empty_blocks(40_000, a_digit().tobytes()), {273: (16, 1, 8), 279: (16, 1, 8)}
    ),
    "image/tiff: tile of 8-byte numbers": lambda: long_tile(1024),
    "image/tiff: too large a tile": lambda: tiles(1024),
    "image/tiff: scans": lambda: strips(7, many_scans(80_000)),
}
"""The same: no parser is started."""

STOPPED: dict[str, Callable[[], bytes]] = {
    "image/gif: comment of one-byte blocks": lambda: in_gif(b"!\xfe" + b"\1x" * 520_000 + b"\0"),
    "image/gif: application": lambda: in_gif(b"!\xff\x0bNETSCAPE2.0" + b"\1x" * 520_000 + b"\0"),
    "image/gif: extensions": lambda: in_gif(b"!\xf9\4\0\0\0\0\0" * 130_000),
    "image/gif: empty extensions": lambda: in_gif(b"!\xfe\0" * 345_000),
    "image/gif: nothing": lambda: in_gif(bytes(1_000_000)),
    "image/gif: pixels of one-byte blocks": lambda: SAMPLES["image/gif"][:-2] + b"\1\0" * 520_000 + b"\0;",
    "image/gif: extensions behind the pixels": lambda: (
        SAMPLES["image/gif"][:-1] + b"!\xf9\4\0\0\0\0\0" * 130_000
    ),
    "image/bmp: runs beyond the row": lambda: a_bmp(b"\x1d\0" * 500_000, compression=1),
    "image/bmp: steps to nowhere": lambda: a_bmp(b"\0\2\0\0" * 250_000, compression=1),
    "image/bmp: runs of 4 bits": lambda: a_bmp(b"\xff\0" * 500_000, bits=4, compression=2),
}
"""The same: the parser is stopped."""

WORST = READ | REFUSED | STOPPED

SIDE = math.isqrt(SERVED_PIXELS)


def a_photograph(mode: str) -> Image.Image:
    """Return a smooth picture of as many pixels as the service resizes."""
    rows, columns = np.sin(np.arange(SIDE) / 30)[:, None], np.cos(np.arange(SIDE) / 17)[None]
    bands = [(128 + 60 * rows + shift * columns).astype(np.uint8) for shift in (60, -60, 40, 20)]
    return Image.fromarray(np.stack(bands, axis=2)).convert(mode)


def deep_png() -> bytes:
    """Return a PNG of 16 bits and four channels, each line filtered by Paeth's predictor."""
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 16, 6, 0, 0, 0)
    lines = (b"\4" + bytes(8 * SIDE)) * SIDE
    pixels = chunk(b"IDAT", zlib.compress(lines, 9))
    return SIGNATURE + chunk(b"IHDR", header) + pixels + chunk(b"IEND")


LARGE: dict[str, Callable[[], bytes]] = {
    "image/png: 8 bits, gray": lambda: encoded(a_photograph("L"), "PNG"),
    "image/png: 16 bits, four channels": deep_png,
    "image/jpeg: colour": lambda: encoded(a_photograph("RGB"), "JPEG"),
    "image/jpeg: CMYK, progressive": lambda: encoded(a_photograph("CMYK"), "JPEG", progressive=True),
    "image/gif: gray": lambda: encoded(a_photograph("L"), "GIF"),
    "image/bmp: one bit": lambda: encoded(a_photograph("1"), "BMP"),
    "image/webp: lossless": lambda: encoded(a_photograph("RGB"), "WEBP", lossless=True),
    "image/webp: transparent": lambda: encoded(a_photograph("RGBA"), "WEBP"),
    "image/tiff: deflated": lambda: encoded(
        Image.new("RGBA", (SIDE, SIDE)), "TIFF", compression="tiff_adobe_deflate"
    ),
}
"""Files of as many pixels as the service resizes, the most expensive kinds of each format."""
