"""The image decoder: exact on what it accepts, and an ImageError for everything else."""

import io
import struct
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from bench.support.pictures import (
    EVERY_FORMAT,
    EVERY_MODE,
    LOSSLESS,
    SAMPLES,
    Pixels,
    a_digit,
    encoded,
    png,
    webp_bomb,
)
from bundle.images.decoding import PARSERS, check_header, decode, decode_all, sniff
from bundle.images.errors import ImageError, ImageFault
from tests.conftest import ROOT

images = arrays(np.uint8, (28, 28))


@pytest.fixture
def digit() -> Pixels:
    """Return an image that no other test has changed."""
    return a_digit()


def oriented(file_format: str, orientation: int, pixels: Pixels) -> bytes:
    """Return an image file whose EXIF asks for an orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(pixels), file_format, exif=exif)


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return one PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width: int, height: int) -> bytes:
    """Return a tiny, well-formed PNG whose header claims a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_the_table_of_formats_is_the_one_that_was_promised() -> None:
    """PNG, JPEG, GIF, BMP, WebP and TIFF are read, and nothing else."""
    assert set(PARSERS) == {f"image/{name}" for name in ("png", "jpeg", "gif", "bmp", "webp", "tiff")}


@pytest.mark.parametrize("media_type", LOSSLESS)
@given(pixels=images)
def test_every_gray_image_survives_a_lossless_format_bit_for_bit(media_type: str, pixels: Pixels) -> None:
    """What was saved is what the model gets, whatever the pixels are."""
    decoded = decode(LOSSLESS[media_type](Image.fromarray(pixels)))
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, pixels)


def test_many_files_are_what_each_is_alone(digit: Pixels) -> None:
    """Plain ones between others, and refusals by their places."""
    files = [png(digit), SAMPLES["image/bmp"], b"", *EVERY_MODE, png(digit.T), png(digit)[:-20], png(digit)]
    pixels, rejected = decode_all(files)
    for place, data in enumerate(files):
        if place in rejected:
            with pytest.raises(ImageError) as alone:
                decode(data)
            assert (rejected[place].kind, rejected[place].detail) == (alone.value.kind, alone.value.detail)
            assert not pixels[place].any()
        else:
            assert np.array_equal(pixels[place], decode(data))
    assert sorted(rejected) == [2, len(files) - 2]


def test_a_jpeg_comes_out_close_to_what_went_in(digit: Pixels) -> None:
    """JPEG is lossy, and still the image that was saved."""
    smooth = np.array(Image.fromarray(digit).resize((7, 7)).resize((28, 28)))
    decoded = decode(EVERY_FORMAT["image/jpeg"](Image.fromarray(smooth)))
    assert np.abs(decoded.astype(int) - smooth).max() < 16


@pytest.mark.parametrize("media_type", EVERY_FORMAT)
def test_a_file_of_no_declared_type_is_recognised_by_its_content(media_type: str) -> None:
    """The bytes alone say what the format is."""
    assert sniff(SAMPLES[media_type]) == media_type
    assert decode(SAMPLES[media_type]).shape == (28, 28)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "CMYK"])
def test_colour_images_whose_colours_are_gray_keep_their_values(mode: str, digit: Pixels) -> None:
    """Conversion adds nothing: gray saved as colour comes back as the same gray."""
    image = Image.fromarray(digit).convert("RGB").convert(mode)
    file_format = "TIFF" if mode == "CMYK" else "PNG"
    decoded = decode(encoded(image, file_format))
    expected = np.array(image.convert("RGB").convert("L"))  # a web palette has not every gray
    assert np.array_equal(decoded, expected)
    assert mode == "P" or np.array_equal(expected, digit)


def test_one_bit_images_become_black_and_white(digit: Pixels) -> None:
    """A bilevel image is 0 and 255."""
    bilevel = Image.fromarray(digit > 100)
    assert np.array_equal(decode(encoded(bilevel, "PNG")), (digit > 100) * np.uint8(255))


def test_colours_become_gray_by_their_luma() -> None:
    """Pure red, green and blue are as bright as ITU-R 601 says."""
    colours = np.zeros((28, 28, 3), np.uint8)
    for channel in range(3):
        colours[channel, :, channel] = 255
    decoded = decode(encoded(Image.fromarray(colours), "PNG"))
    assert decoded[:3, 0].tolist() == [76, 150, 29]


def test_alpha_is_composited_on_black() -> None:
    """White at half opacity is mid gray, and what is transparent is black."""
    pixels = np.full((28, 28, 4), 255, np.uint8)
    pixels[0, :, 3], pixels[1, :, 3] = 128, 0
    decoded = decode(encoded(Image.fromarray(pixels), "PNG"))
    assert decoded[:3, 0].tolist() == [128, 0, 255]


