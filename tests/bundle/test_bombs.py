"""Small files that are made to be a burden are refused before a parser sees them, and honest ones are not."""

import struct
import subprocess
import sys
import zlib
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bundle import bombs
from bundle.errors import ImageError, ImageFault
from bundle.images import PARSERS, decode
from tests.bundle.handmade import GRAY, SIGNATURE, a_png, a_tiff, chunk
from tests.conftest import ROOT
from tests.pictures import SAMPLES, Pixels, a_digit, encoded, png

MEBIBYTE = 1 << 20


def with_chunks(chunks: bytes, *, behind: bool = False) -> bytes:
    """Return the digit as a PNG with more chunks, before its pixels or behind them."""
    data = a_png(a_digit(), GRAY, extra=b"" if behind else chunks)
    return data[:-12] + chunks + data[-12:] if behind else data


def with_segments(segments: bytes) -> bytes:
    """Return the digit as a JPEG with something put behind its first marker."""
    data: bytes = SAMPLES["image/jpeg"]
    return data[:2] + segments + data[2:]


def tiles(side: int, *, kind: int = 4, order: Any = "<") -> bytes:
    """Return a TIFF of 28x28 pixels whose tiles claim a size, deflated."""
    data = zlib.compress(bytes(100))
    tags = {256: 28, 257: 28, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 8, 325: len(data)}
    return a_tiff({tag: (kind, 1, value) for tag, value in tags.items()}, data, order=order)


def many_values(tag: int, kind: int, count: int) -> bytes:
    """Return a TIFF in which one tag has many values, which it really has."""
    values = b"\1" * (8 * count)
    fields = {256: (4, 1, 28), 257: (4, 1, 28), tag: (kind, count, 8)}
    return a_tiff(fields, values)


PROFILE = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(900_000), 9))
BURDENS = {
    "chunks": with_chunks(chunk(b"abCd") * 1000),
    "chunks behind the pixels": with_chunks(chunk(b"abCd") * 1000, behind=True),
    "empty pixels": with_chunks(chunk(b"IDAT") * 1000, behind=True),
    "texts": with_chunks(chunk(b"tEXt", b"a\0b") * 1000),
    "profiles": with_chunks(PROFILE * 2),
    "segments": with_segments(b"\xff\xe5\0\2" * 1000),
    "comments": with_segments(b"\xff\xfe\0\2" * 1000),
    "fill": with_segments(b"\xff" * 1000),
    "junk": with_segments(b"\xff\xe5\0\2" + b"\0" * 1000),
    "escapes": with_segments(b"\xff\0" * 1000),
    "tiles": tiles(20_000),
    "short tiles": tiles(20_000, kind=3),
    "tiles, big endian": tiles(20_000, order=">"),
    "short tiles, big endian": tiles(20_000, kind=3, order=">"),
    "entries": a_tiff({30_000 + entry: (3, 1, 0) for entry in range(1001)}, b""),
    "fractions": many_values(282, 5, 5000),
    "strips": many_values(273, 4, 5000),
}
"""Each of these was seen to cost seconds or hundreds of megabytes, if it is as large as a body may be."""


