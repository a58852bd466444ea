"""Other sizes: 28x28 by three ways, compared with plain means over repeated pixels; and what a file may cost."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from bench.support.handmade import SIGNATURE, a_tiff, chunk
from bench.support.pictures import EVERY_FORMAT, EVERY_MODE, LOSSLESS, SAMPLES, Pixels, a_digit, encoded, png
from bench.support.worst import MEBIBYTE, WORST, a_bmp, many_scans
from bundle.images import decoding, hardening
from bundle.images.contract import BLACK_ON_WHITE, RESIZES, WHITE_ON_BLACK, Resize
from bundle.images.decoding import check_header, decode, decode_all
from bundle.images.errors import ImageError, ImageFault
from bundle.images.resizing import otsu, resize

SHAPES = [(1, 1), (1, 90), (90, 1), (8, 8), (28, 56), (31, 45), (100, 37), (280, 280), (27, 28)]


def means(pixels: Pixels, height: int, width: int) -> npt.NDArray[np.float64]:
    """Return the mean of the area under each new pixel: every old one repeated until the new ones are whole."""
    rows, columns = pixels.shape
    fine = np.repeat(np.repeat(pixels.astype(np.int64), height, axis=0), width, axis=1)
    sums = fine.reshape(height, rows, width, columns).sum(axis=(1, 3))
    result: npt.NDArray[np.float64] = sums / (rows * columns)
    return result


def random_picture(shape: tuple[int, int], seed: int = 1) -> Pixels:
    """Return noise."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def a_drawing(size: tuple[int, int] = (300, 200)) -> Pixels:
    """Return a seven in light ink on dark paper, off its middle, of (width, height)."""
    image = Image.new("L", size)
    ImageDraw.Draw(image).line([(30, 20), (110, 25), (60, 150)], fill=255, width=14)
    return np.asarray(image)


def centre_of_mass(ink: Pixels) -> tuple[float, float]:
    """Return (row, column)."""
    rows, columns = np.indices(ink.shape)
    return float(np.average(rows, weights=ink)), float(np.average(columns, weights=ink))


@pytest.mark.parametrize("shape", SHAPES)
def test_fit_is_the_mean_of_the_area_under_each_pixel(shape: tuple[int, int]) -> None:
    """To the last bit: sums of whole numbers, rounded once, a half to even."""
    pixels = random_picture(shape)
    assert np.array_equal(resize(pixels, "fit"), np.rint(means(pixels, 28, 28)))


