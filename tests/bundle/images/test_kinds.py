"""Every kind of image there is: what comes out is what a formula, or another library, says.

The files are written by hand where Pillow could otherwise read its own mistakes back; the second reader is
torchvision's, which stands on libpng, libjpeg-turbo, giflib and libwebp.
"""

import struct
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_image

from bench.support import handmade
from bench.support.handmade import GRAY, GRAY_ALPHA, PALETTE, RGB, RGBA, Order, a_png, chunk, raw_tiff
from bench.support.pictures import Pixels, encoded
from bundle.images.decoding import CONVERSIONS, decode
from bundle.images.errors import ImageError, ImageFault
from tests.conftest import ROOT

Array = npt.NDArray[Any]

ROUNDED = 0.53
"""Half a level, and what the fixed-point weights of a luma are off by."""
TWICE_ROUNDED = 1.05
"""Composited, rounded, then weighed and rounded again."""


def noise(*shape: int, high: int = 256) -> Array:
    """Return the same random integers each time, as signed ones to calculate with."""
    return np.random.default_rng(2).integers(0, high, (28, 28, *shape))


def luma(colours: Array) -> Array:
    """Return the luma of `[..., 3]`, unrounded (ITU-R BT.601-7, section 2.5.1)."""
    weighed: Array = colours[..., :3] @ np.array([0.299, 0.587, 0.114])
    return weighed


def assert_close(decoded: Pixels, expected: Array, tolerance: float) -> None:
    """Compare with unrounded values."""
    assert decoded.dtype == np.uint8
    assert np.abs(decoded - expected).max() <= tolerance


