"""The decoder: exact on what it accepts, and never anything but an array or a refusal."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from bundle.manifest import Polarity
from serving.errors import (
    BrokenImageError,
    ProblemError,
    UnsupportedImageError,
    UnsupportedMediaTypeError,
    WrongSizeError,
)
from serving.formats import PARSERS
from serving.images import decode
from tests.serving.models import a_digit, encoded, png

Pixels = npt.NDArray[np.uint8]
WHITE: Polarity = "white-on-black"
LOSSLESS: dict[str, Callable[[Image.Image], bytes]] = {
    "image/png": lambda image: encoded(image, "PNG"),
    "image/bmp": lambda image: encoded(image, "BMP"),
    "image/gif": lambda image: encoded(image, "GIF"),
    "image/tiff": lambda image: encoded(image, "TIFF"),
    "image/webp": lambda image: encoded(image, "WEBP", lossless=True),
}
EVERY_FORMAT = LOSSLESS | {"image/jpeg": lambda image: encoded(image, "JPEG", quality=95)}
SAMPLES = {media_type: save(Image.fromarray(a_digit())) for media_type, save in EVERY_FORMAT.items()}
images = arrays(np.uint8, (28, 28))


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
    decoded = decode(LOSSLESS[media_type](Image.fromarray(pixels)), media_type, WHITE)
    assert decoded.pixels.dtype == np.uint8
    assert np.array_equal(decoded.pixels, pixels)


def test_a_jpeg_comes_out_close_to_what_went_in(digit: Pixels) -> None:
    """JPEG is lossy, and still the image that was saved."""
    smooth = np.array(Image.fromarray(digit).resize((7, 7)).resize((28, 28)))
    decoded = decode(EVERY_FORMAT["image/jpeg"](Image.fromarray(smooth)), "image/jpeg", WHITE).pixels
    assert np.abs(decoded.astype(int) - smooth).max() < 16


@pytest.mark.parametrize("media_type", EVERY_FORMAT)
def test_a_file_of_no_declared_type_is_recognised_by_its_content(media_type: str) -> None:
    """The bytes alone say what the format is."""
    declared = decode(SAMPLES[media_type], media_type, WHITE)
    assert np.array_equal(decode(SAMPLES[media_type], None, WHITE).pixels, declared.pixels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "CMYK"])
def test_colour_images_whose_colours_are_gray_keep_their_values(mode: str, digit: Pixels) -> None:
    """Conversion adds nothing: gray saved as colour comes back as the same gray."""
    image = Image.fromarray(digit).convert("RGB").convert(mode)
    file_format = "TIFF" if mode == "CMYK" else "PNG"
    decoded = decode(encoded(image, file_format), None, WHITE).pixels
    expected = np.array(image.convert("RGB").convert("L"))  # a web palette has not every gray
    assert np.array_equal(decoded, expected)
    assert mode == "P" or np.array_equal(expected, digit)


def test_one_bit_images_become_black_and_white(digit: Pixels) -> None:
    """A bilevel image is 0 and 255."""
    bilevel = Image.fromarray(digit > 100)
    assert np.array_equal(decode(encoded(bilevel, "PNG"), None, WHITE).pixels, (digit > 100) * np.uint8(255))


def test_colours_become_gray_by_their_luma() -> None:
    """Pure red, green and blue are as bright as ITU-R 601 says."""
    colours = np.zeros((28, 28, 3), np.uint8)
    for channel in range(3):
        colours[channel, :, channel] = 255
    decoded = decode(encoded(Image.fromarray(colours), "PNG"), None, WHITE).pixels
    assert decoded[:3, 0].tolist() == [76, 150, 29]


def test_alpha_is_composited_on_black() -> None:
    """White at half opacity is mid gray, and what is transparent is black."""
    pixels = np.full((28, 28, 4), 255, np.uint8)
    pixels[0, :, 3], pixels[1, :, 3] = 128, 0
    decoded = decode(encoded(Image.fromarray(pixels), "PNG"), None, WHITE).pixels
    assert decoded[:3, 0].tolist() == [128, 0, 255]


def test_a_transparent_palette_entry_is_black(digit: Pixels) -> None:
    """A palette's transparency counts as alpha does."""
    image = Image.fromarray(np.full((28, 28), 255, np.uint8)).convert("P")
    data = encoded(image, "PNG", transparency=image.getpixel((0, 0)))
    assert decode(data, None, WHITE).pixels.max() == 0


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bits_become_eight_over_the_whole_range(file_format: str) -> None:
    """0 stays 0, 65535 becomes 255, and every multiple of 257 is exact."""
    deep = (np.arange(784).reshape(28, 28) % 256 * 257).astype(np.uint16)
    decoded = decode(encoded(Image.fromarray(deep), file_format), None, WHITE).pixels
    assert np.array_equal(decoded, np.arange(784).reshape(28, 28) % 256)


