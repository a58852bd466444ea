"""Which kinds of TIFF are read: each is written down here, because Pillow reads many more, and some of them wrongly.

Of a kind that is read, `plain` leaves the tags that the pixels depend on, in the form in which Pillow and libtiff read
them the same. Source: TIFF 6.0 (Adobe, 1992); tests/bundle/images/test_tiff.py compares every combination with libtiff.
"""

import math
import struct
from dataclasses import dataclass

from PIL import TiffImagePlugin

from bundle.images.contract import IMAGE_SIZE
from bundle.images.errors import HostileImageError, ImageError, ImageFault
from bundle.images.tiff_directories import LONG, SHORT, Directory

MAX_TILE_SAMPLES = 1 << 18
"""Largest tile: 512x512 gray pixels, or 256x256 with four channels, as is common. Tiles are decompressed whole."""

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL = 256, 257, 258, 259, 262, 266
_STRIPS, _SAMPLES, _ROWS, _STRIP_SIZES, _PLANAR = 273, 277, 278, 279, 284
_FAX3, _FAX4, _PREDICTOR, _COLOURS = 292, 293, 317, 320
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_SIZES, _INKS, _EXTRA, _FORMAT = 322, 323, 324, 325, 332, 338, 339
_JPEG_TABLES, _COEFFICIENTS, _SUBSAMPLING, _POSITIONING, _RANGE = 347, 529, 530, 531, 532
_OLD_JPEG_TAGS = (512, 513, 514, 515, 519, 520, 521)
_OFFSETS = (_STRIPS, _TILES, 513, 519, 520, 521)
"""The tags whose numbers are places in the file."""

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_KINDS: dict[int, tuple[str, int, tuple[int, ...]]] = {
    _WHITE_IS_ZERO: ("gray", 1, (1, 2, 4, 8, 16)),
    _BLACK_IS_ZERO: ("gray", 1, (1, 2, 4, 8, 16)),
    _RGB: ("RGB", 3, (8, 16)),
    _PALETTE: ("palette", 1, (1, 2, 4, 8)),
    _CMYK: ("CMYK", 4, (8, 16)),
    _YCBCR: ("YCbCr", 3, (8,)),
}
"""Photometric tag to its name, its colours and the bits of a sample that are read."""
_OTHER_PHOTOMETRICS = {
    4: "a transparency mask",
    8: "CIELab",
    9: "ICCLab",
    10: "ITULab",
    32803: "a colour filter array",
    32844: "the logarithm of a luminance",
    32845: "LogLuv",
    34892: "linear raw",
    51177: "a depth map",
}
_CONTIGUOUS, _SEPARATE = 1, 2
_UNSIGNED, _UNDEFINED = 1, 4
"""Undefined samples are treated as unsigned (TIFF 6.0, SampleFormat)."""
_FORMATS = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
_RAW, _OLD_JPEG, _JPEG = 1, 6, 7
_COMPRESSIONS = (_RAW, 2, 3, 4, 5, _OLD_JPEG, _JPEG, 8, 32773, 32946, 34925, 50000)
_OTHER_COMPRESSIONS = {
    32809: "ThunderScan",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34661: "JBIG",
    34712: "JPEG 2000",
    34887: "LERC",
    50001: "WebP",
    50002: "JPEG XL",
}
_OPACITY = (2, 999)
"""Unassociated alpha, and what Corel Draw 10 writes for it, as libtiff knows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    """What the tags say about a pixel."""

    photometric: int
    bits: int
    colours: int
    extra: tuple[int, ...]
    """Of each sample beyond the colours: 2 is unassociated alpha; 0 is anything that does not change the pixel."""
    is_planar: bool
    is_reversed: bool
    compression: int

    @property
    def is_negative(self) -> bool:
        """Whether zero is white in 16 bits, which Pillow does not invert."""
        return self.photometric == _WHITE_IS_ZERO and self.bits == 16


def plain(data: bytes, directory: Directory, tile_samples: int | None = None) -> tuple[bytes, bool]:
    """Return a TIFF with a directory of only the tags that its pixels depend on.

    Args:
        data: the file.
        directory: its first.
        tile_samples: most samples in all tiles together; None limits each alone, to `MAX_TILE_SAMPLES`.

    Returns:
        the file, and whether what Pillow reads from it is a negative.

    Raises:
        ImageError: it is of a kind that is not read; the message names it.
        ValueError: a tag cannot be read, in words that follow "damaged".
        HostileImageError: it exceeds a limit.
    """
    if not directory.is_whole:
        raise ValueError("it ends within its directory")
    kind = _checked(_kind(directory), directory)
    samples = kind.colours + len(kind.extra)
    tags: dict[int, tuple[int, list[int]]] = {
        _BITS: (SHORT, [kind.bits] * samples),
        _COMPRESSION: (SHORT, [kind.compression]),
        _PHOTOMETRIC: (SHORT, [_BLACK_IS_ZERO if kind.is_negative else kind.photometric]),
        _FILL: (SHORT, [2 if kind.is_reversed else 1]),
        _SAMPLES: (SHORT, [samples]),
        _PLANAR: (SHORT, [_SEPARATE if kind.is_planar else _CONTIGUOUS]),
    }
    if kind.extra:
        tags[_EXTRA] = (SHORT, list(kind.extra))
    if kind.photometric == _PALETTE:
        tags[_COLOURS] = (SHORT, _palette(directory, kind.bits))
    for tag in (_PREDICTOR, _SUBSAMPLING, _POSITIONING):
        if (numbers := directory.numbers(tag)) is not None:
            tags[tag] = (SHORT, numbers)
    layout = (_WIDTH, _HEIGHT, _STRIPS, _ROWS, _STRIP_SIZES, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_SIZES)
    for tag in (*layout, _FAX3, _FAX4, *_OLD_JPEG_TAGS):
        if (numbers := directory.numbers(tag)) is not None:
            tags[tag] = (LONG, numbers)
    _check_tiles(tags, samples, tile_samples)
    return _written(data, directory, tags), kind.is_negative


def jpegs(data: bytes, directory: Directory) -> list[bytes]:
    """Return what of a TIFF is decoded as a JPEG: each strip or tile, or the whole file if it does not say where.

    Together they have as many bytes as `packed_bytes` returns, which is to be limited before.
    """
    if directory.number(_COMPRESSION) not in (_OLD_JPEG, _JPEG):
        return []
    for offsets, sizes in ((_STRIPS, _STRIP_SIZES), (_TILES, _TILE_SIZES)):
        starts, counts = directory.numbers(offsets) or (), directory.numbers(sizes) or ()
        if (
            directory.number(_COMPRESSION) == _JPEG
            and starts
            and len(starts) == len(counts)
            and 0 not in counts
        ):
            return [data[start : start + count] for start, count in zip(starts, counts, strict=True)]
    return [data]


def packed_bytes(data: bytes, directory: Directory, rows: int = IMAGE_SIZE) -> int:
    """Return the compressed size of a TIFF's pixels, the sum over all strips; 0 if they are not compressed.

    Strips may share bytes, which are then decompressed for each of them. Where a size is missing or ambiguous,
    libtiff takes the rest of the file, and so does this sum: for each strip, or each of `rows` where their number is
    missing.
    """
    if directory.number(_COMPRESSION, _RAW) == _RAW:
        return 0
    strips = max(len(directory.numbers(tag) or ()) for tag in (_STRIPS, _TILES))
    counts = [number for tag in (_STRIP_SIZES, _TILE_SIZES) for number in directory.numbers(tag) or ()]
    if not strips or len(counts) != strips or 0 in counts:
        return len(data) * max(strips, rows)
    return sum(min(number, len(data)) for number in counts)


def _kind(directory: Directory) -> _Kind:
    """Read what the tags say; of ExtraSamples only what composition on black depends on is kept.

    A colour with associated alpha is already composited on black (section 18), so that this alpha is ignored.
    """
    photometric = directory.number(_PHOTOMETRIC)
    if photometric is None:
        raise ValueError("it does not say what its samples are: it has no tag 262")
    compression = directory.number(_COMPRESSION, _RAW) or _RAW
    if photometric not in _KINDS:
        raise _unread(_OTHER_PHOTOMETRICS.get(photometric, f"photometric interpretation {photometric}"))
    _, colours, _ = _KINDS[photometric]
    samples = directory.number(_SAMPLES, colours if compression == _OLD_JPEG else 1) or 1
    depths = directory.numbers(_BITS) or [1]
    depths = depths[:samples]
    if len(set(depths)) > 1:
        raise _unread(f"samples of {', '.join(map(str, depths))} bits")
    extra = [2 if one in _OPACITY else 0 for one in directory.numbers(_EXTRA) or ()]
    if photometric == _RGB and samples == 4 and not extra:
        extra = [2]  # OpenCV writes opacity without the tag
    if samples != colours + len(extra):
        name = _KINDS[photometric][0]
        raise _unread(f"{name} of {samples} samples, of which {len(extra)} are described as extra ones")
    return _Kind(
        photometric=photometric,
        bits=depths[0],
        colours=colours,
        extra=tuple(extra),
        is_planar=directory.number(_PLANAR, _CONTIGUOUS) == _SEPARATE and samples > 1,
        is_reversed=directory.number(_FILL, 1) == 2,
        compression=compression,
    )


def _checked(kind: _Kind, directory: Directory) -> _Kind:
    """Return a kind that is read.

    Raises:
        ImageError: it is another.
    """
    name, _, depths = _KINDS[kind.photometric]
    for number in set(directory.numbers(_FORMAT) or ()) - {_UNSIGNED, _UNDEFINED}:
        what = f"{_FORMATS.get(number, f'kind-{number}')} {kind.bits}-bit numbers"
        raise ImageError(
            ImageFault.PIXEL_RANGE, f"the pixels are {what}, whose range is not known", found=what
        )
    if kind.bits > 16:
        what = f"{kind.bits}-bit numbers"
        raise ImageError(
            ImageFault.PIXEL_RANGE, f"the pixels are {what}, whose range is not known", found=what
        )
    if kind.bits not in depths:
        raise _unread(f"{name} of {kind.bits} bits a sample")
    if kind.compression not in _COMPRESSIONS:
        found = _OTHER_COMPRESSIONS.get(kind.compression, f"method {kind.compression}")
        raise _unread(f"pixels compressed by {found}")
    if kind.photometric == _CMYK and directory.number(_INKS, 1) != 1:
        raise _unread("inks other than CMYK")
    if kind.is_planar and any(kind.extra) and kind.photometric != _RGB:
        raise _unread(f"{name} with its opacity in a plane of its own")  # Pillow takes the wrong plane
    if kind.photometric == _YCBCR and kind.extra:
        raise _unread("YCbCr with extra samples")
    if not _is_known_to_pillow(kind, directory.order):
        extra = f" with {len(kind.extra)} extra samples" if kind.extra else ""
        order = ", their bits in reversed order" if kind.is_reversed else ""
        raise _unread(f"{name} of {kind.bits} bits a sample{extra}{order}")
    return kind


def _is_known_to_pillow(kind: _Kind, order: str) -> bool:
    """Return whether Pillow has a mode for it; extra planes that change no pixel are left out by Pillow."""
    extra = kind.extra if not kind.is_planar or any(kind.extra) else ()
    depths = (kind.bits,) * (kind.colours + len(extra))
    photometric = _BLACK_IS_ZERO if kind.is_negative else kind.photometric
    prefix = TiffImagePlugin.II if order == "<" else TiffImagePlugin.MM
    mode = (prefix, photometric, (_UNSIGNED,), 2 if kind.is_reversed else 1, depths, extra)
    return mode in TiffImagePlugin.OPEN_INFO


def _unread(what: str) -> ImageError:
    return ImageError(
        ImageFault.UNSUPPORTED, f"a TIFF of this kind is not read: {what}", found=f"a TIFF: {what}"
    )


def _palette(directory: Directory, bits: int) -> list[int]:
    """Return the colours, 16 bits each; old files have 8, which libtiff recognises as here."""
    colours = directory.numbers(_COLOURS) or []
    if len(colours) != 3 << bits:
        raise ValueError(f"its palette has {len(colours)} numbers and not {3 << bits}")
    return colours if max(colours) > 255 else [257 * colour for colour in colours]


def _check_tiles(tags: dict[int, tuple[int, list[int]]], samples: int, most: int | None) -> None:
    """Limit each tile, or all of them: those at the edges of the image are unpacked whole, too."""
    tile = [tags[tag][1][0] for tag in (_TILE_WIDTH, _TILE_HEIGHT) if tag in tags]
    image = [tags[tag][1][0] if tag in tags else 1 for tag in (_WIDTH, _HEIGHT)]
    tiles = (
        1 if most is None else math.prod(-(-of // (side or 1)) for of, side in zip(image, tile, strict=False))
    )
    if tile and math.prod(tile) * samples * tiles > (most or MAX_TILE_SAMPLES):
        raise HostileImageError(f"its tiles are larger than {most or MAX_TILE_SAMPLES} samples")


def _written(data: bytes, directory: Directory, tags: dict[int, tuple[int, list[int]]]) -> bytes:
    """Return the file with a new directory before it, so that what the file lacks at its end stays lacking."""
    contents = {
        tag: (7, len(content), content) if tag == _JPEG_TABLES else (5, len(content) // 8, content)
        for tag in (_JPEG_TABLES, _COEFFICIENTS, _RANGE)
        if (content := directory.content(tag))
    }
    shift = len(_head(directory.order, tags, contents))
    moved = {
        tag: (kind, [number + shift for number in numbers] if tag in _OFFSETS else numbers)
        for tag, (kind, numbers) in tags.items()
    }
    return _head(directory.order, moved, contents) + data


def _head(
    order: str, tags: dict[int, tuple[int, list[int]]], contents: dict[int, tuple[int, int, bytes]]
) -> bytes:
    """Return the header, a directory and its values (section 2), of an even length."""
    for tag, (kind, numbers) in tags.items():
        packed = struct.pack(f"{order}{len(numbers)}{'H' if kind == SHORT else 'I'}", *numbers)
        contents = contents | {tag: (kind, len(numbers), packed)}
    entries, values = b"", b""
    start = 8 + 2 + 12 * len(contents) + 4
    for tag, (kind, count, content) in sorted(contents.items()):
        place = content.ljust(4, b"\0")
        if len(content) > 4:
            place = struct.pack(f"{order}I", start + len(values))
            values += content + bytes(len(content) & 1)
        entries += struct.pack(f"{order}HHI", tag, kind, count) + place
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}IH", 8, len(contents)) + entries + bytes(4) + values
