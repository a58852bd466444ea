"""Every kind of TIFF is read as the specification says, or refused by its name.

The files are written from TIFF 6.0. That they are what they say is the judgement of libtiff's own `tiffcp`, which
unpacks them; without it (`make libtiff`) those tests are skipped.
"""

import itertools
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from bench.support.handmade import Order
from bench.support.pictures import a_digit, encoded
from bench.support.tiffs import (
    BLACK_IS_ZERO,
    CIELAB,
    CMYK,
    COLOURS,
    CONTIGUOUS,
    DEFLATE,
    FLOAT,
    JPEG,
    LZMA,
    LZW,
    MASK,
    OLD_DEFLATE,
    PACKBITS,
    PALETTE,
    PLANAR,
    RAW,
    RGB,
    SIGNED,
    UNDEFINED,
    UNSIGNED,
    WHITE_IS_ZERO,
    YCBCR,
    Kind,
    Tag,
    assembled,
    colour_map,
    pattern,
    written,
)
from bundle.images.decoding import decode
from bundle.images.errors import ImageError, ImageFault

Array = npt.NDArray[Any]

ASSOCIATED, UNASSOCIATED = 1, 2
PHOTOMETRICS = (
    WHITE_IS_ZERO,
    BLACK_IS_ZERO,
    RGB,
    PALETTE,
    MASK,
    CMYK,
    YCBCR,
    CIELAB,
    9,
    10,
    32803,
    32844,
    34892,
)
LAYOUTS: list[dict[str, Any]] = [
    {**shape, "compression": compression}
    for shape in ({}, {"rows": 5}, {"tile": 16}, {"tile": 32})
    for compression in (RAW, LZW, DEFLATE, OLD_DEFLATE, PACKBITS, LZMA)
] + [{"compression": LZW, "predictor": 2}, {"compression": DEFLATE, "predictor": 2, "tile": 16}]
ORDERS: tuple[Order, ...] = ("<", ">")
TOLERANCE = 1.06
"""Composited, rounded, then weighed and rounded again."""


def every_kind() -> Iterator[Kind]:
    """Yield every combination of what the tags say about a pixel."""
    depths = [
        *itertools.product((1, 2, 4, 8, 12, 16, 24, 32), (UNSIGNED, SIGNED, UNDEFINED)),
        (16, FLOAT),
        (32, FLOAT),
    ]
    axes = itertools.product(depths, PHOTOMETRICS, (1, 2, 3, 4, 5), (CONTIGUOUS, PLANAR), ORDERS, (1, 2))
    for (bits, form), photometric, samples, planar, order, fill in axes:
        for extra in (None, 0, ASSOCIATED, UNASSOCIATED):
            if extra is None or samples > COLOURS.get(photometric, 1):
                yield Kind(
                    bits=bits, format=form, photometric=photometric, samples=samples, planar=planar, order=order,
                    fill=fill, extra=extra,
                )  # fmt: skip