def test_a_transparent_palette_entry_is_black(digit: Pixels) -> None:
    """A palette's transparency counts as alpha does."""
    image = Image.fromarray(np.full((28, 28), 255, np.uint8)).convert("P")
    data = encoded(image, "PNG", transparency=image.getpixel((0, 0)))
    assert decode(data).max() == 0


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bits_become_eight_over_the_whole_range(file_format: str) -> None:
    """0 stays 0, 65535 becomes 255, and every multiple of 257 is exact."""
    deep = (np.arange(784).reshape(28, 28) % 256 * 257).astype(np.uint16)
    decoded = decode(encoded(Image.fromarray(deep), file_format))
    assert np.array_equal(decoded, np.arange(784).reshape(28, 28) % 256)


def test_floating_point_pixels_are_rejected_because_their_range_is_unknown() -> None:
    """A float TIFF has no one meaning in 0..255."""
    with pytest.raises(ImageError, match="32-bit") as caught:
        decode(encoded(Image.fromarray(np.zeros((28, 28), np.float32)), "TIFF"))
    assert caught.value.kind is ImageFault.PIXEL_RANGE


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(("orientation", "turn"), [(3, 2), (6, 3), (8, 1)])
def test_the_exif_orientation_is_applied(
    file_format: str, orientation: int, turn: int, digit: Pixels
) -> None:
    """A photo that was taken sideways is turned as a viewer would turn it."""
    digit[6] = 255  # so that no rotation looks like another
    if file_format == "WEBP":
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(Image.fromarray(digit), "WEBP", lossless=True, exif=exif)
    else:
        data = oriented(file_format, orientation, digit)
    assert np.array_equal(decode(data), np.rot90(digit, turn))


@pytest.mark.parametrize("size", [(64, 64), (27, 28), (28, 29), (1, 1)])
@pytest.mark.parametrize("media_type", EVERY_FORMAT)
def test_another_size_is_rejected_by_its_numbers(media_type: str, size: tuple[int, int]) -> None:
    """The refusal names the size that was found and the one that is wanted."""
    with pytest.raises(ImageError, match=f"{size[0]}x{size[1]}.*28x28") as caught:
        decode(EVERY_FORMAT[media_type](Image.new("L", size)))
    assert caught.value.kind is ImageFault.SIZE


def test_a_bomb_is_rejected_from_its_header() -> None:
    """A tiny file that claims 2.5 gigapixels is answered with its claim, not decoded."""
    with pytest.raises(ImageError, match="50000x50000") as caught:
        decode(png_claiming(50000, 50000))
    assert caught.value.kind is ImageFault.SIZE


def test_a_webp_bomb_is_rejected_before_its_canvas_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of a WebP is read before Pillow, which allocates the canvas as it opens the file."""

    def never(*_: Any) -> None:
        pytest.fail("the parser was started")

    monkeypatch.setitem(PARSERS, "image/webp", never)
    for look in (decode, check_header):
        with pytest.raises(ImageError, match="16383x16383") as caught:
            look(webp_bomb())
        assert caught.value.kind is ImageFault.SIZE


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("metadata", [{}, {"xmp": b"<x/>"}])
def test_the_size_of_every_kind_of_webp_is_read_from_its_header(
    lossless: bool, metadata: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lossy, lossless and extended files give their size without the parser."""
    image = Image.new("RGB", (300, 77))
    data = encoded(image, "WEBP", lossless=lossless, **metadata)
    assert (data[12:16] == b"VP8X") is bool(metadata)
    monkeypatch.delitem(PARSERS, "image/webp")
    with pytest.raises(ImageError, match="300x77"):
        decode(data)


@pytest.mark.parametrize("length", [12, 16, 20, 24, 29])
def test_a_webp_that_ends_in_its_header_is_damaged(length: int) -> None:
    """What is left of a size is not reported as one."""
    with pytest.raises(ImageError) as caught:
        decode(webp_bomb()[:length])
    assert caught.value.kind is ImageFault.DAMAGED


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_is_rejected(file_format: str, digit: Pixels) -> None:
    """Several frames have no one label."""
    frames = [Image.fromarray(digit), Image.fromarray(255 - digit)]
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match="several frames") as caught:
        decode(data)
    assert caught.value.kind is ImageFault.ANIMATED


