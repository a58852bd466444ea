"""The fast path for plain PNG files returns what Pillow returns, or leaves the file to Pillow."""

import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from bench.support.handmade import PLAIN_HEADER, RAW, SIGNATURE, UNSOUND, chunk, filtered, plain
from bench.support.pictures import Pixels, a_digit, png
from bundle.images import plain_png
from bundle.images.decoding import decode
from bundle.images.errors import ImageError
from bundle.images.hardening import MAX_FILE_BYTES


def by_pillow(data: bytes) -> Pixels | None:
    """Return what Pillow makes of a file, by `Image.open`; None if it rejects it."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image.convert("L"))
    except Exception:  # noqa: BLE001  its errors share no base
        return None


@pytest.mark.parametrize("kind", range(5))
@given(pixels=arrays(np.uint8, (28, 28)))
def test_every_filter_is_undone(kind: int, pixels: Pixels) -> None:
    """A file whose lines were filtered by the specification's formulas gives the pixels back."""
    decoded = plain_png.decode(plain(zlib.compress(filtered(pixels, kind))))
    assert decoded is not None
    assert (decoded == pixels).all()


@settings(max_examples=20)
@given(st.data())
def test_many_are_undone_at_once(data: st.DataObject) -> None:
    """Whatever their filters are, no image sees a line of the one before it."""
    count = data.draw(st.integers(1, 130))
    pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)
    kinds = data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    several = [filtered(image, kind) for image, kind in zip(pixels, kinds, strict=True)]
    assert np.array_equal(plain_png.unfiltered(several), pixels)


def test_what_pillow_writes_goes_the_short_way() -> None:
    """The files that most clients send are plain."""
    decoded = plain_png.decode(png(a_digit()))
    assert decoded is not None
    assert (decoded == a_digit()).all()


def test_no_flipped_bit_is_accepted() -> None:
    """Whatever bit is flipped, the short way does not answer; both together reject, or see the same image."""
    data = png(a_digit())
    for place in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            assert plain_png.decode(bytes(damaged)) is None, (place, bit)


def test_no_shortened_file_is_accepted() -> None:
    """A file that ends early is not decoded the short way."""
    data = png(a_digit())
    assert all(plain_png.decode(data[:length]) is None for length in range(len(data)))


@pytest.mark.parametrize("stream", UNSOUND.values(), ids=UNSOUND)
def test_streams_that_are_not_exact_are_left_to_pillow(stream: bytes) -> None:
    """Only a stream that ends where it should, with what it should, is decoded the short way."""
    assert plain_png.decode(plain(stream)) is None


def test_other_headers_and_chunks_are_left_to_pillow() -> None:
    """Colour, other depths, interlacing, and whatever may change the meaning of a pixel go the long way."""
    stream = chunk(b"IDAT", zlib.compress(RAW))
    end = chunk(b"IEND")
    for place, value in ((8, 4), (9, 3), (12, 1), (3, 29)):
        header = bytearray(PLAIN_HEADER)
        header[place] = value
        assert plain_png.decode(SIGNATURE + chunk(b"IHDR", bytes(header)) + stream + end) is None
    start = SIGNATURE + chunk(b"IHDR", PLAIN_HEADER)
    transparent = chunk(b"tRNS", b"\0\xff")
    assert plain_png.decode(start + transparent + stream + end) is None
    assert plain_png.decode(start + stream + transparent + end) is None
    assert plain_png.decode(start + stream + stream + end) is None


def test_what_follows_the_end_is_not_looked_at_within_the_limit() -> None:
    """As on the long way: bytes behind the image are ignored, and a file that is too long is rejected."""
    data = png(a_digit())
    assert plain_png.decode(data + b"more") is not None
    too_long = data + b"\0" * (MAX_FILE_BYTES + 1 - len(data))
    assert plain_png.decode(too_long) is None
    with pytest.raises(ImageError):
        decode(too_long)


@given(damage=st.binary(min_size=1, max_size=8), place=st.integers(0, 400))
def test_the_short_way_says_what_pillow_says(damage: bytes, place: int) -> None:
    """Bytes of a file are overwritten: where the short way still answers, Pillow answers the same."""
    data = bytearray(png(a_digit()))
    data[place : place + len(damage)] = damage
    decoded = plain_png.decode(bytes(data))
    if decoded is not None:
        expected = by_pillow(bytes(data))
        assert expected is not None
        assert (decoded == expected).all()