def meaning(kind: Kind, samples: Array) -> Array | None:
    """Return the unrounded gray of `[28, 28, n]`; None if the kind has none in 0..255."""
    colours = COLOURS.get(kind.photometric, 1)
    beyond = kind.samples - colours
    guessed = kind.photometric == RGB and kind.samples == 4  # opacity, without a tag that says so
    if kind.format not in (UNSIGNED, UNDEFINED) or kind.bits > 16 or beyond < 0:
        return None
    if kind.extra is None and beyond and not guessed:
        return None
    deep = kind.bits == 16
    levels = samples >> 8 if deep and colours > 1 else samples * (255 / ((1 << kind.bits) - 1))
    match kind.photometric:
        case 0:
            gray = 255 - levels[..., 0]
        case 1:
            gray = levels[..., 0]
        case 2:
            gray = luma(levels)
        case 3 if kind.bits <= 8:
            gray = luma((colour_map(kind.bits).T // 257)[samples[..., 0]])
        case 5:
            left = 255.0 - levels
            gray = luma(left[..., :3] * left[..., 3:4] / 255)
        case 6 if kind.bits == 8:
            y, blue, red = levels[..., 0], levels[..., 1] - 128, levels[..., 2] - 128
            rgb = np.stack([y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue], axis=2)
            gray = luma(rgb.clip(0, 255))
        case _:
            return None
    if beyond and kind.extra in (None, UNASSOCIATED):
        gray = gray * levels[..., colours] / 255
    return gray


def luma(colours: Array) -> Array:
    """Return the luma of `[..., 3]`, unrounded (ITU-R BT.601-7, section 2.5.1)."""
    weighed: Array = colours[..., :3] @ np.array([0.299, 0.587, 0.114])
    return weighed


def fault(kind: Kind, data: bytes, samples: Array) -> str | None:
    """Return what is wrong with how a file is decoded: misread, or refused without a name."""
    try:
        found = decode(data)
    except ImageError as error:
        named = error.kind in (ImageFault.UNSUPPORTED, ImageFault.PIXEL_RANGE)
        return None if named else f"not named: {error}: {kind}"
    expected = meaning(kind, samples)
    if expected is None:
        return f"read, though it has no meaning: {kind}"
    off = np.abs(found - expected).max()
    return f"misread by {off:.0f}: {kind}" if off > TOLERANCE else None


def is_read(kind: Kind) -> bool:
    """Return whether a kind is one of those that are read."""
    try:
        decode(written(kind))
    except ImageError:
        return False
    return True


@cache
def in_layouts() -> list[Kind]:
    """Return every kind that is read, in every layout and compression."""
    kinds = [kind for kind in every_kind() if kind.format == UNSIGNED and kind.bits <= 16 and is_read(kind)]
    return [
        replace(kind, **layout)
        for kind in kinds
        for layout in LAYOUTS
        if layout.get("predictor") != 2 or (kind.bits >= 8 and kind.photometric != YCBCR)
    ]


def test_every_kind_of_pixel_is_read_right_or_refused_by_its_name() -> None:
    """Depth, sign, photometric tag, samples, opacity, planes, byte order and bit order, in all combinations."""
    faults = []
    for index, kind in enumerate(every_kind()):
        layout = LAYOUTS[index % 24] if kind.bits != 24 else {}
        kind = replace(kind, **layout)  # noqa: PLW2901
        samples = pattern(kind)
        faults.append(fault(kind, written(kind, samples), samples))
    found = [one for one in faults if one]
    assert not found, f"{len(found)} of {len(faults)}: " + "\n".join(found[:40])


def test_what_is_read_is_read_in_every_layout_and_compression() -> None:
    """Strips and tiles that end within the image or beyond it, by each method that packs samples as they are."""
    faults = []
    for kind in in_layouts():
        samples = pattern(kind)
        found, expected = decode(written(kind, samples)), meaning(kind, samples)
        if expected is None or np.abs(found - expected).max() > TOLERANCE:
            faults.append(str(kind))
    assert not faults, f"{len(faults)}: " + "\n".join(faults[:40])


def test_the_kinds_that_people_have_are_read() -> None:
    """What is refused is rare."""
    for photometric, bits, samples, extra in (
        *itertools.product((WHITE_IS_ZERO, BLACK_IS_ZERO), (1, 2, 4, 8, 16), (1,), (None,)),
        *itertools.product((PALETTE,), (1, 2, 4, 8), (1,), (None,)),
        *itertools.product((RGB,), (8, 16), (3,), (None,)),
        *itertools.product((RGB,), (8, 16), (4,), (None, 0, ASSOCIATED, UNASSOCIATED)),
        *itertools.product((CMYK,), (8, 16), (4,), (None,)),
        *itertools.product((BLACK_IS_ZERO,), (8,), (2,), (0, ASSOCIATED, UNASSOCIATED)),
        (YCBCR, 8, 3, None),
    ):
        kind = Kind(photometric=photometric, bits=bits, samples=samples, extra=extra)
        planar = samples > 1 and not (samples == 2 and extra == UNASSOCIATED)
        for planes in (CONTIGUOUS, PLANAR) if planar else (CONTIGUOUS,):
            assert is_read(replace(kind, planar=planes)), (kind, planes)
            assert is_read(replace(kind, planar=planes, order=">")), (kind, planes)


def pages(data: bytes) -> Iterator[tuple[dict[int, list[int]], bytes]]:
    """Yield the tags and the joined strips of each page of an uncompressed little-endian TIFF."""
    (at,) = struct.unpack_from("<I", data, 4)
    while at:
        (count,) = struct.unpack_from("<H", data, at)
        tags = {}
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from("<HHI", data, entry)
            if size := {3: 2, 4: 4}.get(kind):
                start = entry + 8 if size * values <= 4 else struct.unpack_from("<I", data, entry + 8)[0]
                tags[tag] = list(struct.unpack_from(f"<{values}{'H' if size == 2 else 'I'}", data, start))
        strips = zip(tags[273], tags[279], strict=True)
        yield tags, b"".join(data[start : start + size] for start, size in strips)
        (at,) = struct.unpack_from("<I", data, at + 2 + 12 * count)


def unpacked(tags: dict[int, list[int]], content: bytes) -> Array:
    """Return the samples `[28, 28, n]` of a page."""
    bits, count = tags[258][0], tags.get(277, [1])[0]
    planar = tags.get(284, [1])[0] == PLANAR
    if bits >= 8:
        values = np.frombuffer(content, f"<u{bits // 8}").astype(np.int64)
    else:
        rows = np.frombuffer(content, np.uint8).reshape(28 * (count if planar else 1), -1)
        each = np.unpackbits(rows, axis=1)[:, : 28 * bits * (1 if planar else count)].reshape(-1, bits)
        values = each @ (1 << np.arange(bits - 1, -1, -1))
    return values.reshape(count, 28, 28).transpose(1, 2, 0) if planar else values.reshape(28, 28, count)


@pytest.mark.skipif(shutil.which("tiffcp") is None, reason="libtiff's tiffcp is not installed (make libtiff)")
def test_the_files_of_these_tests_are_what_libtiff_s_own_tool_takes_them_for(tmp_path: Path) -> None:
    """Every kind that is read: libtiff unpacks the samples that the gray was calculated from.

    Left out is what `tiffcp` 4.5 does not copy right: planes of fewer than 8 bits, planes of 16 bits in tiles, and
    planes in tiles wider than the image.
    """
    kinds = [
        kind
        for kind in in_layouts()
        if kind.planar == CONTIGUOUS
        or (kind.bits == 8 and kind.tile <= 28)
        or (kind.bits == 16 and not kind.tile)
    ]
    for start in range(0, len(kinds), 500):
        some = kinds[start : start + 500]
        names = [tmp_path / f"{index}.tif" for index in range(len(some))]
        for kind, path in zip(some, names, strict=True):
            path.write_bytes(written(kind))
        command = [
            "tiffcp",
            "-c",
            "none",
            "-s",
            "-L",
            "-f",
            "msb2lsb",
            *map(str, names),
            str(tmp_path / "all.tif"),
        ]
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr[-600:]
        copies = list(pages((tmp_path / "all.tif").read_bytes()))
        (tmp_path / "all.tif").unlink()
        for kind, (tags, content) in zip(some, copies, strict=True):
            assert np.array_equal(unpacked(tags, content), pattern(kind)), kind


@pytest.mark.skipif(
    shutil.which("tiff2rgba") is None, reason="libtiff's tiff2rgba is not installed (make libtiff)"
)
@pytest.mark.parametrize("sides", [(1, 1), (2, 1), (2, 2)])
def test_subsampled_colour_is_read_as_libtiff_s_own_tool_reads_it(
    sides: tuple[int, int], tmp_path: Path
) -> None:
    """YCbCr of one blue and one red for several pixels, which stand together (section 21)."""
    across, down = sides
    random = np.random.default_rng(3)
    light = random.integers(0, 256, (28 // down, down, 28 // across, across)).transpose(0, 2, 1, 3)
    colour = random.integers(0, 256, (28 // down, 28 // across, 2))
    units = np.concatenate([light.reshape(28 // down, 28 // across, -1), colour], axis=2).astype(np.uint8)
    tags: dict[int, Any] = {530: (3, [across, down]), 531: (3, [1]), 279: (4, [units.size])}
    base = {256: 28, 257: 28, 258: 8, 259: 1, 262: YCBCR, 277: 3, 278: 28, 284: 1}
    fields = {tag: (3, [value] if tag != 258 else [8] * 3) for tag, value in base.items()}
    (tmp_path / "a.tif").write_bytes(data := assembled(units.tobytes(), fields | {273: (4, [8])} | tags))
    subprocess.run(["tiff2rgba", "-c", "none", str(tmp_path / "a.tif"), str(tmp_path / "b.tif")], check=True)
    ((page, content),) = pages((tmp_path / "b.tif").read_bytes())
    read = np.frombuffer(content, np.uint8).reshape(28, 28, page[277][0])
    assert np.abs(decode(data) - luma(read.astype(float))).max() <= TOLERANCE


@pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, BLACK_IS_ZERO])
@pytest.mark.parametrize("method", ["tiff_ccitt", "group3", "group4"])
@pytest.mark.parametrize("fill", [1, 2])
def test_faxes_are_read(method: str, photometric: int, fill: int) -> None:
    """The CCITT's compressions of one bit, by libtiff's encoder."""
    bilevel = a_digit() > 100
    options = {262: photometric, 266: fill}
    data = encoded(Image.fromarray(bilevel), "TIFF", compression=method, tiffinfo=options)
    assert np.array_equal(decode(data), bilevel * np.uint8(255))


@pytest.mark.parametrize(("photometric", "samples"), [(BLACK_IS_ZERO, 1), (WHITE_IS_ZERO, 1), (RGB, 3)])
@pytest.mark.parametrize("tile", [0, 32])
def test_pixels_of_a_jpeg_are_read(photometric: int, samples: int, tile: int) -> None:
    """TIFF Technical Note 2, with the tables in the stream."""
    kind = Kind(photometric=photometric, samples=samples, compression=JPEG, tile=tile)
    ramp = np.linspace(0, 255, 784).reshape(28, 28, 1).astype(np.int64)
    stored = np.concatenate([ramp, ramp.transpose(1, 0, 2), 255 - ramp], axis=2)[..., :samples]
    expected = meaning(kind, stored)
    assert expected is not None
    assert np.abs(decode(written(kind, stored)) - expected).max() < 4


@pytest.mark.parametrize("subsampling", [0, 2])
def test_pixels_of_an_old_style_jpeg_are_read(subsampling: int) -> None:
    """TIFF 6.0, section 22: the whole stream stands where tag 513 says."""
    ramp = np.linspace(0, 255, 784).reshape(28, 28)
    colours = np.stack([ramp, ramp.T, 255 - ramp], axis=2).astype(np.uint8)
    stream = encoded(Image.fromarray(colours), "JPEG", quality=95, subsampling=subsampling)
    shorts = {256: 28, 257: 28, 259: 6, 262: YCBCR, 277: 3, 278: 28, 512: 1}
    fields: dict[int, Tag] = {tag: (3, [value]) for tag, value in shorts.items()}
    fields |= {258: (3, [8, 8, 8]), 530: (3, [2, 2] if subsampling else [1, 1])}
    fields |= {273: (4, [8]), 279: (4, [len(stream)]), 513: (4, [8]), 514: (4, [len(stream)])}
    assert np.array_equal(decode(assembled(stream, fields)), decode(stream))


@pytest.mark.parametrize("method", ["zstd", "lzma"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_newer_compressions_are_read(method: str, mode: str) -> None:
    """By libtiff's encoder."""
    image = Image.fromarray(a_digit()).convert(mode)
    assert np.array_equal(decode(encoded(image, "TIFF", compression=method)), a_digit())


def test_a_palette_of_eight_bits_is_taken_for_what_it_is() -> None:
    """Old programs write colours up to 255 where 65535 belongs; libtiff tells them by that, too."""
    kind = Kind(photometric=PALETTE)
    old = (colour_map(8) // 257).ravel().tolist()
    assert np.array_equal(decode(written(kind, tags={320: (3, old)})), decode(written(kind)))


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (Kind(format=SIGNED), "signed 8-bit numbers"),
        (Kind(format=SIGNED, bits=16), "signed 16-bit numbers"),
        (Kind(format=FLOAT, bits=16), "floating-point 16-bit numbers"),
        (Kind(format=FLOAT, bits=32), "floating-point 32-bit numbers"),
        (Kind(bits=32), "32-bit numbers"),
        (Kind(bits=12), "gray of 12 bits a sample"),
        (Kind(photometric=MASK, bits=1), "a transparency mask"),
        (Kind(photometric=CIELAB, samples=3), "CIELab"),
        (Kind(photometric=32803), "a colour filter array"),
        (Kind(samples=3), "gray of 3 samples, of which 0 are described"),
        (Kind(samples=2, extra=UNASSOCIATED, planar=PLANAR), "opacity in a plane of its own"),
        (Kind(bits=16, fill=2, order=">"), "in reversed order"),
    ],
)
def test_a_kind_that_is_not_read_is_named(kind: Kind, sentence: str) -> None:
    """The file is not called damaged."""
    with pytest.raises(ImageError, match=sentence) as caught:
        decode(written(kind))
    assert caught.value.kind in (ImageFault.UNSUPPORTED, ImageFault.PIXEL_RANGE)


@pytest.mark.parametrize(
    ("method", "name"), [(34712, "JPEG 2000"), (34887, "LERC"), (50001, "WebP"), (12345, "method 12345")]
)
def test_a_compression_that_is_not_read_is_named(method: int, name: str) -> None:
    """Nor is its file called damaged."""
    with pytest.raises(ImageError, match=name) as caught:
        decode(written(Kind(), tags={259: (3, [method])}))
    assert caught.value.kind is ImageFault.UNSUPPORTED


def test_bits_of_different_number_are_refused() -> None:
    """565 is no kind of TIFF that a reader knows."""
    with pytest.raises(ImageError, match="samples of 5, 6, 5 bits"):
        decode(written(Kind(photometric=RGB, samples=3), tags={258: (3, [5, 6, 5])}))


def test_what_its_samples_mean_is_not_guessed() -> None:
    """Without a photometric tag, Pillow takes a TIFF for a negative."""
    data = written(Kind()).replace(b"\x06\1\3\0\1\0\0\0", b"\x07\1\3\0\1\0\0\0")
    with pytest.raises(ImageError, match="does not say what its samples are"):
        decode(data)