def test_what_is_no_image_is_named() -> None:
    """A PDF is called a PDF."""
    with pytest.raises(ImageError, match="no supported image: it looks like a PDF") as caught:
        decode(b"%PDF-1.7\n...")
    assert caught.value.kind is ImageFault.FORMAT


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "AVIF"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "AVIF"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "video"),
        (b"\xff\x0a\xfa\x7f", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x4f\xff\x51\0\x2f", "JPEG 2000"),
        (b"II\xbc\x01\x20\0\0\0", "JPEG XR"),
        (b"II+\0\x08\0\0\0", "BigTIFF"),
        (b"MM\0+\0\x08\0\0", "BigTIFF"),
        (b"8BPS\0\1", "PSD"),
        (b"\0\0\1\0\1\0\x1c\x1c", "ICO"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'>", "SVG"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- drawn -->\n<svg>", "SVG"),
        (b"%PDF-1.7", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript"),
        (b"P5\n28 28\n255\n", "Netpbm"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"qoif\0\0\0\x1c", "QOI"),
    ],
)
def test_what_is_not_supported_is_named(start: bytes, name: str) -> None:
    """Formats in which people have images; none of them is called damaged."""
    with pytest.raises(ImageError, match=f"it looks like an? .*{name}|it looks like {name}") as caught:
        decode(start + bytes(500))
    assert caught.value.kind is ImageFault.FORMAT


def test_an_empty_file_is_rejected() -> None:
    """A file of no bytes is no image."""
    with pytest.raises(ImageError, match="empty") as caught:
        decode(b"")
    assert caught.value.kind is ImageFault.EMPTY


@pytest.mark.parametrize("media_type", EVERY_FORMAT)
def test_no_prefix_of_an_image_is_taken_for_another_image(media_type: str) -> None:
    """Cut anywhere, a file is rejected, or (only its trailer lost) gives the very same pixels."""
    whole = SAMPLES[media_type]
    expected = decode(whole)
    rejected = 0
    for length in range(len(whole)):
        try:
            assert np.array_equal(decode(whole[:length]), expected), length
        except ImageError:
            rejected += 1
    assert rejected > len(whole) * 0.9


def test_a_png_without_its_last_chunk_is_rejected() -> None:
    """Pillow would read it; a transfer that was cut there is still a cut transfer."""
    with pytest.raises(ImageError, match="ends too early") as caught:
        decode(SAMPLES["image/png"][:-12])
    assert caught.value.kind is ImageFault.DAMAGED


def assert_array_or_refusal(data: bytes) -> None:
    """Decode; anything but `uint8[28, 28]` or an `ImageError` fails the test.

    What the header tells is the same for both ways in, and what it does not tell is damage.
    """
    said = None
    try:
        check_header(data)
    except ImageError as error:
        said = error
    try:
        decoded = decode(data)
    except ImageError as error:
        refusal = error
    else:
        assert said is None
        assert decoded.shape == (28, 28)
        assert decoded.dtype == np.uint8
        return
    assert refusal.detail == str(refusal)
    assert len(refusal.detail) < 300
    if said is None:
        assert refusal.kind is ImageFault.DAMAGED
    else:
        assert (said.kind, said.detail, said.found) == (refusal.kind, refusal.detail, refusal.found)


@pytest.mark.parametrize("data", EVERY_MODE)
def test_the_header_of_a_good_file_is_found_good(data: bytes) -> None:
    """Colour, depth, alpha, orientation: what decodes passes the check before it."""
    check_header(data)
    assert decode(data).shape == (28, 28)


@settings(deadline=None, max_examples=300)
@given(
    data=st.sampled_from(EVERY_MODE),
    at=st.integers(0, 3000),
    garbage=st.binary(max_size=30),
    cut=st.booleans(),
)
def test_a_file_overwritten_or_cut_anywhere_gives_an_array_or_a_refusal(
    data: bytes, at: int, garbage: bytes, cut: bool
) -> None:
    """Damage in any pixel mode is rejected cleanly, and by the header alone only what both reject."""
    at %= len(data)
    assert_array_or_refusal(data[:at] + garbage + (b"" if cut else data[at + len(garbage) :]))


def test_what_pillow_warns_of_is_damage_in_any_process() -> None:
    """A program that sets no filter of its own, or says -W ignore, gets the error too."""
    program = (
        "import warnings; import bundle.images.decoding\n"
        "try: warnings.warn_explicit('a short read', UserWarning, 'a file', 1, module='PIL.ImageFile')\n"
        "except UserWarning as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, capture_output=True, check=True
    )
    assert done.stdout == b"a short read\n"


@given(data=st.binary(max_size=200))
@example(data=b"RIFF\0\0\0\0WEBPVP8 ")
def test_arbitrary_bytes_give_an_array_or_a_refusal(data: bytes) -> None:
    """Noise never crashes the decoder."""
    assert_array_or_refusal(data)


@given(media_type=st.sampled_from(sorted(SAMPLES)), tail=st.binary(max_size=100), keep=st.integers(0, 40))
def test_noise_behind_a_real_header_gives_an_array_or_a_refusal(
    media_type: str, tail: bytes, keep: int
) -> None:
    """Parsers that get past the signature stumble cleanly."""
    assert_array_or_refusal(SAMPLES[media_type][:keep] + tail)


@given(
    media_type=st.sampled_from(sorted(SAMPLES)),
    changes=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_a_mutated_image_gives_an_array_or_a_refusal(media_type: str, changes: list[tuple[int, int]]) -> None:
    """Flipped bytes in real files never crash the decoder."""
    data = bytearray(SAMPLES[media_type])
    for place, value in changes:
        data[place % len(data)] = value
    assert_array_or_refusal(bytes(data))


def test_a_size_that_lies_inside_the_file_is_noticed(digit: Pixels) -> None:
    """A GIF whose frame is larger than its 28x28 screen is rejected for its real size."""
    data = bytearray(encoded(Image.new("L", (64, 64)), "GIF"))
    data[6:10] = struct.pack("<HH", 28, 28)
    with pytest.raises(ImageError):
        decode(bytes(data))
    assert Image.open(io.BytesIO(png(digit))).size == (28, 28)
