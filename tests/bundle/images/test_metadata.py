"""A fault in a file's metadata is no damage of its pixels: it is read, upright where no orientation can be read."""

import struct
from collections.abc import Callable

import numpy as np
import pytest

from bench.support.handmade import chunk
from bench.support.pictures import SAMPLES, a_digit, in_mode, odd_tiff
from bench.support.tiffs import Kind, Tag, written
from bench.support.worst import a_directory, a_webp, segment, with_chunks, with_exif, with_segments
from bundle.images.decoding import decode

EXIF_HOLDERS: dict[str, Callable[[bytes], bytes]] = {
    "image/png": lambda block: with_chunks(chunk(b"eXIf", block)),
    "image/jpeg": with_exif,
    "image/webp": lambda block: a_webp((b"EXIF", block), flags=8),
}
TURN = (0x112, 3, 1, 6)
BEYOND = 900_000
UPRIGHT = {
    "nothing": b"",
    "another format": b"no EXIF data at all",
    "a directory beyond the end": b"II*\0" + struct.pack("<I", BEYOND),
    "BigTIFF": b"II+\0\x08\0\0\0" + bytes(20),
    "an orientation of no number": a_directory((0x112, 2, 1, 6)),
    "an orientation that does not exist": a_directory((0x112, 3, 1, 9)),
    "many orientations beyond the end": a_directory((0x112, 3, 5000, BEYOND)),
    "an unknown type": a_directory((0x112, 99, 1, 6)),
    "a fraction beyond the end": a_directory((0x11A, 5, 1, BEYOND)),
    "a directory below beyond the end": a_directory((0x8769, 4, 1, BEYOND)),
    "several directories below": a_directory((0x8769, 4, 3, 8)),
    "a directory that is its own": a_directory((0x8769, 4, 1, 8)),
    "fewer entries than it says": a_directory((0x10F, 2, 1, 0))[:8] + b"\x09\0" + bytes(14),
}
TURNED = {
    "a fraction beyond the end": a_directory(TURN, (0x11A, 5, 1, BEYOND)),
    "a resolution given twice": a_directory(TURN, (0x11A, 5, 1, 8), (0x11A, 5, 1, 8)),
    "a resolution of two numbers": a_directory(TURN, (0x11A, 5, 2, 8)),
    "an orientation of four bytes": a_directory((0x112, 4, 1, 6)),
    "a text beyond the end": a_directory((0x10F, 2, 400, BEYOND), TURN),
    "a directory below beyond the end": a_directory(TURN, (0x8769, 4, 1, BEYOND)),
    "a directory below that is cut": a_directory(TURN, (0x8769, 4, 1, 38), data=b"\xff\0"),
    "no end": a_directory(TURN)[:-4],
}


@pytest.mark.parametrize("fault", UPRIGHT)
@pytest.mark.parametrize("media_type", EXIF_HOLDERS)
def test_exif_data_without_a_readable_orientation_turn_nothing(media_type: str, fault: str) -> None:
    """The image is read as it is stored."""
    assert np.array_equal(decode(EXIF_HOLDERS[media_type](UPRIGHT[fault])), decode(SAMPLES[media_type]))


@pytest.mark.parametrize("fault", TURNED)
@pytest.mark.parametrize("media_type", EXIF_HOLDERS)
def test_an_orientation_is_read_beside_faults(media_type: str, fault: str) -> None:
    """What is wrong with another tag says nothing of this one."""
    expected = np.rot90(decode(SAMPLES[media_type]), -1)
    assert np.array_equal(decode(EXIF_HOLDERS[media_type](TURNED[fault])), expected)


def broken(kind: bytes, content: bytes) -> bytes:
    """Return a PNG's chunk with a wrong checksum."""
    return chunk(kind, content)[:-4] + b"\0\0\0\0"


