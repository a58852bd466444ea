"""Hardening: small hostile files are rejected before a parser sees them, and harmless ones are not."""

import struct
import subprocess
import sys
import zlib
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin
from PIL.JpegImagePlugin import MARKER

from bench.support.handmade import SIGNATURE, a_tiff, chunk
from bench.support.pictures import SAMPLES, Pixels, a_digit, encoded, png
from bench.support.worst import (
    MEBIBYTE,
    READ,
    REFUSED,
    STOPPED,
    a_directory,
    a_webp,
    many_entries,
    packed_text,
    segment,
    strips,
    with_chunks,
    with_exif,
    with_segments,
)
from bundle.images import hardening, orientation
from bundle.images.decoding import PARSERS, decode, decode_any, sniff
from bundle.images.errors import ImageError, ImageFault
from tests.conftest import ROOT


def claimed_tiles(side: int, *, kind: int = 4, order: Any = "<") -> bytes:
    """Return a TIFF of 28x28 pixels whose tiles claim a size, deflated."""
    data = zlib.compress(bytes(100))
    tags = {256: 28, 257: 28, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 8, 325: len(data)}
    return a_tiff({tag: (kind, 1, value) for tag, value in tags.items()}, data, order=order)


def many_values(tag: int, kind: int, count: int) -> bytes:
    """Return a TIFF in which one tag has many values, which it really has."""
    values = b"\1" * (8 * count)
    fields = {256: (4, 1, 28), 257: (4, 1, 28), 258: (3, 1, 8), 262: (3, 1, 1), tag: (kind, count, 8)}
    return a_tiff(fields, values)


BURDENS = {
    "chunks": with_chunks(chunk(b"abCd") * 1000),
    "chunks behind the pixels": with_chunks(chunk(b"abCd") * 1000, behind=True),
    "empty pixels": with_chunks(chunk(b"IDAT") * 1000, behind=True),
    "texts": with_chunks(chunk(b"tEXt", b"a\0b") * 1000),
    "segments": with_segments(b"\xff\xe5\0\2" * 1000),
    "comments": with_segments(b"\xff\xfe\0\2" * 1000),
    "fill": with_segments(b"\xff" * 1000),
    "junk": with_segments(b"\xff\xe5\0\2" + b"\0" * 1000),
    "escapes": with_segments(b"\xff\0" * 1000),
    "tiles": claimed_tiles(20_000),
    "short tiles": claimed_tiles(20_000, kind=3),
    "tiles, big endian": claimed_tiles(20_000, order=">"),
    "short tiles, big endian": claimed_tiles(20_000, kind=3, order=">"),
    "entries": a_tiff({30_000 + entry: (3, 1, 0) for entry in range(257)}, b""),
    "strips": many_values(273, 4, 5000),
}
"""Each of these was seen to cost seconds or hundreds of megabytes, if it is as large as a body may be."""


