"""What raw octets are that are not pixels: files, and pixels of more than one byte.

Octets declare neither a type nor a shape. One image of float32 has the length of four of uint8, and a file may have the
length of one: they would be answered with confidence, and wrongly. `mistaken` finds them by what images of uint8 never
look like. It is sure rather than complete: an image that is refused for its looks could not be sent at all, one that is
let through is answered as before.

- A file is known by its magic number; by a short one alone, noise would be: it must be readable by that, too.
- Of floats the byte of the exponent is in a narrow range, its neighbour is not; of integers all bytes but one are zero;
  of RGBA the fourth is 255, or the first three are equal and it is another; of RGB all three are equal. Images of uint8
  would need upright stripes as wide as that type.

The second kind is looked for in a sample, and then confirmed on the whole body.
"""

import zlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bundle.images.contract import PIXELS
from bundle.images.decoding import check_header, guess_format, sniff
from bundle.images.errors import ImageError, ImageFault
from serving.predict.bodies.media_types import ACCEPTED, NPY, NPY_MAGIC, remedy

SAMPLE_BYTES = 768
"""Bytes that are looked at in a body of ordinary images, from the first ink on; a multiple of `_ALIGNMENT`."""
_ALIGNMENT = 24
"""A multiple of every width that a pixel can have: 2, 3, 4 and 8 bytes."""
LEAST_LIT = 48
"""Pixels that must show the pattern: fewer may be dust on blank images, all of it in every other column by chance."""
LEAST_LIT_FLOATS = 16
LEAST_STEPS = 64
"""Changes of value between triples of equal bytes."""

_MAGICS = (
    *(b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"\xff\xd8\xff", b"BM", b"RIFF", b"II*\0", b"MM\0*"),
    *(NPY_MAGIC, b"PK\3\4", b"\x1f\x8b\x08", b"%PDF-", b"\x89HDF\r\n\x1a\n"),
)
_LONG_MAGICS = ("image/png", "image/gif", "image/webp")
"""Formats whose magic number has six bytes or more, which noise does not begin with."""


def _tops(low: int, high: int, *, signed: bool) -> bytes:
    top = range(low, high + 1)
    return bytes((0, *top, *(0x80 | one for one in top if signed)))


_TOPS = {
    8: _tops(0x3C, 0x40, signed=True),
    4: _tops(0x33, 0x43, signed=True),
    2: _tops(0x1B, 0x5B, signed=False),
}
"""Width of a float (IEEE 754) to the first bytes, in big-endian order, of 0 and of what is between about 2**-24 and
255, negative too where the data may be normalised; of float16 between 2**-9 and 255."""


_TOPS_OR_OPAQUE = {width: tops + b"\xff" for width, tops in _TOPS.items()}
_ARRAY = (
    f"Send the array with its type: as {NPY}, which numpy.save writes; or pixels of uint8 from 0 to 255, which are the "
    "only ones below /v2."
)
_UNPACK = f"Send what is in it, with its type: {ACCEPTED}."
_COLOURS = "Send the image as a file (image/png), or one gray byte a pixel."


class Mistaken(NamedTuple):
    """What a body is instead of pixels of uint8."""

    found: str
    """In words, for an error message."""
    remedy: str


def mistaken(body: bytes) -> Mistaken | None:
    """Return what a body is that has the length of images of uint8; None if it may well be such images."""
    if body.startswith(_MAGICS) and (file := _file(body)) is not None:
        return file
    count = len(body) // PIXELS
    if count == 1:
        return None
    start = _first_ink(body)
    start -= start % _ALIGNMENT
    sample = body[start : start + SAMPLE_BYTES]
    if not sample.strip(sample[:1]):
        return None
    for width in _TOPS:
        if count % width == 0 and _may_be(sample, width) and (numbers := _numbers(body, width)) is not None:
            return numbers
    if count % 3 == 0 and sample[::3] == sample[1::3] and _is_rgb(body):
        return Mistaken("RGB", _COLOURS)
    return None


def _first_ink(body: bytes) -> int:
    """Return where the first byte is that differs from those before it, which show nothing; or 0 if there is none."""
    head = body[:SAMPLE_BYTES]
    if ink := head.lstrip(head[:1]):
        return len(head) - len(ink)
    return int((np.frombuffer(body, np.uint8) != body[0]).argmax())