def test_floating_point_pixels_are_refused_because_their_range_is_unknown() -> None:
    """A float TIFF has no one meaning in 0..255."""
    with pytest.raises(UnsupportedImageError, match="32-bit"):
        decode(encoded(Image.fromarray(np.zeros((28, 28), np.float32)), "TIFF"), None, WHITE)


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
    assert np.array_equal(decode(data, None, WHITE).pixels, np.rot90(digit, turn))


@pytest.mark.parametrize("size", [(64, 64), (27, 28), (28, 29), (1, 1)])
@pytest.mark.parametrize("media_type", EVERY_FORMAT)
def test_another_size_is_refused_by_its_numbers(media_type: str, size: tuple[int, int]) -> None:
    """The refusal names the size that was found and the one that is wanted."""
    with pytest.raises(WrongSizeError, match=f"{size[0]}x{size[1]}.*28x28"):
        decode(EVERY_FORMAT[media_type](Image.new("L", size)), media_type, WHITE)


def test_a_bomb_is_refused_from_its_header() -> None:
    """A tiny file that claims 2.5 gigapixels is answered with its claim, not decoded."""
    with pytest.raises(WrongSizeError, match="50000x50000"):
        decode(png_claiming(50000, 50000), "image/png", WHITE)


def test_a_webp_bomb_is_refused_before_its_canvas_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of a WebP is read before Pillow, which allocates the canvas as it opens the file."""
    canvas = (16382).to_bytes(3, "little") * 2
    bomb = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + canvas

    def never(*_: Any) -> None:
        pytest.fail("the parser was started")

    monkeypatch.setitem(PARSERS, "image/webp", never)
    with pytest.raises(WrongSizeError, match="16383x16383"):
        decode(bomb, "image/webp", WHITE)


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_is_refused(file_format: str, digit: Pixels) -> None:
    """Several frames have no one label."""
    frames = [Image.fromarray(digit), Image.fromarray(255 - digit)]
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
    with pytest.raises(UnsupportedImageError, match="several frames"):
        decode(data, None, WHITE)


def test_what_is_no_image_is_named() -> None:
    """A PDF under an image's type is called a PDF."""
    with pytest.raises(UnsupportedMediaTypeError, match="declared as image/png, but it looks like a PDF"):
        decode(b"%PDF-1.7\n...", "image/png", WHITE)


def test_a_declared_type_that_the_content_contradicts_is_refused() -> None:
    """A JPEG declared as PNG is refused, and the remedy is the right type."""
    with pytest.raises(
        UnsupportedMediaTypeError, match="declared as image/png, but it is image/jpeg"
    ) as caught:
        decode(SAMPLES["image/jpeg"], "image/png", WHITE)
    assert "Content-Type: image/jpeg" in caught.value.remedy


def test_an_empty_file_is_refused() -> None:
    """A form can carry a file of no bytes; it is no image."""
    with pytest.raises(BrokenImageError, match="empty"):
        decode(b"", None, WHITE)