def second_opinion(data: bytes, mode: ImageReadMode = ImageReadMode.RGB) -> Array:
    """Return `[28, 28, channels]` as torchvision reads the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torchvision will hand its readers on
        tensor = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode)
    read: Array = tensor.permute(1, 2, 0).numpy().astype(np.int64)
    return read


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_gray_png_of_few_bits_spans_the_whole_range(depth: int, interlaced: bool) -> None:
    """The largest sample is white, and the steps between are even (PNG, section 13.12)."""
    samples = noise(high=1 << depth)
    decoded = decode(a_png(samples, GRAY, depth, interlaced=interlaced))
    assert np.array_equal(decoded, samples * 255 // ((1 << depth) - 1))


@pytest.mark.parametrize("interlaced", [False, True])
def test_sixteen_bits_of_gray_are_divided_by_257_and_rounded(interlaced: bool) -> None:
    """Every 16-bit gray becomes the nearest of the 256 (PNG, section 13.12)."""
    samples = noise(high=65536)
    decoded = decode(a_png(samples, GRAY, 16, interlaced=interlaced))
    assert np.array_equal(decoded, np.rint(samples / 257))


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_of_a_tiff_are_read_in_the_order_it_says(order: Order) -> None:
    """Little or big endian, the same pixels come out."""
    samples = noise(1, high=65536).astype(np.uint16)
    assert np.array_equal(decode(raw_tiff(samples, 1, order=order)), np.rint(samples[..., 0] / 257))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("colour_type", [RGB, RGBA, GRAY_ALPHA])
def test_sixteen_bits_of_colour_keep_their_upper_byte(colour_type: int, interlaced: bool) -> None:
    """What is below is lost, which is one level at most."""
    channels = {RGB: 3, RGBA: 4, GRAY_ALPHA: 2}[colour_type]
    samples = noise(channels, high=65536)
    if colour_type != RGB:
        samples[..., -1] = 65535
    colours = samples[..., :3] if channels > 2 else samples[..., [0, 0, 0]]
    decoded = decode(a_png(samples, colour_type, 16, interlaced=interlaced))
    assert_close(decoded, luma(colours >> 8), ROUNDED)


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_colour_png_becomes_its_luma(interlaced: bool) -> None:
    """By the formula, and by libpng with the formula."""
    samples = noise(3)
    data = a_png(samples, RGB, interlaced=interlaced)
    assert np.array_equal(second_opinion(data), samples)
    assert_close(decode(data), luma(samples), ROUNDED)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("colour_type", [RGBA, GRAY_ALPHA])
def test_alpha_is_composited_on_black(colour_type: int, interlaced: bool) -> None:
    """Every pixel becomes its colour times its opacity."""
    samples = noise(4 if colour_type == RGBA else 2)
    colours = samples[..., :3] if colour_type == RGBA else samples[..., [0, 0, 0]]
    decoded = decode(a_png(samples, colour_type, interlaced=interlaced))
    assert_close(decoded, luma(colours) * samples[..., -1] / 255, TWICE_ROUNDED)


@pytest.mark.parametrize(
    ("colour_type", "depth", "transparent"),
    [
        (GRAY, 8, (9,)),
        (GRAY, 4, (9,)),
        (GRAY, 2, (2,)),
        (GRAY, 1, (1,)),
        (GRAY, 16, (900,)),
        (RGB, 8, (9, 80, 200)),
    ],
)
def test_a_transparent_colour_is_black(colour_type: int, depth: int, transparent: tuple[int, ...]) -> None:
    """The one colour that tRNS names (PNG, section 11.3.1.1), and no other."""
    samples = noise(len(transparent), high=1 << depth)
    samples[::3] = transparent
    extra = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
    seen = np.where((samples == transparent).all(axis=2, keepdims=True), 0, samples) * (
        255 / ((1 << depth) - 1)
    )
    decoded = decode(a_png(samples, colour_type, depth, extra=extra))
    assert_close(decoded, luma(seen) if colour_type == RGB else seen[..., 0], ROUNDED)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_palette_gives_each_pixel_the_gray_of_its_colour(depth: int, interlaced: bool) -> None:
    """With opacities of its own for some of its entries, and without."""
    palette = np.random.default_rng(4).integers(0, 256, (1 << depth, 3))
    samples = noise(high=1 << depth)
    plte = chunk(b"PLTE", palette.astype(np.uint8).tobytes())
    data = a_png(samples, PALETTE, depth, interlaced=interlaced, extra=plte)
    assert np.array_equal(second_opinion(data), palette[samples])
    assert_close(decode(data), luma(palette[samples]), ROUNDED)

    opacity = np.full(1 << depth, 255)
    opacity[:2] = 0, 100
    with_alpha = plte + chunk(b"tRNS", bytes([0, 100]))
    decoded = decode(a_png(samples, PALETTE, depth, interlaced=interlaced, extra=with_alpha))
    assert_close(decoded, luma(palette[samples]) * opacity[samples] / 255, TWICE_ROUNDED)


@pytest.mark.parametrize("file_format", ["GIF", "BMP", "TIFF"])
def test_other_formats_palettes_are_read_too(file_format: str) -> None:
    """The palette is ours, and so is what it means."""
    palette = np.random.default_rng(4).integers(0, 256, (256, 3))
    samples = noise()
    image = Image.fromarray(samples.astype(np.uint8), "P")
    image.putpalette(palette.astype(np.uint8).tobytes())
    data = encoded(image, file_format, **({"optimize": False} if file_format == "GIF" else {}))
    assert_close(decode(data), luma(palette[samples]), ROUNDED)


def test_a_transparent_colour_of_a_gif_is_black() -> None:
    """As giflib reads it, whose fourth channel is the opacity."""
    samples = noise()
    image = Image.fromarray(samples.astype(np.uint8), "P")
    image.putpalette(np.random.default_rng(4).integers(0, 256, 768, np.uint8).tobytes())
    data = encoded(image, "GIF", transparency=17, optimize=False)
    colours = np.frombuffer(bytes(image.getpalette() or []), np.uint8).reshape(-1, 3)[samples].astype(int)
    colours[samples == 17] = 0
    assert_close(decode(data), luma(colours), ROUNDED)


@pytest.mark.parametrize("interlace", [0, 1])
def test_an_interlaced_gif_is_a_gif(interlace: int) -> None:
    """The library giflib agrees, row for row."""
    image = Image.fromarray(noise().astype(np.uint8))
    data = encoded(image, "GIF", interlace=interlace)
    descriptor = data.index(b",\0\0\0\0\x1c\0\x1c\0")
    assert data[descriptor + 9] >> 6 & 1 == interlace  # GIF89a, section 20
    assert_close(decode(data), luma(second_opinion(data)), ROUNDED)


def test_cmyk_becomes_the_light_that_its_inks_leave() -> None:
    """Each ink takes its share, and black takes it of all (TIFF 6.0, section 16, without a profile)."""
    samples = noise(4).astype(np.uint8)
    left = 255 - samples.astype(np.float64)
    assert_close(decode(raw_tiff(samples, 5)), luma(left[..., :3] * left[..., 3:] / 255), TWICE_ROUNDED)


@pytest.mark.parametrize("inks", [(0, 0, 0, 0), (0, 0, 0, 255), (255, 0, 0, 0), (10, 200, 90, 60)])
def test_a_cmyk_jpeg_is_not_its_own_negative(inks: tuple[int, ...]) -> None:
    """Adobe's programs write the inks inverted, and say so in a segment of their own."""
    samples = np.broadcast_to(np.array(inks, np.uint8), (28, 28, 4))
    data = encoded(Image.fromarray(samples, "CMYK"), "JPEG", quality=100)
    assert b"Adobe" in data
    left = 255 - np.array(inks, float)
    assert_close(decode(data), luma(left[:3] * left[3] / 255), 3)