def _file(body: bytes) -> Mistaken | None:
    media_type = sniff(body)
    if media_type is not None:
        if media_type not in _LONG_MAGICS:
            try:
                check_header(body)
            except ImageError as error:
                if error.kind is ImageFault.DAMAGED:
                    return None
        return Mistaken(media_type, remedy(body) or _UNPACK)
    if body.startswith(NPY_MAGIC):
        return Mistaken("a .npy file", remedy(body) or _UNPACK)
    if body.startswith(b"PK\3\4"):
        is_file = b"PK\5\6" in body  # the end of its directory
    elif body.startswith(b"\x1f\x8b"):
        is_file = _is_gzip(body)
    else:
        is_file = not body.startswith((b"BM", b"RIFF"))
    return Mistaken(guess_format(body), _UNPACK) if is_file else None


def _is_gzip(body: bytes) -> bool:
    try:
        return bool(zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(body, PIXELS))
    except zlib.error:
        return False


def _may_be(sample: bytes, width: int) -> bool:
    """Tell whether no byte contradicts that the sample has numbers, or colours with alpha, of this width."""
    if sample[width - 1 :: width].lstrip(_TOPS_OR_OPAQUE[width]) and sample[::width].lstrip(_TOPS[width]):
        return width == 4 and sample[::4] == sample[1::4]
    return True


def _numbers(body: bytes, width: int) -> Mistaken | None:
    groups = np.frombuffer(body, np.uint8).reshape(-1, width)
    count = len(groups) // PIXELS
    images = f"{count} image{'s' if count > 1 else ''}"
    for order, name in (("<", "little-endian"), (">", "big-endian")):
        if (values := _floats(body, groups, order)) is not None:
            low, high = float(values.min()), float(values.max())
            return Mistaken(f"{images} of float{8 * width} ({name}) from {low:.4g} to {high:.4g}", _ARRAY)
    used = np.flatnonzero(groups.any(axis=0)).tolist()
    if used in ([0], [width - 1]) and _is_spread(groups[:, used[0]] > 0, LEAST_LIT, 5 / 7):
        if used == [3]:
            return Mistaken(f"{images} of RGBA, black on transparent, or of big-endian int32", _COLOURS)
        return Mistaken(f"{images} of int{8 * width} ({'big' if used[0] else 'little'}-endian)", _ARRAY)
    colours, alpha = groups[:, :-1], groups[:, -1]
    lit: npt.NDArray[np.bool_] | None = None
    if width < 8 and (alpha == 255).all():
        lit = np.any(colours < 255, axis=1)
    elif width == 4 and (colours == colours[:, :1]).all():
        lit = alpha != colours[:, 0]
    if lit is not None and _is_spread(lit, LEAST_LIT, 5 / 7):
        return Mistaken(f"{images} of {'RGBA' if width == 4 else 'gray with alpha'}", _COLOURS)
    return None


def _floats(body: bytes, groups: npt.NDArray[np.uint8], order: str) -> npt.NDArray[Any] | None:
    """Return the values of a body if they are floats of this width and byte order."""
    width = groups.shape[1]
    top, beside, word = (width - 1, width - 2, 3) if order == "<" else (0, 1, 4)
    if body[top::width].translate(None, _TOPS[width]):
        return None
    if width == 8 and any(low := body[word::8]) and not low.translate(None, _TOPS[4]):
        return None  # the other halves are floats too: they are of float32
    values = np.frombuffer(body, f"{order}f{width}")
    lit = groups[:, top] > 0
    if np.count_nonzero(values) > np.count_nonzero(lit) or not _is_spread(lit, LEAST_LIT_FLOATS, 3 / 7):
        return None
    mantissas = groups[lit, beside].tobytes()
    return values if 2 * len(mantissas.translate(None, _TOPS[width])) >= len(mantissas) else None


def _is_spread(lit: npt.NDArray[np.bool_], least: int, share: float) -> bool:
    """Tell whether so many pixels are lit, in at least this share of the columns at which numbers begin."""
    return bool(np.count_nonzero(lit) >= least and lit.reshape(-1, 7).any(axis=0).mean() >= share)


def _is_rgb(body: bytes) -> bool:
    pixels = np.frombuffer(body, np.uint8).reshape(-1, 3)
    is_gray = (pixels == pixels[:, :1]).all()
    return bool(is_gray and np.count_nonzero(np.diff(pixels[:, 0])) >= LEAST_STEPS)