@pytest.mark.parametrize("media_type", EVERY_FORMAT)
def test_no_prefix_of_an_image_is_taken_for_another_image(media_type: str) -> None:
    """Cut anywhere, a file is refused, or (only its trailer lost) gives the very same pixels."""
    whole = SAMPLES[media_type]
    expected = decode(whole, media_type, WHITE).pixels
    refused = 0
    for length in range(len(whole)):
        try:
            assert np.array_equal(decode(whole[:length], media_type, WHITE).pixels, expected), length
        except ProblemError:
            refused += 1
    assert refused > len(whole) * 0.9


def test_a_png_without_its_last_chunk_is_refused() -> None:
    """Pillow would read it; a transfer that was cut there is still a cut transfer."""
    with pytest.raises(BrokenImageError, match="ends too early"):
        decode(SAMPLES["image/png"][:-12], "image/png", WHITE)


def test_an_inverted_image_is_answered_with_a_warning_and_not_flipped(digit: Pixels) -> None:
    """Dark ink on light paper looks inverted to a model of the opposite; the pixels stay."""
    assert decode(png(digit), None, WHITE).warnings == ()
    inverted = decode(png(255 - digit), None, WHITE)
    assert len(inverted.warnings) == 1
    assert inverted.warnings[0].startswith("looks inverted")
    assert np.array_equal(inverted.pixels, 255 - digit)


def test_the_warning_follows_the_polarity_of_the_model(digit: Pixels) -> None:
    """What is inverted for one contract is right for the other."""
    assert decode(png(255 - digit), None, "black-on-white").warnings == ()
    assert "black-on-white" in decode(png(digit), None, "black-on-white").warnings[0]


def test_an_object_that_fills_the_image_does_not_look_inverted(digit: Pixels) -> None:
    """A bright border around a still brighter middle is no paper."""
    pixels = np.full((28, 28), 140, np.uint8)
    pixels[4:24, 4:24] = 250
    assert decode(png(pixels), None, WHITE).warnings == ()


def assert_array_or_refusal(data: bytes, media_type: str | None) -> None:
    """Decode; anything but `uint8[28, 28]` or a `ProblemError` fails the test."""
    try:
        decoded = decode(data, media_type, WHITE)
    except ProblemError as error:
        refusal = error
    else:
        assert decoded.pixels.shape == (28, 28)
        assert decoded.pixels.dtype == np.uint8
        return
    assert 400 <= refusal.status < 500
    assert refusal.detail
    assert refusal.remedy


@given(data=st.binary(max_size=200), media_type=st.sampled_from([None, *PARSERS]))
@example(data=b"RIFF\0\0\0\0WEBPVP8 ", media_type=None)
def test_arbitrary_bytes_give_an_array_or_a_refusal(data: bytes, media_type: str | None) -> None:
    """Noise never crashes the decoder."""
    assert_array_or_refusal(data, media_type)


@given(media_type=st.sampled_from(sorted(SAMPLES)), tail=st.binary(max_size=100), keep=st.integers(0, 40))
def test_noise_behind_a_real_header_gives_an_array_or_a_refusal(
    media_type: str, tail: bytes, keep: int
) -> None:
    """Parsers that get past the signature stumble cleanly."""
    assert_array_or_refusal(SAMPLES[media_type][:keep] + tail, media_type)


@given(
    media_type=st.sampled_from(sorted(SAMPLES)),
    changes=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_a_mutated_image_gives_an_array_or_a_refusal(media_type: str, changes: list[tuple[int, int]]) -> None:
    """Flipped bytes in real files never crash the decoder."""
    data = bytearray(SAMPLES[media_type])
    for place, value in changes:
        data[place % len(data)] = value
    assert_array_or_refusal(bytes(data), media_type)


def test_a_size_that_lies_inside_the_file_is_noticed(digit: Pixels) -> None:
    """A GIF whose frame is larger than its 28x28 screen is refused for its real size."""
    data = bytearray(encoded(Image.new("L", (64, 64)), "GIF"))
    data[6:10] = struct.pack("<HH", 28, 28)
    with pytest.raises(ProblemError):
        decode(bytes(data), None, WHITE)
    assert Image.open(io.BytesIO(png(digit))).size == (28, 28)
