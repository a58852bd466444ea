"""The page's mathematics, run in the browser and compared with NumPy, Pillow, and MNIST itself."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page

from bench.support.processes import Service
from bundle.images.contract import BLACK_ON_WHITE, RESIZES, WHITE_ON_BLACK, Polarity
from bundle.images.resizing import resize
from tests.browser.bundles import Images
from tests.browser.mnist import Pixels, centre_of_mass, crop, drawn, prepare
from tests.browser.strokes import STROKES

# Arrays travel as base64: as lists of numbers they would take Playwright seconds.
BASE64 = """
  const bytes = (text) => Uint8ClampedArray.from(atob(text), (letter) => letter.charCodeAt(0));
  const text = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
"""
NORMALISE = """async (pictures) => {%s
  const { normalise } = await import("/assets/normalise.js");
  return pictures.map(([ink, width, height]) => text(normalise(bytes(ink), width, height)));
}"""
INK = """async ([strokes, width]) => {%s
  const { inkOf, PAD } = await import("/assets/ink.js");
  const points = (stroke) => stroke.map(([x, y]) => ({ x: x * PAD, y: y * PAD }));
  return text(inkOf(strokes.map((stroke) => ({ width, points: points(stroke) }))));
}"""
PNG = """async ([pixels, width, height]) => {%s
  const { encodePng } = await import("/assets/png.js");
  return text(encodePng(bytes(pixels), width, height));
}"""
RESIZE = """async (pictures) => {%s
  const { normalise, inPolarity } = await import("/assets/normalise.js");
  const { bilevel, scaled, stretched } = await import("/assets/picture.js");
  return pictures.map(([encoded, width, height, polarity]) => {
    const pixels = bytes(encoded);
    const normal = normalise(bilevel(pixels, width, height), width, height) ?? new Uint8ClampedArray(784);
    const [fit, pad] = [stretched(pixels, width, height), scaled(pixels, width, height)];
    return { fit: text(fit), pad: text(pad), mnist: text(inPolarity(normal, polarity)) };
  });
}"""
OTSU = """async (pixels) => {%s
  return (await import("/assets/picture.js")).otsu(bytes(pixels));
}"""


@pytest.fixture
def anywhere(page: Page, service: Service) -> Page:
    """Return a page of the service's own origin, from which its modules can be imported."""
    page.goto(f"http://127.0.0.1:{service.port}/livez")
    return page


def run(page: Page, script: str, argument: Any) -> Any:
    """Run a script in the page."""
    return page.evaluate(script % BASE64, argument)


def base64_of(array: Pixels) -> str:
    """Return an array's bytes as base64."""
    return base64.b64encode(array.tobytes()).decode()


def normalised(page: Page, pictures: list[Pixels]) -> list[Pixels]:
    """Run the page's preparation."""
    sent = [[base64_of(picture), picture.shape[1], picture.shape[0]] for picture in pictures]
    answered = [base64.b64decode(pixels) for pixels in run(page, NORMALISE, sent)]
    return [np.frombuffer(pixels, np.uint8).reshape(28, 28) for pixels in answered]


def test_digits_of_mnist_taken_out_of_their_frame_are_put_back_exactly(
    anywhere: Page, digits: Images
) -> None:
    """Centring is MNIST's own: a digit cropped to its ink comes back to where MNIST has it, pixel for pixel."""
    some = list(digits[:400])
    back = normalised(anywhere, [crop(image) for image in some])
    assert all(np.array_equal(image, again) for image, again in zip(some, back, strict=True))


def test_preparation_agrees_with_one_written_in_numpy(anywhere: Page) -> None:
    """Pictures of any size and shape: the same pixels as by another method, to a rounding."""
    random = np.random.default_rng(1)
    pictures = []
    for _ in range(60):
        height, width = random.integers(1, 200, 2)
        picture = np.zeros((height + 20, width + 20), np.uint8)
        picture[7 : 7 + height, 11 : 11 + width] = 255 * (
            random.random((height, width)) < random.uniform(0.05, 1)
        )
        picture[7, 11] = 255
        pictures.append(picture)
    for picture, ours in zip(pictures, normalised(anywhere, pictures), strict=True):
        assert np.abs(ours.astype(int) - prepare(picture)).max() <= 1