@pytest.mark.parametrize(
    "chunks",
    [
        chunk(b"iCCP", b"name\0\7rubbish"),
        chunk(b"iCCP", b""),
        broken(b"iCCP", b"name\0\0rubbish"),
        chunk(b"tEXt", b"no keyword"),
        chunk(b"zTXt", b"key\0\7rubbish"),
        chunk(b"zTXt", b"Raw profile type exif\0\0rubbish"),
        chunk(b"tEXt", b"Raw profile type exif\0\nexif\n4\nno hexadecimals"),
        chunk(b"tEXt", b"Raw profile type exif\0"),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\7rubbish"),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0\xff\xfe<x:xmpmeta tiff:Orientation='upright'>"),
        broken(b"tEXt", b"key\0text"),
        broken(b"eXIf", a_directory(TURN)),
        chunk(b"pHYs", b"\0"),
        chunk(b"gAMA", b""),
        chunk(b"tIME", b"\0" * 40),
        chunk(b"acTL", struct.pack(">II", 0, 0)),
        chunk(b"acTL", struct.pack(">II", 1, 0))
        + chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 28, 28, 0, 0, 1, 1, 0, 0)),
        chunk(b"acTL", b"\0") * 2,
    ],
)
def test_broken_chunks_of_metadata_do_no_harm(chunks: bytes) -> None:
    """Profiles, texts, times and the frame control of an animation that is none."""
    for data in (with_chunks(chunks), with_chunks(chunks, behind=True)):
        assert np.array_equal(decode(data), a_digit())


@pytest.mark.parametrize(
    "segments",
    [
        segment(0xE0, b"JFIF\0"),
        segment(0xEE, b"Adobe\0"),
        segment(0xE1, b"Exif\0\0"),
        segment(0xE1, b"Exif\0\0MM"),
        segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="up"/>'),
        segment(0xE2, b"ICC_PROFILE\0\2\1rubbish"),
        segment(0xE2, b"ICC_PROFILE\0"),
        segment(0xE2, b"MPF\0rubbish"),
        segment(0xED, b"Photoshop 3.0\x008BIM\3\xed\0\0\0\0\0\2\0\0"),
        segment(0xED, b"Photoshop 3.0\x008BIM"),
    ],
)
def test_broken_segments_of_metadata_do_no_harm(segments: bytes) -> None:
    """JFIF, EXIF, XMP, profiles, and what Photoshop writes."""
    assert np.array_equal(decode(with_segments(segments)), decode(SAMPLES["image/jpeg"]))


@pytest.mark.parametrize(
    "tags",
    [
        {282: (5, [72, 1, 72, 1])},
        {282: (5, [72, 0])},
        {296: (3, [2, 2])},
        {296: (3, [77])},
        {274: (3, [0])},
        {274: (12, [6.0])},
        {339: (3, [1, 1, 1])},
        {339: (3, [4])},
        {266: (3, [1, 1])},
        {270: (1, list(b"no end"))},
        {301: (3, [0] * 5000)},
        {34665: (4, [BEYOND])},
        {34665: (4, [8, 8, 8])},
        {34853: (16, [BEYOND])},
        {330: (4, [BEYOND] * 3)},
        {700: (1, list(b"<x tiff:Orientation='no'/>"))},
        {34675: (1, list(b"no profile"))},
        {42112: (1, list(b"<GDALMetadata/>"))},
        {48129: (3, [1])},
        {60000: (12, [1.5] * 20)},
        {273: (3, [8])},
    ],
)
def test_odd_tags_of_a_tiff_do_no_harm(tags: dict[int, Tag]) -> None:
    """Twice, of the wrong type, pointing nowhere, unknown: no pixel depends on them."""
    samples = a_digit()[..., None].astype(np.int64)
    assert np.array_equal(decode(written(Kind(), samples, tags)), a_digit())


def test_a_resolution_of_two_numbers_is_none() -> None:
    """As some programs write it."""
    assert np.array_equal(decode(odd_tiff()), decode(in_mode("TIFF", "L")))


@pytest.mark.parametrize("following", [BEYOND, 0xFFFFFFFF])
def test_a_pointer_to_no_further_directory_is_no_further_image(following: int) -> None:
    """Nor is a directory that follows itself, nor one whose pointer is cut off."""
    samples = a_digit()[..., None].astype(np.int64)
    whole = written(Kind(), samples)
    assert np.array_equal(decode(whole[:-4]), a_digit())
    assert np.array_equal(decode(whole[:-4] + struct.pack("<I", following)), a_digit())
    assert np.array_equal(decode(whole[:-4] + whole[4:8]), a_digit())


@pytest.mark.parametrize("content", [b"", b"<x tiff:Orientation='up'/>", b"\xff\xfe"])
def test_a_broken_xmp_of_a_webp_does_no_harm(content: bytes) -> None:
    """Nor does a profile."""
    for kind, flag in ((b"XMP ", 4), (b"ICCP", 32)):
        assert np.array_equal(decode(a_webp((kind, content), flags=flag)), decode(SAMPLES["image/webp"]))
