"""Images without content: which are warned of, which never are, and what a file's own reason is."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.support.pictures import EVERY_FORMAT, Pixels, encoded, png
from bundle.images.contract import Polarity
from serving.predict.bodies.image_files import decode
from serving.predict.bodies.image_warnings import (
    LEAST_CONTRAST,
    PROTOCOL_MOST,
    SCALED_WARNING,
    summary,
    warned,
    warnings_of,
    warnings_of_one,
)

WHITE: Polarity = "white-on-black"
BLACK: Polarity = "black-on-white"
POLARITIES: tuple[Polarity, ...] = (WHITE, BLACK)
TRANSPARENT, DRAWN = "every pixel is transparent", "the drawing is in the transparency alone"


def a_stroke(paper: int, ink: int) -> Pixels:
    """Return a digit 1 of 20 pixels."""
    pixels = np.full((28, 28), paper, np.uint8)
    pixels[4:24, 14] = ink
    return pixels


def on_transparent(ink: tuple[int, int, int] = (0, 0, 0)) -> Image.Image:
    """Return a drawing on the canvas that a browser gives: ink is opaque, the rest is transparent black."""
    pixels = np.zeros((28, 28, 4), np.uint8)
    pixels[4:24, 13:15] = (*ink, 255)
    pixels[4:24, 12] = (*ink, 128)
    return Image.fromarray(pixels)


def gray_with_a_transparent_value() -> bytes:
    """Return black ink on white paper, where white is declared as transparent."""
    return png(a_stroke(255, 0), transparency=255)


def deep_with_a_transparent_value() -> bytes:
    """Return the same in 16 bits."""
    return encoded(Image.fromarray(a_stroke(255, 0).astype(np.uint16) * 257), "PNG", transparency=65535)


def a_palette() -> bytes:
    """Return black ink in a palette whose other entry is transparent."""
    image = Image.fromarray(a_stroke(0, 1))
    image.putpalette([255, 255, 255, 0, 0, 0])
    return encoded(image, "PNG", transparency=0)


DRAWINGS: dict[str, Callable[[], bytes]] = {
    "png": lambda: encoded(on_transparent(), "PNG"),
    "webp": lambda: encoded(on_transparent(), "WEBP", lossless=True),
    "tiff": lambda: encoded(on_transparent(), "TIFF"),
    "gray and alpha": lambda: encoded(on_transparent().convert("LA"), "PNG"),
    "dark blue": lambda: encoded(on_transparent((0, 0, 90)), "PNG"),
    "gray": gray_with_a_transparent_value,
    "16 bits": deep_with_a_transparent_value,
    "palette": a_palette,
    "gif": lambda: encoded(Image.open(io.BytesIO(a_palette())), "GIF", transparency=0),
}


def test_every_image_of_mnist_is_free_of_warnings(mnist_directory: Path) -> None:
    """Neither as it is nor inverted for a model that expects that; alone or among many."""
    for name in ("train", "t10k"):
        content = np.fromfile(mnist_directory / f"{name}-images-idx3-ubyte", np.uint8)
        images = content[16:].reshape(-1, 28, 28)
        assert not any(warnings_of_one(pixels, WHITE) for pixels in images)
        assert warned(images, WHITE) == {}
        assert warned(255 - images, BLACK) == {}


@pytest.mark.parametrize("contrast", [40, LEAST_CONTRAST, 255])
@pytest.mark.parametrize("polarity", POLARITIES)
def test_a_thin_and_faint_stroke_is_content(polarity: Polarity, contrast: int) -> None:
    """A digit 1 of 20 pixels, by a pencil that is hardly darker than the paper."""
    pixels = a_stroke(0, contrast) if polarity == WHITE else a_stroke(255, 255 - contrast)
    assert warnings_of_one(pixels, polarity) == ()
    assert warned(np.stack([pixels] * 100), polarity) == {}


@pytest.mark.parametrize("polarity", POLARITIES)
@pytest.mark.parametrize("paper", [2, 100, 127, 128, 253])
@pytest.mark.parametrize("noise", [0, 2])
def test_paper_alone_is_blank_whatever_its_gray_and_with_noise(
    polarity: Polarity, paper: int, noise: int
) -> None:
    """A scanner's noise is no content; and blank paper of the wrong side is not called inverted."""
    random = np.random.default_rng(7)
    images = (paper + random.integers(-noise, noise + 1, (100, 28, 28))).astype(np.uint8)
    for said in (warnings_of(images, polarity), [warnings_of_one(one, polarity) for one in images]):
        assert all(len(sentences) == 1 for sentences in said)
        assert all(sentences[0].startswith("looks blank") for sentences in said)
    assert f"({polarity})" in warnings_of(images, polarity)[0][0]