@given(st.integers(1, 120), st.integers(1, 120), st.integers(0, 1000))
def test_pad_keeps_the_aspect_ratio_in_the_middle_of_the_borders_gray(
    height: int, width: int, seed: int
) -> None:
    """The longer side is 28, the shorter one rounded; what is left is the median of the border."""
    pixels = random_picture((height, width), seed)
    padded = resize(pixels, "pad")
    rows, columns = (max(1, int(28 * side / max(height, width) + 0.5)) for side in (height, width))
    top, left = (28 - rows) // 2, (28 - columns) // 2
    inside = padded[top : top + rows, left : left + columns]
    assert np.array_equal(
        inside, pixels if (height, width) == (28, 28) else np.rint(means(pixels, rows, columns))
    )
    edge = np.ones(pixels.shape, bool)
    edge[1:-1, 1:-1] = False
    outside = np.ones((28, 28), bool)
    outside[top : top + rows, left : left + columns] = False
    assert set(padded[outside].tolist()) <= {int(np.sort(pixels[edge])[edge.sum() // 2])}


@pytest.mark.parametrize("how", ["fit", "pad"])
def test_an_image_of_28x28_stays_as_it_is(how: Resize) -> None:
    """Neither light and dark nor a single pixel changes."""
    assert np.array_equal(resize(a_digit(), how), a_digit())
    assert np.array_equal(resize(255 - a_digit(), how, WHITE_ON_BLACK), 255 - a_digit())


def test_mnist_fits_the_ink_into_20x20_with_its_centre_of_mass_on_pixel_14() -> None:
    """What LeCun, Cortes and Burges say of MNIST's images."""
    ink = resize(a_drawing(), "mnist")
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
    assert np.abs(np.array(centre_of_mass(ink)) - 14).max() <= 0.52  # the pixels are rounded
    drawing = a_drawing() > 127
    rows, columns = np.flatnonzero(drawing.any(axis=1)), np.flatnonzero(drawing.any(axis=0))
    part = 255 * drawing[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.uint8)
    width = int(20 * part.shape[1] / part.shape[0] + 0.5)
    fitted = np.rint(means(part, 20, width))
    left = int(np.flatnonzero(ink.any(axis=0))[0])
    assert np.array_equal(ink[ink.any(axis=1)][:, left : left + width], fitted)


def test_mnist_finds_the_paper_at_the_border_whichever_polarity_it_has() -> None:
    """Dark on light, light on dark, chalk on a gray board, pencil on gray paper: the same ink."""
    expected = resize(a_drawing(), "mnist", WHITE_ON_BLACK)
    drawing = a_drawing() > 127
    for paper, ink in ((0, 255), (255, 0), (140, 235), (20, 90), (110, 30), (230, 150)):
        picture = np.where(drawing, ink, paper).astype(np.uint8)
        assert np.array_equal(resize(picture, "mnist", WHITE_ON_BLACK), expected), (paper, ink)
        assert np.array_equal(resize(picture, "mnist", BLACK_ON_WHITE), 255 - expected), (paper, ink)
        own = 255 - expected if paper > 127 else expected
        assert np.array_equal(resize(picture, "mnist"), own), (paper, ink)


def test_images_of_mnist_come_back_from_mnist_unchanged(mnist_directory: Path) -> None:
    """They are fitted and centred already; of 28x28 the gray levels are kept, in either polarity."""
    raw = (mnist_directory / "t10k-images-idx3-ubyte").read_bytes()
    for image in np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)[:1000]:
        assert np.array_equal(resize(image, "mnist"), image)
        assert np.array_equal(resize(255 - image, "mnist", WHITE_ON_BLACK), image)


@pytest.mark.parametrize("how", RESIZES)
def test_a_second_time_changes_nothing(how: Resize) -> None:
    """What is 28x28, fitted and centred is so; this needs ink that is no fainter than rounding at its edge."""
    for pixels in (a_drawing(), 255 - a_drawing(), np.kron(a_digit(), np.ones((6, 6), np.uint8))):
        once = resize(pixels, how)
        assert np.array_equal(resize(once, how), once)


@pytest.mark.parametrize("shape", [(28, 28), (64, 64), (5, 90)])
@pytest.mark.parametrize("level", [0, 1, 100, 128, 200, 255])
def test_without_ink_there_is_paper(level: int, shape: tuple[int, int]) -> None:
    """A picture of one gray has none, and all three ways answer it."""
    blank = np.full(shape, level, np.uint8)
    assert set(resize(blank, "fit").flat) == set(resize(blank, "pad").flat) == {level}
    assert set(resize(blank, "mnist", WHITE_ON_BLACK).flat) == {0}
    assert set(resize(blank, "mnist").flat) == {255 if level > 127 else 0}


def test_the_threshold_is_otsus() -> None:
    """Tried out level by level: the least variance within the two groups."""
    pixels = np.clip(np.random.default_rng(3).normal([60.0, 190.0], 20, (900, 2)), 0, 255).astype(np.uint8)

    def within(level: int) -> Any:
        return sum(group.size * group.var() for group in (pixels[pixels <= level], pixels[pixels > level]))

    assert within(otsu(pixels)) == pytest.approx(min(map(within, range(pixels.min(), pixels.max()))))


@pytest.mark.parametrize("media_type", LOSSLESS)
@pytest.mark.parametrize("how", RESIZES)
def test_a_file_of_another_size_is_decoded_and_resized(media_type: str, how: Resize) -> None:
    """Every format, wider and higher than 28; without a way it is rejected as before."""
    pixels = a_drawing()
    data = EVERY_FORMAT[media_type](Image.fromarray(pixels))
    assert np.array_equal(decode(data, how, BLACK_ON_WHITE), resize(pixels, how, BLACK_ON_WHITE))
    check_header(data, how)
    for rejecting in (decode, check_header):
        with pytest.raises(ImageError, match=r"300x200 pixels, the model takes 28x28") as caught:
            rejecting(data)
        assert caught.value.kind is ImageFault.SIZE


def test_colours_become_gray_before_they_are_resized() -> None:
    """BT.601's luma, as at 28x28; transparency is black, and an orientation is applied."""
    colours = np.random.default_rng(8).integers(0, 256, (50, 40, 4), np.uint8)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    gray = np.asarray(Image.fromarray(colours[..., :3]).convert("L"))
    data = encoded(Image.fromarray(colours[..., :3]), "PNG", exif=rotated)
    assert np.array_equal(decode(data, "fit"), resize(np.rot90(gray, -1), "fit"))
    over = Image.alpha_composite(Image.new("RGBA", (40, 50), (0, 0, 0, 255)), Image.fromarray(colours))
    expected = resize(np.asarray(over.convert("L")), "pad")
    assert np.array_equal(decode(encoded(Image.fromarray(colours), "PNG"), "pad"), expected)


@pytest.mark.parametrize("how", RESIZES)
def test_files_of_28x28_mean_the_same_with_and_without_resizing(how: Resize) -> None:
    """Whatever their format and mode; one by one and all at once."""
    files = [*EVERY_MODE, *SAMPLES.values(), png(a_drawing()), b"", b"no image"]
    pixels, errors = decode_all(files, how, WHITE_ON_BLACK)
    assert sorted(errors) == [len(files) - 2, len(files) - 1]
    for data, image in zip(files[:-3], pixels, strict=False):
        assert np.array_equal(image, resize(decode(data), how, WHITE_ON_BLACK))
    assert np.array_equal(pixels[-3], resize(a_drawing(), how, WHITE_ON_BLACK))


def a_png_of(width: int, height: int) -> bytes:
    """Return a PNG that declares a size and has hardly a pixel."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND")


@pytest.mark.parametrize("size", [(4097, 1), (1, 4097), (2049, 2048), (50_000, 50_000)])
def test_too_many_pixels_are_rejected_by_the_header(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before one of them is decoded, and by the numbers of what is allowed."""
    monkeypatch.setattr(decoding, "_pixels", lambda *_: pytest.fail("it was decoded"))
    webp = (b"WEBPVP8X\x0a\0\0\0\0\0\0\0", *((side - 1).to_bytes(3, "little") for side in size))
    body = b"".join(webp)
    for data in (a_png_of(*size), b"RIFF" + struct.pack("<I", len(body)) + body):
        with pytest.raises(ImageError, match=f"{size[0]}x{size[1]} pixels; .* 4194304, and 4096") as caught:
            decode(data, "fit")
        assert caught.value.kind is ImageFault.PIXELS


def test_a_stranger_may_send_fewer_pixels_than_training_reads() -> None:
    """800x600 is served, a frame of Full HD is only trained on."""
    for size, is_served in (((800, 600), True), ((1920, 1080), False)):
        data = encoded(Image.new("L", size, 9), "PNG")
        assert set(decode(data, "fit").flat) == {9}
        if is_served:
            assert set(decode(data, "fit", limits=hardening.SERVED).flat) == {9}
        else:
            with pytest.raises(ImageError, match=r"1920x1080 pixels; .* 524288"):
                decode(data, "fit", limits=hardening.SERVED)


@pytest.mark.parametrize("name", WORST)
def test_hostile_files_stay_harmless(name: str) -> None:
    """Those that are built against the decoder are read, or rejected in a sentence, with larger limits, too."""
    pixels, errors = decode_all([WORST[name]()], "mnist")
    assert pixels.shape == (1, 28, 28)
    assert {error.kind for error in errors.values()} <= {ImageFault.DAMAGED}


def tiles(width: int, height: int, side: int) -> bytes:
    """Return a TIFF of tiles that all are the same few bytes, which unpack to a tile."""
    data = zlib.compress(bytes(side * side), 9)
    count = -(-width // side) * -(-height // side)
    places, sizes = struct.pack(f"<{count}I", *[8] * count), struct.pack(f"<{count}I", *[len(data)] * count)
    at = 8 + len(data)
    fields = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 8), 262: (3, 1, 1)}
    fields |= {277: (3, 1, 1), 322: (4, 1, side), 323: (4, 1, side)}
    fields |= {324: (4, count, at), 325: (4, count, at + len(places))}
    if count == 1:
        fields |= {324: (4, 1, 8), 325: (4, 1, len(data))}
    return a_tiff(fields, data + places + sizes)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (tiles(4096, 1024, 256), None),
        (tiles(4096, 16, 512), None),
        (tiles(4096, 16, 4096), None),
        (tiles(4096, 2, 4112), "tiles are larger"),
        (tiles(16, 4096, 2048), None),
        (tiles(17, 4096, 2912), "tiles are larger"),
        (many_scans(30), "more than 20 scans"),
        (a_bmp((b"\1\1" * 28 + b"\0\0") * 28 + bytes(MEBIBYTE // 2), compression=1), None),
    ],
    ids=["ordinary", "edges", "one tile", "too wide a tile", "column", "too high a tile", "scans", "runs"],
)
def test_what_a_file_unpacks_to_is_bounded(data: bytes, said: str | None) -> None:
    """The tiles at an image's edge are unpacked whole, and each scan of a JPEG is a pass over the image."""
    if said is None:
        assert decode(data, "fit").shape == (28, 28)
    else:
        with pytest.raises(ImageError, match=said):
            decode(data, "fit")
