"""Kinds of files that are rewritten before Pillow reads them, and orientations, at other sizes than 28x28."""

import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from bench.support.pictures import Pixels, encoded
from bench.support.tiffs import BLACK_IS_ZERO, PLANAR, RGB, WHITE_IS_ZERO, Tag, assembled
from bundle.images import bmp_palettes, hardening
from bundle.images.contract import Resize
from bundle.images.decoding import Lost, check_header, decode, lost_in_conversion
from bundle.images.errors import ImageError, ImageFault
from bundle.images.resizing import resize

HEIGHT, WIDTH = 31, 45
"""A row of neither is a multiple of 4 bytes, whatever the bits of a pixel."""


def noise(high: int = 256, *shape: int) -> Pixels:
    """Return the same random levels each time."""
    return np.random.default_rng(5).integers(0, high, (HEIGHT, WIDTH, *shape), np.uint16)


def a_bmp(
    pixels: bytes, palette: npt.NDArray[Any], bits: int, *, compression: int = 0, height: int = HEIGHT
) -> bytes:
    """Return a BMP of 45x31 pixels and a gray palette."""
    colours = b"".join(bytes((level,)) * 3 + b"\0" for level in palette.tolist())
    offset = 54 + len(colours)
    head = struct.pack("<2sIHHI", b"BM", offset + len(pixels), 0, 0, offset)
    about = (40, WIDTH, height, 1, bits, compression, len(pixels), 0, 0, len(palette), 0)
    return head + struct.pack("<IiiHHIIiiII", *about) + colours + pixels