@pytest.mark.parametrize("burden", BURDENS)
def test_a_hostile_image_is_rejected_and_no_parser_is_started(
    burden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal is of the file's structure alone."""

    def never(*_: object) -> None:
        pytest.fail("a parser was started")

    for media_type in PARSERS:
        monkeypatch.setitem(PARSERS, media_type, never)
    with pytest.raises(ImageError, match=r"it has more than|its .* more than|its tiles are larger") as caught:
        decode(BURDENS[burden])
    assert caught.value.kind is ImageFault.DAMAGED


@pytest.mark.parametrize("media_type", SAMPLES)
def test_a_file_of_more_than_a_mebibyte_is_rejected_and_one_of_just_that_is_read(media_type: str) -> None:
    """The limit is exact, and the refusal says it."""
    padding = bytes(MEBIBYTE - len(SAMPLES[media_type]))
    assert np.array_equal(decode(SAMPLES[media_type] + padding), decode(SAMPLES[media_type]))
    with pytest.raises(ImageError, match="1048577 bytes, more than the 1048576") as caught:
        decode(SAMPLES[media_type] + padding + b"\0")
    assert caught.value.kind is ImageFault.TOO_LARGE


@pytest.mark.parametrize("name", REFUSED)
def test_the_worst_files_are_rejected_and_no_parser_is_started(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each took up to a second, and 136 ms from 32 KiB."""
    monkeypatch.setitem(PARSERS, name.partition(":")[0], lambda _: pytest.fail("a parser was started"))
    with pytest.raises(ImageError, match=r"(more|larger) than \d+") as caught:
        decode(REFUSED[name]())
    assert caught.value.kind is ImageFault.DAMAGED


@pytest.mark.parametrize("name", STOPPED)
def test_a_file_of_tiny_pieces_stops_its_parser(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them is read in hundreds of thousands of pieces, if nobody counts."""
    reads = 0

    class Counted(hardening.ReadLimitedFile):
        def read(self, size: int | None = -1, /) -> bytes:
            nonlocal reads
            reads += 1
            return super().read(size)

    monkeypatch.setattr(hardening, "ReadLimitedFile", Counted)
    sentence = r"read in more than 4000 pieces|not enough image data|its runs leave the image"
    with pytest.raises(ImageError, match=sentence) as caught:
        decode(STOPPED[name]())
    assert caught.value.kind is ImageFault.DAMAGED
    assert reads <= 4001
    assert reads > 1000 or name.startswith("image/bmp")  # whose runs no parser sees


@pytest.mark.parametrize("name", READ)
def test_what_is_only_unusual_is_read_and_no_text_is_unpacked(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts and profiles that unpack to megabytes are left out, and the pixels are what they were."""
    ordinary = decode(SAMPLES[name.partition(":")[0]])
    if "EXIF" in name:
        ordinary = np.rot90(ordinary, -1)
    monkeypatch.setattr(PngImagePlugin, "_safe_zlib_decompress", lambda _: pytest.fail("a text was unpacked"))
    pixels = decode(READ[name]())
    if "runs" not in name and "tile" not in name and "gigabytes" not in name and "scans" not in name:
        assert np.array_equal(pixels, ordinary)


def test_a_jpeg_is_walked_as_pillow_walks_it() -> None:
    """A length that only one of the two reads would hide segments from the other."""
    bare = {marker for marker in range(256) if MARKER.get(0xFF00 | marker, ("", "", None))[2] is None}
    assert bare == hardening.BARE_MARKERS


@pytest.mark.parametrize("kind", [b"abCd", b"pLTE", b"uRNS"])
def test_what_is_left_out_is_whole(kind: bytes) -> None:
    """A wrong checksum is damage where nobody knows the chunk: its name may have been that of a palette."""
    broken = bytearray(with_chunks(packed_text(kind, b"text")))
    broken[broken.index(kind) + 8] ^= 1
    with pytest.raises(ImageError, match=f"the checksum of its {kind.decode()} chunk is wrong") as caught:
        decode(bytes(broken))
    assert caught.value.kind is ImageFault.DAMAGED


def upside_down(*, below: int = 0) -> bytes:
    """Return EXIF data that say so, with as many entries in a directory below as a camera writes."""
    below_at = len(a_directory((0x112, 3, 1, 3), (34665, 4, 1, 0)))
    return a_directory((0x112, 3, 1, 3), (34665, 4, 1, below_at), data=many_entries(below)[8:])


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>' + b" " * 3000
TEXT_EXIF = b"\nexif\n     180\n" + upside_down(below=3).hex().encode()


@pytest.mark.parametrize(
    "data",
    [
        with_chunks(chunk(b"eXIf", upside_down(below=60))),
        with_chunks(packed_text(b"zTXt", TEXT_EXIF, b"Raw profile type exif")),
        with_chunks(packed_text(b"iTXt", XMP, b"XML:com.adobe.xmp")),
        with_chunks(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP), behind=True),
        with_exif(upside_down(below=60)),
        with_segments(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)),
        a_webp((b"EXIF", upside_down(below=60)), flags=8),
        a_webp((b"XMP ", XMP), flags=4),
        strips(1, a_digit().tobytes(), {274: (3, 1, 3)}),
    ],
)
def test_an_orientation_is_found_wherever_it_can_stand(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left out of a file is never what says which way up it is."""
    turned = decode(data)
    monkeypatch.setattr(orientation, "upright", lambda pixels, _: pixels)
    assert np.array_equal(turned, decode(data)[::-1, ::-1])
    media_type = sniff(data)
    assert media_type is not None
    assert np.array_equal(turned, decode(SAMPLES[media_type])[::-1, ::-1])


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_ordinary_metadata_change_nothing(file_format: str) -> None:
    """A profile, EXIF data and texts as editors write them are no burden, and no part of the pixels."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    if file_format != "TIFF":  # Pillow does not write a directory below into one
        exif[0x8769] = {0x9003: "2026:01:01 00:00:00", 0x927C: bytes(5000)}
    image = Image.fromarray(a_digit())
    options: dict[str, Any] = {"icc_profile": profile, "exif": exif}
    if file_format == "PNG":
        options["pnginfo"] = texts = PngImagePlugin.PngInfo()
        texts.add_text("Comment", "c" * 2000, zip=True)
        texts.add_itxt("Description", "d" * 2000, zip=True)
    if file_format == "WEBP":
        options["lossless"] = True
    if file_format == "JPEG":
        options["quality"] = 95
    rich = encoded(image, file_format, **options)
    assert np.array_equal(decode(rich), decode(SAMPLES[f"image/{file_format.lower()}"]))


@pytest.mark.parametrize("media_type", PARSERS)
def test_want_of_memory_is_not_the_file_s_fault(media_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says nothing of the file, so nobody may count it as damaged."""

    def exhausted(_: object) -> None:
        raise MemoryError

    monkeypatch.setitem(PARSERS, media_type, exhausted)
    with pytest.raises(MemoryError):
        decode_any(SAMPLES[media_type])


def test_a_codec_without_memory_is_told_from_a_damaged_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow raises an OSError for it."""

    def exhausted(_: object) -> None:
        raise OSError("out of memory error when reading image file")

    monkeypatch.setitem(PARSERS, "image/webp", exhausted)
    with pytest.raises(MemoryError):
        decode(SAMPLES["image/webp"])


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
        "import resource, sys; from bundle.images.decoding import decode\n"
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
        "import sys; from bundle.images.errors import ImageError; from bundle.images.decoding import decode\n"
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
