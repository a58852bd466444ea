"""A request's image: its declared type, what is answered to each refusal, and the polarity warning."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.support.pictures import EVERY_FORMAT, EVERY_MODE, SAMPLES, Pixels, a_digit, encoded, png
from bench.support.tiffs import Kind, written
from bundle.images import decoding
from bundle.images.decoding import PARSERS
from bundle.images.errors import ImageError, ImageFault
from bundle.images.hardening import MAX_FILE_BYTES
from bundle.manifest import Polarity
from serving.errors import (
    BrokenImageError,
    ImageTooLargeError,
    ProblemError,
    UnsupportedImageError,
    UnsupportedMediaTypeError,
    WrongSizeError,
)
from serving.predict.bodies.image_files import NOT_RESIZED, PROBLEMS, Resizing, decode
from serving.predict.bodies.media_types import IMAGES

WHITE: Polarity = "white-on-black"
REFUSED: dict[ImageFault, tuple[bytes, type[ProblemError], str]] = {
    ImageFault.EMPTY: (b"", BrokenImageError, "empty"),
    ImageFault.FORMAT: (
        b"%PDF-1.7 ...",
        UnsupportedMediaTypeError,
        "no supported image: it looks like a PDF",
    ),
    ImageFault.SIZE: (encoded(Image.new("L", (64, 32)), "PNG"), WrongSizeError, "64x32.*28x28"),
    ImageFault.PIXELS: (
        encoded(Image.new("L", (800, 800)), "PNG"),
        ImageTooLargeError,
        "800x800 pixels; what is resized has at most 524288",
    ),
    ImageFault.TOO_LARGE: (
        SAMPLES["image/png"] + bytes(MAX_FILE_BYTES),
        ImageTooLargeError,
        "more than the 1048576",
    ),
    ImageFault.ANIMATED: (
        encoded(
            Image.fromarray(a_digit()),
            "GIF",
            save_all=True,
            append_images=[Image.fromarray(255 - a_digit())],
        ),
        UnsupportedImageError,
        "several frames",
    ),
    ImageFault.PIXEL_RANGE: (
        encoded(Image.fromarray(np.zeros((28, 28), np.float32)), "TIFF"),
        UnsupportedImageError,
        "32-bit",
    ),
    ImageFault.UNSUPPORTED: (written(Kind(bits=12)), UnsupportedImageError, "gray of 12 bits"),
    ImageFault.DAMAGED: (
        SAMPLES["image/png"][:-12],
        BrokenImageError,
        "image/png is truncated .*ends too early",
    ),
}


def test_every_fault_that_the_decoder_knows_is_in_the_table() -> None:
    """None of them can become a failure of the service."""
    assert set(PROBLEMS) == set(REFUSED) == set(ImageFault)


@pytest.mark.parametrize("fault", ImageFault)
def test_each_fault_is_answered_with_its_problem_and_a_remedy(fault: ImageFault) -> None:
    """The answer is the decoder's sentence under a 4xx status, with what to do."""
    data, problem, sentence = REFUSED[fault]
    with pytest.raises(problem, match=sentence) as caught:
        decode(data, None, WHITE, Resizing("fit", "fit") if fault is ImageFault.PIXELS else NOT_RESIZED)
    assert isinstance(caught.value.__cause__, ImageError)
    assert caught.value.__cause__.kind is fault
    assert 400 <= caught.value.status < 500
    assert caught.value.detail == caught.value.__cause__.detail
    assert caught.value.remedy


@pytest.mark.parametrize("media_type", EVERY_FORMAT)
def test_a_file_of_no_declared_type_is_recognised_by_its_content(media_type: str) -> None:
    """The bytes alone say what the format is."""
    declared = decode(SAMPLES[media_type], media_type, WHITE)
    assert np.array_equal(decode(SAMPLES[media_type], None, WHITE).pixels, declared.pixels)


def test_what_is_no_image_is_named() -> None:
    """A PDF under an image's type is called a PDF."""
    with pytest.raises(
        UnsupportedMediaTypeError, match="declared as image/png, but looks like a PDF"
    ) as caught:
        decode(b"%PDF-1.7\n...", "image/png", WHITE)
    assert IMAGES in caught.value.remedy


@pytest.mark.parametrize("media_type", [None, "image/png"])
def test_what_is_read_under_another_type_is_told_so(media_type: str | None) -> None:
    """JSON in place of an image is not to be converted into one."""
    with pytest.raises(UnsupportedMediaTypeError, match="looks like JSON") as caught:
        decode(b'{"instances": [[0]]}', media_type, WHITE)
    assert "Content-Type: application/json" in caught.value.remedy


def test_an_empty_file_is_empty_whatever_it_is_declared_as() -> None:
    """A form can carry a file of no bytes; its type is not what is wrong with it."""
    with pytest.raises(BrokenImageError, match="empty"):
        decode(b"", "image/png", WHITE)


def test_a_declared_type_that_the_content_contradicts_is_refused() -> None:
    """A JPEG declared as PNG is refused, and the remedy is the right type."""
    with pytest.raises(
        UnsupportedMediaTypeError, match="declared as image/png, but it is image/jpeg"
    ) as caught:
        decode(SAMPLES["image/jpeg"], "image/png", WHITE)
    assert "Content-Type: image/jpeg" in caught.value.remedy


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


@given(data=st.binary(max_size=200), media_type=st.sampled_from([None, *PARSERS]))
@example(data=b"RIFF\0\0\0\0WEBPVP8 ", media_type=None)
def test_arbitrary_bytes_give_an_array_or_a_refusal(data: bytes, media_type: str | None) -> None:
    """Noise, whatever it is declared as, is the client's fault."""
    try:
        decoded = decode(data, media_type, WHITE)
    except ProblemError as error:
        refusal = error
    else:
        assert decoded.pixels.shape == (28, 28)
        return
    assert 400 <= refusal.status < 500
    assert refusal.detail
    assert refusal.remedy


@settings(deadline=None, max_examples=100)
@given(
    data=st.sampled_from(EVERY_MODE),
    at=st.integers(0, 3000),
    garbage=st.binary(max_size=30),
    cut=st.booleans(),
)
def test_a_file_is_judged_as_in_training(data: bytes, at: int, garbage: bytes, cut: bool) -> None:
    """Whole, overwritten or cut: the service refuses what training does, and else has its 784 bytes."""
    at %= len(data)
    for file in (data, data[:at] + garbage + (b"" if cut else data[at + len(garbage) :])):
        try:
            expected = decoding.decode(file)
        except ImageError as error:
            with pytest.raises(PROBLEMS[error.kind][0]):
                decode(file, None, WHITE)
        else:
            np.testing.assert_array_equal(decode(file, None, WHITE).pixels, expected)


@pytest.mark.parametrize(
    "start", [b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", b"II+\0\x08\0\0\0", b"8BPS\0\1", b"%PDF-1.7"]
)
@pytest.mark.parametrize("declared", [None, "image/png"])
def test_another_format_is_named_with_what_to_convert_it_to(start: bytes, declared: str | None) -> None:
    """Whatever it is declared as."""
    with pytest.raises(UnsupportedMediaTypeError, match=r"looks like an? \w+") as caught:
        decode(start + bytes(100), declared, WHITE)
    assert caught.value.remedy.startswith("Convert the image to PNG")