@pytest.mark.parametrize("media_type", EVERY_FORMAT)
@pytest.mark.parametrize("paper", [0, 255])
def test_a_blank_file_of_every_type_is_warned_of(media_type: str, paper: int) -> None:
    """JPEG, too, whose blocks may differ by rounding."""
    data = EVERY_FORMAT[media_type](Image.new("L", (28, 28), paper))
    (said,) = decode(data, media_type, WHITE).warnings
    assert said.startswith("looks blank: its darkest and lightest pixel differ by")


@pytest.mark.parametrize("kind", DRAWINGS)
@pytest.mark.parametrize("polarity", POLARITIES)
def test_a_dark_drawing_on_a_transparent_canvas_is_told_so_with_the_remedy(
    kind: str, polarity: Polarity
) -> None:
    """Transparency is composited on black, so that the drawing is lost; each way to be transparent is looked at."""
    (said,) = decode(DRAWINGS[kind](), None, polarity).warnings
    assert DRAWN in said
    remedy = "fill the canvas with black and draw with light ink"
    assert (remedy if polarity == WHITE else "fill the canvas with white and draw with dark ink") in said


def test_a_light_drawing_on_a_transparent_canvas_is_no_blank_image() -> None:
    """Its canvas becomes black, which is what the model expects."""
    assert decode(encoded(on_transparent((255, 255, 255)), "PNG"), None, WHITE).warnings == ()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_a_file_that_is_transparent_everywhere_is_told_so(kind: str) -> None:
    """Whatever colours are below."""
    pixels = np.random.default_rng(5).integers(0, 256, (28, 28, 4), np.uint8)
    pixels[..., 3] = 0
    (said,) = decode(encoded(Image.fromarray(pixels), kind, lossless=True), None, WHITE).warnings
    assert TRANSPARENT in said


@pytest.mark.parametrize("most", [255, 4095])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_with_values_of_eight_or_twelve_are_told_so(kind: str, most: int) -> None:
    """Scaled by 257, 4095 becomes 16."""
    deep = (a_stroke(0, 255).astype(np.uint32) * most // 255).astype(np.uint16)
    (said,) = decode(encoded(Image.fromarray(deep), kind), None, WHITE).warnings
    assert "0 to 65535" in said
    assert decode(encoded(Image.fromarray(deep * (65535 // most)), kind), None, WHITE).warnings == ()


def test_a_file_with_the_numbers_0_and_1_is_told_what_numbers_are_told() -> None:
    """Of a mask that was saved as it is: how the numbers come makes no difference to what is said."""
    assert decode(png(a_stroke(0, 1)), None, WHITE).warnings == (SCALED_WARNING,)
    assert warnings_of_one(a_stroke(0, 1), WHITE) == (SCALED_WARNING,)
    assert "looks blank" in warnings_of_one(np.zeros((28, 28), np.uint8), WHITE)[0]


def test_the_protocols_one_string_names_some_images_and_counts_the_others() -> None:
    """A request of a thousand blank images has no response of a thousand sentences."""
    found = warned(np.zeros((PROTOCOL_MOST + 3, 28, 28), np.uint8), WHITE)
    said = summary(found)
    assert said.startswith("image 0: looks blank")
    assert f"image {PROTOCOL_MOST - 1}: " in said
    assert f"image {PROTOCOL_MOST}: " not in said
    assert said.endswith("and 3 more images")