@pytest.mark.parametrize("quality", [50, 95])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_progressive_jpeg_is_the_same_image(mode: str, quality: int) -> None:
    """The same coefficients in another order: the same pixels, and libjpeg-turbo's."""
    smooth = np.linspace(0, 255, 784).reshape(28, 28)
    colours = np.stack([smooth, smooth.T, 255 - smooth], axis=2).astype(np.uint8)
    image = Image.fromarray(colours).convert(mode)
    baseline, progressive = (encoded(image, "JPEG", quality=quality, progressive=p) for p in (False, True))
    assert b"\xff\xc2" in progressive  # SOF2
    assert np.array_equal(decode(progressive), decode(baseline))
    assert_close(decode(progressive), luma(second_opinion(progressive)), ROUNDED + 1)


def a_bmp(
    bits: int,
    pixels: bytes,
    palette: bytes = b"",
    *,
    header: int = 40,
    compression: int = 0,
    used: int = 0,
    masks: tuple[int, ...] = (),
    height: int = 28,
) -> bytes:
    """Return a BMP (Microsoft, BITMAPCOREHEADER and BITMAPINFOHEADER) of pixels as they stand in the file."""
    about = struct.pack("<IHHHH", 12, 28, 28, 1, bits)
    if header != 12:
        about = struct.pack(
            "<IiiHHIIiiII", header, 28, height, 1, bits, compression, len(pixels), 0, 0, used, 0
        )
        about = (about + struct.pack(f"<{len(masks)}I", *masks)).ljust(header, b"\0")
    offset = 14 + len(about) + len(palette)
    return struct.pack("<2sIHHI", b"BM", offset + len(pixels), 0, 0, offset) + about + palette + pixels


def bmp_rows(samples: Array, bits: int) -> bytes:
    """Return rows of samples, each padded to four bytes, in the order given."""
    rows = [np.packbits((row[:, None] >> np.arange(bits - 1, -1, -1)) & 1).tobytes() for row in samples]
    return b"".join(row + bytes(-len(row) % 4) for row in rows)


def grays(*values: int, channels: int = 4) -> bytes:
    """Return a BMP's palette."""
    return b"".join((bytes([value]) * 3).ljust(channels, b"\0") for value in values)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_every_palette_of_a_bmp_is_read(bits: int) -> None:
    """Upwards and downwards, with the colours of Windows and of OS/2, and with fewer than there could be."""
    colours = np.random.default_rng(4).integers(0, 256, 1 << bits)
    samples = noise(high=1 << bits)
    up, down = bmp_rows(samples[::-1], bits), bmp_rows(samples, bits)
    for data in (
        a_bmp(bits, up, grays(*colours)),
        a_bmp(bits, down, grays(*colours), height=-28),
        a_bmp(bits, up, grays(*colours, channels=3), header=12),
        a_bmp(bits, up, grays(*colours), header=124),
    ):
        assert np.array_equal(decode(data), colours[samples])
    identity = a_bmp(bits, up, grays(*range(1 << bits)))
    assert np.array_equal(decode(identity), samples)
    two = noise(high=2)
    for black, white in ((0, 255), (255, 0), (10, 200)):
        data = a_bmp(bits, bmp_rows(two[::-1], bits), grays(black, white), used=2)
        assert np.array_equal(decode(data), np.where(two, white, black))