@pytest.mark.parametrize("height", [HEIGHT, -HEIGHT])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_bmp_of_a_palette_is_resized(bits: int, height: int) -> None:
    """Of any bits and in either order of rows; a palette of light and dark is no file of 1 bit."""
    palette = np.random.default_rng(6).integers(0, 256, 1 << bits)
    indices = noise(1 << bits)
    each = (indices[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    rows = np.packbits(each.reshape(HEIGHT, -1).astype(np.uint8), axis=1)
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
    data = a_bmp((rows if height < 0 else rows[::-1]).tobytes(), palette, bits, height=height)
    assert np.array_equal(decode(data, "fit"), resize(palette[indices].astype(np.uint8), "fit"))
    with pytest.raises(ImageError, match=f"{WIDTH}x{HEIGHT} pixels, the model takes 28x28"):
        decode(data)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_bmp_of_runs_that_leave_pixels_out_is_resized(bits: int) -> None:
    """Literal samples, a run, a step and the end of a line: what no run covers has the first colour."""
    palette = np.random.default_rng(6).integers(0, 256, 1 << bits)
    literals = b"\0\x04\x12\x34\x56\x71" if bits == 8 else b"\0\x04\x12\x34"
    data = literals + b"\x06\x23" + b"\0\2\x03\x02" + b"\x05\x0a" + b"\0\0" + b"\x2d\x01" + b"\0\1"
    indices = np.zeros((HEIGHT, WIDTH), np.uint8)
    indices[0, :4] = [0x12, 0x34, 0x56, 0x71] if bits == 8 else [1, 2, 3, 4]
    indices[0, 4:10] = 0x23 if bits == 8 else [2, 3] * 3
    indices[2, 13:18] = 0x0A if bits == 8 else [0, 10, 0, 10, 0]
    indices[3] = 1 if bits == 8 else ([0, 1] * WIDTH)[:WIDTH]
    file = a_bmp(data, palette, bits, compression=1 if bits == 8 else 2)
    assert np.array_equal(decode(file, "fit"), resize(palette[indices[::-1]].astype(np.uint8), "fit"))


def test_the_runs_of_a_bmp_are_limited_as_reads_are() -> None:
    """Each is a turn of a loop, and a file of 1 MiB has half a million."""
    palette = np.arange(256)
    for runs in (b"\0\2\0\0" * 200_000, b"\0\2\1\0" * 200_000):
        with pytest.raises(ImageError, match=f"more than {hardening.RESIZED.reads} pieces") as caught:
            decode(a_bmp(runs, palette, 8, compression=1), "fit")
        assert caught.value.kind is ImageFault.DAMAGED


@pytest.mark.parametrize("how", [None, "fit"])
def test_a_bmp_of_too_many_pixels_is_rejected_before_room_is_made(
    how: Resize | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few runs can claim gigabytes."""
    monkeypatch.setattr(bmp_palettes, "plain", lambda *_: pytest.fail("it was rewritten"))
    data = a_bmp(b"\0\1", np.arange(256), 8, compression=1, height=50_000)
    with pytest.raises(ImageError, match=r"45x50000 pixels") as caught:
        decode(data, how)
    assert caught.value.kind is (ImageFault.SIZE if how is None else ImageFault.PIXELS)


def test_a_frame_of_a_gif_that_leaves_parts_out_leaves_them_black_and_transparent() -> None:
    """On a screen of another size; a dark drawing on such a frame is told why it is blank."""
    data = bytearray(encoded(Image.fromarray(noise(200).astype(np.uint8) + 55), "GIF"))
    data[6:10] = struct.pack("<HH", 80, 60)
    descriptor = data.index(b",\0\0\0\0" + struct.pack("<HH", WIDTH, HEIGHT))
    data[descriptor + 1 : descriptor + 5] = struct.pack("<HH", 20, 10)
    screen = np.zeros((60, 80), np.uint8)
    screen[10 : 10 + HEIGHT, 20 : 20 + WIDTH] = noise(200) + 55
    assert np.array_equal(decode(bytes(data), "fit"), resize(screen, "fit"))
    assert lost_in_conversion(bytes(data)) == Lost((0, 255), sixteen_bits=False)
    whole = encoded(Image.fromarray(noise().astype(np.uint8)), "GIF")
    assert lost_in_conversion(whole) == Lost(None, sixteen_bits=False)


def a_tiff(samples: Pixels, photometric: int, *, planar: int = 1, tile: int = 0) -> bytes:
    """Return an uncompressed TIFF of `[31, 45, n]` samples of 16 bits, in a strip a plane, or in tiles of gray."""
    count = samples.shape[2]
    blocks = [samples] if planar == 1 else [samples[..., plane] for plane in range(count)]
    fields: dict[int, Tag] = {256: (3, [WIDTH]), 257: (3, [HEIGHT]), 258: (3, [16] * count), 259: (3, [1])}
    fields |= {262: (3, [photometric]), 277: (3, [count]), 284: (3, [planar])}
    if tile:
        padded = np.pad(samples[..., 0], ((0, -HEIGHT % tile), (0, -WIDTH % tile)))
        across = range(0, padded.shape[1], tile)
        blocks = [
            padded[top : top + tile, left : left + tile]
            for top in range(0, padded.shape[0], tile)
            for left in across
        ]
        fields |= {322: (3, [tile]), 323: (3, [tile])}
    else:
        fields[278] = (3, [HEIGHT])
    places = [8 + sum(one.nbytes for one in blocks[:place]) for place in range(len(blocks))]
    fields |= {324 if tile else 273: (4, places), 325 if tile else 279: (4, [one.nbytes for one in blocks])}
    return assembled(b"".join(one.astype("<u2").tobytes() for one in blocks), fields)


@pytest.mark.parametrize("tile", [0, 16])
@pytest.mark.parametrize("photometric", [BLACK_IS_ZERO, WHITE_IS_ZERO])
def test_a_tiff_of_16_bits_is_resized_also_as_a_negative_and_in_tiles(photometric: int, tile: int) -> None:
    """The kinds that Pillow alone takes for others; and the depth is told where an image is blank."""
    samples = noise(65_536, 1)
    gray = np.rint(samples[..., 0] / 257).astype(np.uint8)
    data = a_tiff(samples, photometric, tile=tile)
    expected = gray if photometric == BLACK_IS_ZERO else 255 - gray
    assert np.array_equal(decode(data, "pad"), resize(expected, "pad"))
    assert lost_in_conversion(data) == Lost(None, sixteen_bits=True)


def test_a_tiff_of_planes_of_16_bits_is_resized() -> None:
    """Their upper bytes, then the luma."""
    samples = noise(65_536, 3)
    gray = np.asarray(Image.fromarray((samples >> 8).astype(np.uint8)).convert("L"))
    assert np.array_equal(decode(a_tiff(samples, RGB, planar=PLANAR), "fit"), resize(gray, "fit"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
def test_an_image_that_is_no_square_is_turned_before_it_is_resized(
    file_format: str, orientation: int
) -> None:
    """Width and height change places, so the padding is at the other sides."""
    pixels = noise().astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(Image.fromarray(pixels).convert("RGB"), file_format, exif=exif, **options)
    turned = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.T,
        6: pixels[::-1].T,
        7: pixels[::-1, ::-1].T,
        8: pixels.T[::-1],
    }[orientation]
    assert np.array_equal(decode(data, "pad"), resize(np.ascontiguousarray(turned), "pad"))


def test_a_kind_that_is_not_read_is_named_also_where_images_are_resized() -> None:
    """Neither a size nor damage, but what the file is."""
    for data in (
        a_tiff(noise(65_536, 3), 8),
        encoded(Image.fromarray(noise().astype(np.uint8)).convert("CMYK"), "JPEG").replace(
            b"Adobe", b"Other"
        ),
    ):
        for reading in (decode, check_header):
            with pytest.raises(ImageError, match=r"of this kind is not read") as caught:
                reading(data, "fit")
            assert caught.value.kind is ImageFault.UNSUPPORTED


@pytest.mark.parametrize("rows", [8, 600])
def test_a_tiff_of_many_jpegs_is_no_jpeg_of_many_scans(rows: int) -> None:
    """Each strip is one, and a pass over its own pixels alone."""
    image = Image.fromarray(np.full((600, 800, 3), 90, np.uint8))
    data = encoded(image, "TIFF", compression="jpeg", strip_size=rows * 800 * 3)
    assert set(decode(data, "fit", limits=hardening.SERVED).flat) <= {89, 90, 91}