@pytest.mark.parametrize("burden", BURDENS)
def test_a_burden_is_refused_and_no_parser_is_started(burden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal is of the file's structure alone."""

    def never(*_: object) -> None:
        pytest.fail("a parser was started")

    for media_type in PARSERS:
        monkeypatch.setitem(PARSERS, media_type, never)
    with pytest.raises(ImageError, match=r"it has more than|its .* more than|its tiles are larger") as caught:
        decode(BURDENS[burden])
    assert caught.value.kind is ImageFault.DAMAGED


@pytest.mark.parametrize("media_type", SAMPLES)
def test_a_file_of_more_than_a_mebibyte_is_refused_and_one_of_just_that_is_read(media_type: str) -> None:
    """The limit is exact, and the refusal says it."""
    padding = bytes(MEBIBYTE - len(SAMPLES[media_type]))
    assert np.array_equal(decode(SAMPLES[media_type] + padding), decode(SAMPLES[media_type]))
    with pytest.raises(ImageError, match="1048577 bytes, more than the 1048576") as caught:
        decode(SAMPLES[media_type] + padding + b"\0")
    assert caught.value.kind is ImageFault.HEAVY


@pytest.mark.parametrize("data", [tiles(1024), with_chunks(chunk(b"abCd") * 900), with_chunks(PROFILE)])
def test_what_is_only_unusual_has_no_objection(data: bytes) -> None:
    """A large tile, many chunks, one large profile."""
    media_type = "image/png" if data.startswith(SIGNATURE) else "image/tiff"
    assert bombs.objection(data, media_type) is None


def test_a_large_profile_of_many_segments_is_no_burden(digit: Pixels) -> None:
    """A press's CMYK profile fills ten segments of a JPEG."""
    data = encoded(Image.fromarray(digit), "JPEG", quality=95, icc_profile=bytes(600_000))
    assert np.array_equal(decode(data), decode(SAMPLES["image/jpeg"]))


@pytest.fixture
def digit() -> Pixels:
    """Return an image that no other test has changed."""
    return a_digit()


def test_pixels_that_unpack_to_gigabytes_are_read_as_far_as_the_image_goes(digit: Pixels) -> None:
    """Of 200 MiB no more is unpacked than the image has rows."""
    lines = b"".join(b"\0" + row.tobytes() for row in digit)
    packer = zlib.compressobj(9)
    packed = packer.compress(lines) + b"".join(packer.compress(bytes(1 << 24)) for _ in range(12))
    packed += packer.flush()
    assert len(packed) < MEBIBYTE
    header = struct.pack(">IIBBBBB", 28, 28, 8, 0, 0, 0, 0)
    bomb = SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND")
    program = (
        "import resource, sys; from bundle.images import decode\n"
        "data = sys.stdin.buffer.read(); decode(data)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )

    def peak(data: bytes) -> int:
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, input=data, capture_output=True, check=True
        )
        return int(done.stdout)

    assert peak(bomb) - peak(png(digit)) < 20_000  # KiB; all of it would be 200,000
    assert np.array_equal(decode(bomb), digit)


@pytest.mark.parametrize(("first", "second"), list(permutations(SAMPLES, 2)))
def test_a_file_that_is_two_images_is_the_one_it_begins_with(first: str, second: str) -> None:
    """A polyglot cannot be one image for the declared type and another for the decoder."""
    both = SAMPLES[first] + SAMPLES[second]
    assert np.array_equal(decode(both), decode(SAMPLES[first]))


@pytest.mark.parametrize("tail", [b"PK\x05\x06" + bytes(18), b"<script>alert(1)</script>", b"%PDF-1.7\n"])
@pytest.mark.parametrize("media_type", SAMPLES)
def test_what_hangs_behind_an_image_is_not_looked_at(media_type: str, tail: bytes) -> None:
    """An archive, a page or a document behind the pixels changes none of them."""
    assert np.array_equal(decode(SAMPLES[media_type] + tail), decode(SAMPLES[media_type]))


@pytest.mark.parametrize("head", [b"%PDF-1.7\n", b"PK\x03\x04", b"<html>", b"\0", b"GIF89a"])
def test_what_stands_before_an_image_makes_it_none(head: bytes, digit: Pixels) -> None:
    """Only the first bytes say what a file is; no image is searched for in it."""
    with pytest.raises(ImageError) as caught:
        decode(head + png(digit))
    assert caught.value.kind in (ImageFault.FORMAT, ImageFault.SIZE, ImageFault.DAMAGED)


def test_a_png_whose_end_is_only_in_a_text_ends_too_early(digit: Pixels) -> None:
    """The last chunk's bytes inside another chunk are no end."""
    whole = with_chunks(chunk(b"tEXt", b"a\0" + chunk(b"IEND")))
    with pytest.raises(ImageError, match="ends too early"):
        decode(whole[:-12])
    assert np.array_equal(decode(whole), digit)


def test_a_broken_tiff_writes_nothing_between_the_lines_of_a_log() -> None:
    """What libtiff finds is in the refusal, and not on standard error."""
    program = (
        "import sys; from bundle.errors import ImageError; from bundle.images import decode\n"
        "try: decode(sys.stdin.buffer.read())\n"
        "except ImageError as error: print(error.kind)"
    )
    packed = zlib.compress(a_digit().tobytes())
    tags = {256: 28, 257: 28, 258: 8, 259: 8, 262: 1, 273: 8, 277: 1, 278: 28, 279: len(packed)}
    fields = {tag: (4, 1, value) for tag, value in tags.items()}
    assert np.array_equal(decode(a_tiff(fields, packed)), a_digit())
    broken = a_tiff(fields, b"\0" * len(packed))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, input=broken, capture_output=True, check=True
    )
    assert (done.stdout, done.stderr) == (b"damaged\n", b"")