def test_run_length_encoding_leaves_out_what_it_may() -> None:
    """Empty rows, ends of rows, steps, an early end, and literal runs of an odd length, in 8 and in 4 bits."""
    for bits, method in ((8, 1), (4, 2)):
        samples = noise(high=1 << bits)
        samples[3:6], samples[9, 12:], samples[:2], samples[20, :5] = 0, 0, 0, 0
        runs = b""
        for row, line in enumerate(samples[:1:-1]):
            values = line.tolist()
            if row == 7:  # of the file: 20 from the top
                runs += b"\0\2\5\0"
                values = values[5:]
            values = values[:12] if not any(values[12:]) else values
            if any(values):
                literal, rest = values[:7], values[7:]
                packed = bytes(literal) if bits == 8 else bmp_rows(np.array([literal]), 4)[:4]
                runs += bytes([0, 7]) + packed + bytes(len(packed) & 1)
                runs += b"".join(bytes([1, value << (8 - bits)]) for value in rest)
            runs += b"\0\0"
        data = a_bmp(bits, runs + b"\0\1", grays(*range(1 << bits)), compression=method)
        assert np.array_equal(decode(data), samples)
        twos = b"".join(bytes([28, 0x53]) + b"\0\0" for _ in range(28)) + b"\0\1"
        expected = np.full((28, 28), 0x53) if bits == 8 else np.tile([5, 3], (28, 14))
        data = a_bmp(bits, twos, grays(*range(1 << bits)), compression=method)
        assert np.array_equal(decode(data), expected)


@pytest.mark.parametrize(
    ("runs", "sentence"),
    [(b"\x1d\1", "its runs leave the image"), (b"\1\1" * 28 + b"\0\0", "not enough image data")],
)
def test_runs_that_leave_the_image_or_end_within_are_damage(runs: bytes, sentence: str) -> None:
    """Nothing is guessed of them."""
    with pytest.raises(ImageError, match=sentence) as caught:
        decode(a_bmp(8, runs, grays(*range(256)), compression=1))
    assert caught.value.kind is ImageFault.DAMAGED