def pictures_of_every_kind() -> list[Pixels]:
    """Return noise, blots, symmetric bars, gray paper, blank sheets and drawings, of many sizes."""
    random = np.random.default_rng(4)
    made: list[Pixels] = []
    for _ in range(120):
        height, width = random.integers(1, 300, 2)
        paper, ink = random.integers(0, 256, 2)
        blots = random.random((height, width)) < random.uniform(0, 0.3)
        blots[: height // 3] = blots[:, : width // 3] = False
        made.append(np.where(blots, ink, paper).astype(np.uint8))
        made.append(random.integers(0, 256, (height, width), np.uint8))
        noise = random.integers(-5, 6, (height, width))
        made.append(np.clip(made[-2].astype(int) + noise, 0, 255).astype(np.uint8))
    for side in range(29, 90):  # halves everywhere: in sizes, in centres of mass and in means
        bar = np.full((side, 2 * side), 255, np.uint8)
        bar[5 : side - 4, side - 3 : side + 3] = 0
        made.append(bar)
    made += [np.full((40, 30), level, np.uint8) for level in (0, 1, 90, 128, 255)]
    made += [drawn(strokes, pen) for strokes in STROKES.values() for pen in (10, 36)]
    return [picture for picture in made if picture.shape != (28, 28)]


def test_files_are_resized_as_in_python_to_the_last_pixel(anywhere: Page) -> None:
    """What the page sends of a file of another size is what the service makes of it by `?resize=`."""
    pictures = pictures_of_every_kind()
    polarities: list[Polarity] = [WHITE_ON_BLACK, BLACK_ON_WHITE]
    asked = [
        [base64_of(picture), picture.shape[1], picture.shape[0], polarities[place % 2]]
        for place, picture in enumerate(pictures)
    ]
    for place, (picture, ours) in enumerate(zip(pictures, run(anywhere, RESIZE, asked), strict=True)):
        for how in RESIZES:
            theirs = np.frombuffer(base64.b64decode(ours[how]), np.uint8).reshape(28, 28)
            assert np.array_equal(theirs, resize(picture, how, polarities[place % 2])), (how, place)


def test_drawings_are_normalised_as_in_python_to_the_last_pixel(anywhere: Page) -> None:
    """The pad's ink has gray levels at its edges, which a file's two-level ink lacks; MNIST's images have, too."""
    drawings = [drawn(strokes, pen) for strokes in STROKES.values() for pen in (10, 20, 36)]
    small = [np.asarray(Image.fromarray(drawing).resize((28, 28))) for drawing in drawings]
    for pixels, ours in zip(small, normalised(anywhere, small), strict=True):
        assert np.array_equal(ours, resize(pixels, "mnist", WHITE_ON_BLACK))


def test_drawings_lie_in_a_box_of_20_with_their_centre_of_mass_on_pixel_14(anywhere: Page) -> None:
    """What LeCun, Cortes and Burges say of MNIST's images is true of the page's."""
    drawings = [drawn(strokes, pen) for strokes in STROKES.values() for pen in (10, 20, 36)]
    for pixels in normalised(anywhere, drawings):
        assert max(crop(pixels).shape) == 20
        assert np.abs(np.array(centre_of_mass(pixels)) - 14).max() <= 0.5 + 0.02  # the pixels are rounded


def test_a_lopsided_drawing_loses_nothing(anywhere: Page) -> None:
    """A blot at the end of a long line pulls the centre so far that the line would leave the image."""
    picture = np.zeros((200, 400), np.uint8)
    picture[98:102, :] = 255
    picture[:, :60] = 255
    (pixels,) = normalised(anywhere, [picture])
    assert crop(pixels).shape == (10, 20)
    assert np.abs(pixels.astype(int) - prepare(picture)).max() <= 1


@pytest.mark.parametrize("pen", [10, 20, 36])
def test_ink_is_where_pillow_draws_it(anywhere: Page, pen: int) -> None:
    """Strokes cover the pixels that Pillow covers, drawing eight times finer; edges may differ by a shade."""
    for strokes in STROKES.values():
        ink = np.frombuffer(base64.b64decode(run(anywhere, INK, [strokes, pen])), np.uint8).reshape(280, 280)
        expected = drawn(strokes, pen).astype(float)
        assert np.abs(ink - expected).mean() < 1
        assert np.abs(ink - expected).max() < 100
        assert ink.sum() == pytest.approx(expected.sum(), rel=0.02)


@pytest.mark.parametrize("shape", [(28, 28), (1, 1), (3, 200)])
def test_png_files_hold_the_pixels(anywhere: Page, shape: tuple[int, int]) -> None:
    """Pillow, which checks every checksum, reads back what was written."""
    pixels = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
    encoded = run(anywhere, PNG, [base64_of(pixels), shape[1], shape[0]])
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        image.load()
        assert (image.format, image.mode) == ("PNG", "L")
        assert np.array_equal(np.asarray(image), pixels)


def test_the_threshold_parts_a_photograph_best(anywhere: Page) -> None:
    """Otsu's definition, tried out level by level: the least variance within the two groups."""
    random = np.random.default_rng(3)
    pixels = np.clip(np.concatenate([random.normal(60, 20, 700), random.normal(190, 15, 2300)]), 0, 255)
    pixels = pixels.astype(np.uint8)

    def within(level: int) -> Any:
        return sum(group.size * group.var() for group in (pixels[pixels <= level], pixels[pixels > level]))

    levels = range(int(pixels.min()), int(pixels.max()))
    assert within(run(anywhere, OTSU, base64_of(pixels))) == pytest.approx(min(map(within, levels)))
