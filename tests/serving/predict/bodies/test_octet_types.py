"""Octets that are no pixels of uint8: what is found out, and that no image of uint8 is taken for anything else."""

import gzip
import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bench.support.pictures import SAMPLES, Pixels, a_digit, png
from bundle.images.errors import NumbersError
from bundle.images.numbers import to_pixels
from imagesets.formats.arrays.headers import read_idx_header
from serving.errors import InvalidInstanceError
from serving.predict.bodies import octet_types
from serving.predict.bodies.octet_types import mistaken
from serving.predict.bodies.raw_pixels import read_raw

Array = npt.NDArray[Any]

TOGETHER = (1, 2, 3, 4, 6, 8, 12, 24, 1000)
"""Images in a body: alone, and by each number that fits a wider type."""
FLOATS = ("<f4", ">f4", "<f8", ">f8")
INTEGERS = ("<i2", ">u2", "<i4", ">u4", "<i8", ">i8")


def batches(images: Pixels) -> Iterator[Pixels]:
    """Yield all images in bodies of each number."""
    for count in TOGETHER:
        yield from (images[at : at + count] for at in range(0, len(images), count))


def digits(count: int = 3) -> Pixels:
    """Return digits of different ink, on black."""
    return np.stack([np.roll(a_digit(), step, axis=1) // (1 + step) for step in range(count)])


VARIANTS: dict[str, Callable[[Pixels], Pixels]] = {
    "as they are": lambda images: images,
    "inverted": lambda images: 255 - images,
    "dark": lambda images: images // 4,
    "pale": lambda images: 128 + images // 2,
    "of two values": lambda images: np.where(images > 127, np.uint8(255), np.uint8(0)),
    "of 0 and 1": lambda images: (images > 127).astype(np.uint8),
    "of little contrast": lambda images: 56 + images // 30,
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_image_of_mnist_is_taken_for_anything_else(mnist_directory: Path, variant: str) -> None:
    """All ten thousand of the test set, alone and together."""
    with (mnist_directory / "t10k-images-idx3-ubyte").open("rb") as file:
        shape = read_idx_header(file).shape
        images = VARIANTS[variant](np.frombuffer(file.read(), np.uint8).reshape(shape))
    assert [found for batch in batches(images) if (found := mistaken(batch.tobytes()))] == []


@pytest.mark.parametrize("low", [0, 27, 55, 128, 190])
@pytest.mark.parametrize("high", [68, 195, 256])
def test_no_noise_is_taken_for_anything_else(low: int, high: int) -> None:
    """Of the whole range, and of those in which the exponents of floats are."""
    noise = np.random.default_rng(1).integers(min(low, high - 2), high, (1200, 28, 28), np.uint8)
    assert [found for batch in batches(noise) if (found := mistaken(batch.tobytes()))] == []


@pytest.mark.parametrize("count", TOGETHER)
def test_no_blank_image_is_taken_for_anything_else(count: int) -> None:
    """Of any gray: 63 four times is 0.75 as a float, 255 is opaque."""
    assert [gray for gray in range(256) if mistaken(bytes([gray]) * (784 * count))] == []


@pytest.mark.parametrize("count", [2, 4, 8, 24])
@pytest.mark.parametrize("ink", [1, 60, 63, 64, 67, 128, 255])
def test_no_line_is_taken_for_anything_else(ink: int, count: int) -> None:
    """Upright at any place, of one, two and three pixels, sharp and with a softer edge, on black and on white."""
    for left in range(25):
        for width in (1, 2, 3):
            image = np.zeros((28, 28), np.uint8)
            image[4:24, left : left + width] = 255
            image[4:24, left + width - 1] = ink
            for body in (image, 255 - image):
                assert mistaken(np.stack([body] * count).tobytes()) is None


@pytest.mark.parametrize("count", TOGETHER)
@pytest.mark.parametrize("times", [2, 4, 7, 14])
def test_no_enlarged_image_is_taken_for_anything_else(times: int, count: int) -> None:
    """Pixels that are squares of several: their neighbours are equal, as colours of gray are."""
    small = np.random.default_rng(3).integers(0, 256, (count, 28 // times, 28 // times), np.uint8)
    for images in (small, np.where(small > 127, np.uint8(255), np.uint8(0))):
        assert mistaken(images.repeat(times, axis=1).repeat(times, axis=2).tobytes()) is None


@pytest.mark.parametrize("count", [3, 6, 12])
def test_no_dust_is_taken_for_anything_else(count: int) -> None:
    """A few specks on blank images may all be in columns that a wider type would use."""
    random = np.random.default_rng(5)
    for _ in range(300):
        images = np.zeros((count, 784), np.uint8)
        for _ in range(int(random.integers(1, 40))):
            images[random.integers(count), 4 * random.integers(196) + 3] = random.integers(1, 256)
        assert mistaken(images.tobytes()) is None
        assert mistaken((255 - images).tobytes()) is None


@given(
    arrays.arrays(np.uint8, st.tuples(st.sampled_from([1, 2, 3, 4, 8]), st.just(784))),
    st.integers(0, 255),
)
def test_arbitrary_images_are_taken_as_they_are(images: Pixels, ink: int) -> None:
    """Hypothesis looks for one that is not; in none the magic number of a file is put."""
    images[:, 300:310] = ink
    assert mistaken(images.tobytes()) is None


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 100])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "make",
    [
        lambda images: images / 255,
        lambda images: images.astype(np.float64),
        lambda images: (images / 255 - 0.1307) / 0.3081,
        lambda images: images / 127.5 - 1,
        lambda images: (images > 60).astype(np.float64),
    ],
)
def test_floats_are_found_out(make: Callable[[Pixels], Array], dtype: str, count: int) -> None:
    """Of 0..1, of 0..255, normalised, of -1..1, of zeros and ones; the type is named."""
    array = make(digits(count)).astype(dtype)
    order = "little" if dtype[0] == "<" else "big"
    found = mistaken(array.tobytes())
    assert found is not None
    assert (
        f"{count} image{'s' if count > 1 else ''} of float{8 * int(dtype[2])} ({order}-endian)" in found.found
    )
    assert "application/x-npy" in found.remedy


@pytest.mark.parametrize("dtype", ["<f2", ">f2"])
def test_half_floats_are_found_out(dtype: str) -> None:
    """Those that are not negative."""
    for array in (digits() / 255, digits().astype(np.float64)):
        found = mistaken(array.astype(dtype).tobytes())
        assert found is not None
        assert "3 images of float16" in found.found


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_wider_integers_are_found_out(dtype: str, count: int) -> None:
    """In both byte orders."""
    found = mistaken(digits(count).astype(dtype).tobytes())
    assert found is not None
    assert f"int{8 * int(dtype[2])}" in found.found


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_colours_are_found_out(count: int) -> None:
    """RGBA that is opaque, or black or white ink on a transparent canvas; RGB; gray with alpha."""
    gray = digits(count)
    opaque, none = np.full_like(gray, 255), np.zeros_like(gray)
    for planes, name in (
        ([gray, gray, gray, opaque], "RGBA"),
        ([gray, gray // 2, gray // 3, opaque], "RGBA"),
        ([255 - gray] * 3 + [opaque], "RGBA"),
        ([none, none, none, gray], "RGBA"),
        ([np.where(gray > 0, opaque, none)] * 3 + [gray], "RGBA"),
        ([gray // 2 + 9] * 3 + [gray], "RGBA"),
        ([gray] * 3, "RGB"),
        ([255 - gray] * 3, "RGB"),
        ([gray, opaque], "alpha" if count == 1 else ""),
    ):
        found = mistaken(np.stack(planes, axis=-1).tobytes())
        assert found is not None, name
        assert name in found.found
        assert "image/png" in found.remedy


def test_blank_images_before_the_first_ink_hide_nothing() -> None:
    """A hundred of floats, then a digit."""
    array = np.zeros((101, 28, 28), np.float32)
    array[100] = a_digit() / 255
    found = mistaken(array.tobytes())
    assert found is not None
    assert "101 images of float32" in found.found


def filled(data: bytes, count: int = 1) -> bytes:
    """Return a file, and what readers ignore behind it, of the length of so many images."""
    return data.ljust(784 * count, b"\0")


def an_archive() -> bytes:
    """Return a ZIP archive of the length of two images."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("digit.png", png(a_digit()))
        archive.comment = bytes(2 * 784)
    whole = buffer.getvalue()
    return whole[: len(whole) - len(whole) % 784]


@pytest.mark.parametrize("media_type", SAMPLES)
def test_an_image_file_of_the_length_of_images_is_found_out(media_type: str) -> None:
    """The remedy is its type."""
    data = SAMPLES[media_type]
    found = mistaken(filled(data, -(-len(data) // 784)))
    assert found is not None
    assert media_type == found.found
    assert f"Content-Type: {media_type}" in found.remedy


def test_other_files_of_the_length_of_images_are_found_out() -> None:
    """An array with its header, an archive, a compressed file, a PDF."""
    buffer = io.BytesIO()
    np.save(buffer, digits(1))
    for body, word in (
        (filled(buffer.getvalue(), 2), "npy"),
        (an_archive(), "ZIP"),
        (filled(gzip.compress(digits(9).tobytes()), 9), "gzip"),
        (filled(b"%PDF-1.7\n"), "PDF"),
    ):
        assert len(body) % 784 == 0
        found = mistaken(body)
        assert found is not None, word
        assert word in found.found


@pytest.mark.parametrize(
    "magic", [b"BM", b"\xff\xd8\xff", b"RIFF", b"II*\0", b"MM\0*", b"PK\3\4", b"\x1f\x8b\x08"]
)
def test_noise_that_begins_with_a_short_magic_number_is_noise(magic: bytes) -> None:
    """Two bytes begin one in 65,536 images of noise."""
    random = np.random.default_rng(7)
    for _ in range(50):
        noise = random.integers(0, 256, 784, np.uint8).tobytes()
        assert mistaken(magic + noise[len(magic) :]) is None


@given(
    arrays.arrays(
        st.sampled_from(["<f4", ">f4", "<f8"]), (2, 784), elements=st.floats(0, 1, width=32), fill=st.just(0)
    )
)
def test_a_refusal_of_floats_is_never_told_to_make_zeros_of_them(array: Array) -> None:
    """Neither by octets nor by what reads an array."""
    assume(array.any())
    said = []
    if (found := mistaken(array.tobytes())) is not None:
        said.append(found.remedy)
    try:
        to_pixels(array)
    except NumbersError as error:
        said.append(error.remedy)
    assert all("array.astype" not in remedy for remedy in said)


def test_the_refusal_says_what_the_body_has_and_what_to_do() -> None:
    """With the range of the values, from which the mistake is seen."""
    body = (a_digit() / 255).astype("<f4").tobytes()
    with pytest.raises(InvalidInstanceError) as caught:
        read_raw(body, 10)
    assert caught.value.detail == (
        "the body has the length of 4 images of uint8, but it is 1 image of float32 (little-endian) from 0 to 1"
    )
    assert "application/x-npy, which numpy.save writes" in caught.value.remedy


def test_a_body_is_looked_at_as_far_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ordinary images a sample is enough; the whole body is not converted."""
    monkeypatch.setattr(octet_types, "_numbers", lambda *_: pytest.fail("it was looked at further"))
    for count in TOGETHER:
        assert mistaken(np.resize(digits(9), (count, 28, 28)).tobytes()) is None
