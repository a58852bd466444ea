"""Which way up an image is: the one fact that is read of a file's metadata.

What cannot be read turns nothing: a fault in metadata is no damage of the pixels.
"""

import re
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from bundle.images.errors import HostileImageError
from bundle.images.tiff_directories import Directory

UPRIGHT = 1
EXIF_MARK = b"Exif\0\0"
_MARKS = re.compile(rb"(?:Exif\0\0){0,2}")
_TAG = 274
_IN_XMP = re.compile(rb"""tiff:Orientation(?:=["']|>)([1-8])""")

Pixels = npt.NDArray[np.uint8]

_TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).T,
    8: np.rot90,
}
"""Orientation (Exif 2.32, section 4.6.4 A) to what shows the image upright."""


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Return `uint8[height, width]` turned and mirrored as the orientation asks."""
    turn = _TURNS.get(orientation)
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def of(exif: Iterable[bytes], xmp: Iterable[bytes]) -> int:
    """Return the first orientation that is found in EXIF data, then in XMP texts.

    Raises:
        HostileImageError: EXIF data have too many entries.
    """
    found = next(filter(None, map(_of_exif, exif)), None)
    return found or next((int(one[1]) for text in xmp if (one := _IN_XMP.search(text))), UPRIGHT)


def of_directory(directory: Directory) -> int | None:
    """Return the orientation of a TIFF or of EXIF data; None if there is none that can be read."""
    try:
        found = directory.number(_TAG)
    except (ValueError, HostileImageError):
        return None
    return found if found in (UPRIGHT, *_TURNS) else None


def _of_exif(block: bytes) -> int | None:
    """Look into EXIF data, whether they begin with the `Exif` mark or not."""
    try:
        return of_directory(Directory(block[_MARKS.match(block).end() :]))  # type: ignore[union-attr]
    except ValueError:
        return None