@pytest.mark.parametrize(
    ("bits", "widths", "masks", "compression", "header"),
    [
        (16, (5, 5, 5), (), 0, 40),
        (16, (5, 5, 5), (0x7C00, 0x3E0, 0x1F), 3, 40),
        (16, (5, 6, 5), (0xF800, 0x7E0, 0x1F), 3, 40),
        (24, (8, 8, 8), (), 0, 40),
        (32, (8, 8, 8), (), 0, 40),
        (32, (8, 8, 8), (0xFF0000, 0xFF00, 0xFF), 3, 40),
        (32, (8, 8, 8), (0xFF0000, 0xFF00, 0xFF, 0), 3, 108),
        (32, (8, 8, 8, 8), (0xFF0000, 0xFF00, 0xFF, 0xFF000000), 3, 124),
    ],
)
def test_colours_of_a_bmp_are_read_by_their_bits(
    bits: int, widths: tuple[int, ...], masks: tuple[int, ...], compression: int, header: int
) -> None:
    """With masks and without, with opacity and without."""
    values = noise(high=1 << bits)
    shifts = (sum(widths[1:3]), widths[2], 0, sum(widths[:3]))
    levels = [
        ((values >> shift) & ((1 << width) - 1)) * (255 / ((1 << width) - 1))
        for width, shift in zip(widths, shifts, strict=False)
    ]
    opacity = levels[3] / 255 if len(levels) > 3 else 1
    pixels = values[::-1].astype("<u4").view(np.uint8).reshape(28, 28, 4)[..., : bits // 8].tobytes()
    data = a_bmp(bits, pixels, masks=masks, compression=compression, header=header)
    assert_close(
        decode(data), luma(np.stack(levels[:3], axis=2)) * opacity, 1.4
    )  # five bits are scaled by a table


@pytest.mark.parametrize(
    "data",
    [
        a_bmp(16, bytes(1568), masks=(0xF00, 0xF0, 0xF), compression=3),
        a_bmp(32, bytes(3136), masks=(0x3FF00000, 0xFFC00, 0x3FF), compression=3),
        a_bmp(24, bytes(2352), compression=4),
        a_bmp(64, bytes(6272)),
    ],
)
def test_a_bmp_that_is_not_read_is_not_called_damaged(data: bytes) -> None:
    """Layouts of bits, and pixels that are another file."""
    with pytest.raises(ImageError, match=r"of this kind is not read.*Unsupported BMP") as caught:
        decode(data)
    assert caught.value.kind is ImageFault.UNSUPPORTED


@pytest.mark.parametrize("transparent", [None, 1])
@pytest.mark.parametrize("background", [0, 3])
def test_what_a_gif_s_frame_leaves_out_is_black(background: int, transparent: int | None) -> None:
    """As browsers leave it transparent, whatever colour comes first, or stands for the background."""
    image = Image.fromarray(np.full((10, 12), 2, np.uint8), "P")
    image.putpalette([255, 255, 255, 0, 0, 0, 100, 100, 100, 200, 200, 200])
    options = {} if transparent is None else {"transparency": transparent}
    data = bytearray(encoded(image, "GIF", optimize=False, **options))
    at = data.index(b",\0\0\0\0\x0c\0\x0a\0")
    data[6:10], data[11], data[at + 1 : at + 5] = (
        struct.pack("<HH", 28, 28),
        background,
        struct.pack("<HH", 5, 6),
    )
    expected = np.zeros((28, 28))
    expected[6:16, 5:17] = 100
    assert np.array_equal(decode(bytes(data)), expected)


def test_a_transparent_colour_of_sixteen_bits_is_not_guessed() -> None:
    """Of such a colour the lower bytes are lost before it is looked for."""
    extra = chunk(b"tRNS", struct.pack(">3H", 900, 70, 60000))
    with pytest.raises(ImageError, match="a transparent colour of 16 bits") as caught:
        decode(a_png(noise(3, high=65536), RGB, 16, extra=extra))
    assert caught.value.kind is ImageFault.UNSUPPORTED


def test_a_cmyk_jpeg_that_does_not_say_so_is_not_guessed_to_be_inverted() -> None:
    """Without Adobe's segment one program shows the image, and another its negative."""
    data = encoded(Image.new("CMYK", (28, 28), (10, 200, 90, 60)), "JPEG")
    at = data.index(b"\xff\xee")
    length = int.from_bytes(data[at + 2 : at + 4], "big")
    with pytest.raises(ImageError, match="no Adobe segment") as caught:
        decode(data[:at] + data[at + 2 + length :])
    assert caught.value.kind is ImageFault.UNSUPPORTED


def test_a_jpeg_of_twelve_bits_is_named() -> None:
    """It is no damage."""
    data = bytearray(encoded(Image.new("L", (28, 28)), "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(ImageError, match="12-bit") as caught:
        decode(bytes(data))
    assert caught.value.kind is ImageFault.UNSUPPORTED


@pytest.mark.parametrize("space", ["RGB", "YCbCr"])
def test_colours_of_a_jpeg_are_what_its_segment_says(space: str) -> None:
    """Three channels are RGB where Adobe's segment says so (transform 0)."""
    ramp = np.linspace(0, 255, 784).reshape(28, 28)
    colours = np.stack([ramp, ramp.T, 255 - ramp], axis=2).astype(np.uint8)
    data = encoded(Image.fromarray(colours), "JPEG", quality=100, subsampling=0, keep_rgb=space == "RGB")
    assert (b"Adobe" in data) == (space == "RGB")
    assert_close(decode(data), luma(colours.astype(float)), 3)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_lossy_webp_is_read_as_libwebp_reads_it(mode: str) -> None:
    """Its opacity stands in a chunk of its own."""
    smooth = np.linspace(0, 255, 784).reshape(28, 28)
    samples = np.stack([smooth, smooth.T, 255 - smooth, smooth][: len(mode)], axis=2).astype(np.uint8)
    data = encoded(Image.fromarray(samples, mode), "WEBP", quality=90)
    read = second_opinion(data, ImageReadMode.RGB_ALPHA if mode == "RGBA" else ImageReadMode.RGB)
    opacity = read[..., 3] / 255.0 if mode == "RGBA" else np.ones((28, 28))
    assert_close(decode(data), luma(read.astype(float)) * opacity, TWICE_ROUNDED)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_lossless_webp_is_read_as_libwebp_reads_it(mode: str) -> None:
    """Colour, and colour with opacity."""
    samples = noise(len(mode)).astype(np.uint8)
    data = encoded(Image.fromarray(samples, mode), "WEBP", lossless=True, exact=True)
    opacity = samples[..., 3] / 255.0 if mode == "RGBA" else np.ones((28, 28))
    assert_close(decode(data), luma(samples.astype(float)) * opacity, TWICE_ROUNDED)
    read = second_opinion(data, ImageReadMode.RGB_ALPHA if mode == "RGBA" else ImageReadMode.RGB)
    assert np.array_equal(read, samples)


TURNS = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.T,
    6: lambda image: image[::-1].T,
    7: lambda image: image[::-1, ::-1].T,
    8: lambda image: image[:, ::-1].T,
}
"""Exif 2.32, tag 274: which side of the stored image is the top, and which the left, as seen."""


def exif(orientation: int) -> bytes:
    """Return an Exif block, which is a TIFF of one tag."""
    return handmade.a_tiff({0x0112: (3, 1, orientation)}, b"")


@pytest.mark.parametrize("orientation", TURNS)
def test_every_orientation_is_undone_in_every_format_that_has_one(orientation: int) -> None:
    """Mirrored and turned, in PNG's eXIf chunk, a TIFF's own tag, WebP's and JPEG's Exif."""
    stored = np.repeat(np.repeat(np.arange(16).reshape(4, 4) * 16, 7, 0), 7, 1).astype(np.uint8)
    seen = TURNS[orientation](stored)
    block = exif(orientation)
    assert np.array_equal(decode(a_png(stored, GRAY, extra=chunk(b"eXIf", block))), seen)
    assert np.array_equal(decode(raw_tiff(stored[..., None], 1, t274=(3, 1, orientation))), seen)
    image = Image.fromarray(stored)
    assert np.array_equal(decode(encoded(image, "WEBP", lossless=True, exif=b"Exif\0\0" + block)), seen)
    jpeg = encoded(image, "JPEG", quality=100, exif=b"Exif\0\0" + block)
    assert_close(decode(jpeg), seen, 12)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation: int) -> None:
    """Some cameras write 0."""
    stored = noise().astype(np.uint8)
    assert np.array_equal(decode(a_png(stored, GRAY, extra=chunk(b"eXIf", exif(orientation)))), stored)


def test_the_contract_speaks_of_every_kind() -> None:
    """What is tested here is what is said to clients."""
    assert set(CONVERSIONS) == {
        "colour",
        "palette",
        "cmyk",
        "alpha",
        "sixteen_bits",
        "one_bit",
        "exif_orientation",
        "interlaced",
        "animated",
        "floating_point",
        "extra_samples",
        "offset",
        "other_kinds",
        "metadata",
        "size",
    }


def test_the_page_of_the_service_says_what_the_contract_says() -> None:
    """Each conversion is a row of its table, word for word."""
    rows = [line for line in (ROOT / "docs" / "service.md").read_text().splitlines() if line.startswith("| ")]
    for sentence in CONVERSIONS.values():
        assert [row for row in rows if row.endswith(f" | {sentence} |")], sentence
