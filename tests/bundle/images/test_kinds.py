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
        "size",
    }


def test_the_page_of_the_service_says_what_the_contract_says() -> None:
    """Each conversion is a row of its table, word for word."""
    rows = [line for line in (ROOT / "docs" / "service.md").read_text().splitlines() if line.startswith("| ")]
    for sentence in CONVERSIONS.values():
        assert [row for row in rows if row.endswith(f" | {sentence} |")], sentence
