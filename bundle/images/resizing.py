"""Makes 28x28 of a gray image of any size, the one implementation for training, the service and the scorer.

The page's JavaScript (`normalise.js`, `picture.js`) does the same; a test compares both, pixel for pixel.

Every sum here is of whole numbers that floating point holds exactly, and is divided once. So neither the order in
which a processor adds nor the number of its threads changes a pixel.
"""

import numpy as np
import numpy.typing as npt

from bundle.images.contract import BLACK_ON_WHITE, IMAGE_SIZE, Polarity, Resize

BOX = 20
"""Side of the box into which MNIST's authors fitted a digit."""
CENTRE = IMAGE_SIZE // 2
"""The pixel, counted from 0, on which MNIST's digits have their centre of mass."""

_Pixels = npt.NDArray[np.uint8]
_Sums = npt.NDArray[np.float64]


def resize(pixels: _Pixels, how: Resize, polarity: Polarity | None = None) -> _Pixels:
    """Return `uint8[28, 28]` of a gray image, `uint8[height, width]`; a pixel is the mean of the area it covers.

    - `fit`: the whole image; its aspect ratio changes unless it is a square.
    - `pad`: the whole image in its aspect ratio, in the middle of the median gray of its border.
    - `mnist`: the ink alone, as MNIST was made: bilevel, fitted into 20x20 in its aspect ratio, its centre of mass on
      pixel 14 as far as nothing is cut off. "The original black and white (bilevel) images from NIST were size
      normalized to fit in a 20x20 pixel box while preserving their aspect ratio ... and translating the image so as to
      position [the center of mass] at the center of the 28x28 field" (LeCun, Cortes, Burges, The MNIST database).

    `fit` and `pad` return an image of 28x28 unchanged. `mnist` fits and centres it, too, but keeps its gray levels: it
    is too small to have been drawn in two. Every pixel that differs from its paper is ink, so an image of MNIST is
    returned unchanged.

    Args:
        pixels: at least one.
        how: see above.
        polarity: with `mnist`, that of the result, whatever the image has; None keeps the image's. `fit` and `pad`
            never exchange light and dark.
    """
    if how == "mnist":
        return _mnist(pixels, polarity)
    if pixels.shape == (IMAGE_SIZE, IMAGE_SIZE):
        return pixels
    if how == "fit":
        return _rounded(*_resampled(pixels, (IMAGE_SIZE, IMAGE_SIZE)))
    height, width = size = _fitted(pixels.shape, IMAGE_SIZE)
    top, left = (IMAGE_SIZE - height) // 2, (IMAGE_SIZE - width) // 2
    field = np.full((IMAGE_SIZE, IMAGE_SIZE), _paper(pixels), np.uint8)
    field[top : top + height, left : left + width] = _rounded(*_resampled(pixels, size))
    return field


def _mnist(pixels: _Pixels, polarity: Polarity | None) -> _Pixels:
    paper = _paper(pixels)
    is_dark = paper > 127 if polarity is None else polarity == BLACK_ON_WHITE
    field = _normalised(_ink(pixels, paper))
    return 255 - field if is_dark else field


def _ink(pixels: _Pixels, paper: int) -> _Pixels:
    """Return 0 (paper) to 255: of a small image by its distance from the paper, else bilevel, as NIST's scans."""
    if pixels.shape == (IMAGE_SIZE, IMAGE_SIZE):
        return np.where(pixels > paper, pixels - paper, paper - pixels).astype(np.uint8)
    threshold = otsu(pixels)
    return np.where((pixels > threshold) == (paper > threshold), 0, 255).astype(np.uint8)


def otsu(pixels: _Pixels) -> int:
    """Return the threshold with the largest variance between the two classes of gray levels (Otsu, 1979)."""
    counts = np.bincount(pixels.ravel(), minlength=256)
    count, total = np.cumsum(counts)[:-1], pixels.size
    moment = np.cumsum(counts * np.arange(256))
    sums, rest = moment[:-1], total - count
    valid = (count > 0) & (rest > 0)
    if not valid.any():
        return 0  # of one gray level all is on one side, and paper
    distance = sums[valid] / count[valid] - (moment[-1] - sums[valid]) / rest[valid]
    variance = count[valid] * rest[valid] * (distance * distance)
    return int(np.flatnonzero(valid)[np.argmax(variance)])


def _normalised(ink: _Pixels) -> _Pixels:
    """Fit and centre ink, 0 to 255, as MNIST was made; without any, return none."""
    field = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if not len(rows):
        return field
    part = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = size = _fitted(part.shape, BOX)
    sums, divisor = _resampled(part, size)
    top, left = (_start(sums.sum(axis=axis)) for axis in (1, 0))
    field[top : top + height, left : left + width] = _rounded(sums, divisor)
    return field


def _start(mass: _Sums) -> int:
    """Return where to put a picture of this mass by row, or by column, so that its centre is on `CENTRE`."""
    total = int(mass.sum())
    moment = int((mass * np.arange(len(mass))).sum())
    wanted = (2 * (CENTRE * total - moment) + total) // (2 * total)  # half a pixel rounds up
    return max(0, min(IMAGE_SIZE - len(mass), wanted))


def _fitted(shape: tuple[int, ...], most: int) -> tuple[int, int]:
    """Return (height, width) in the same aspect ratio, the longer of which is `most`; half a pixel rounds up."""
    height, width = ((2 * most * side + max(shape)) // (2 * max(shape)) for side in shape)
    return max(1, height), max(1, width)


def _resampled(pixels: _Pixels, size: tuple[int, int]) -> tuple[_Sums, int]:
    """Return an image of this size as whole numbers, and what to divide them by: the area of the source."""
    (height, width), (rows, columns) = pixels.shape, size
    # 24 bits hold the sums over a column exactly, up to 65,793 pixels; the second sum needs more.
    tall = np.float32 if height < 1 << 16 else np.float64
    narrow = _shares(height, rows).astype(tall) @ pixels.astype(tall)
    return narrow.astype(np.float64) @ _shares(width, columns).T, height * width


def _shares(source: int, target: int) -> _Sums:
    """Return `float64[target, source]`: how much of each source pixel, in its `target` parts, a target pixel covers."""
    starts, sides = np.arange(target)[:, None] * source, np.arange(source) * target
    covered = np.minimum(starts + source, sides + target) - np.maximum(starts, sides)
    shares: _Sums = np.maximum(covered, 0).astype(np.float64)
    return shares


def _rounded(sums: _Sums, divisor: int) -> _Pixels:
    return np.rint(sums / divisor).astype(np.uint8)


def _paper(pixels: _Pixels) -> int:
    """Return the median of the border, the upper one of two."""
    height, width = pixels.shape
    lines = [pixels[0], pixels[-1]] if height > 1 else [pixels[0]]
    sides = [pixels[1:-1, 0], pixels[1:-1, -1]] if width > 1 else [pixels[1:-1, 0]]
    border = np.concatenate(lines + sides)
    middle = len(border) // 2
    return int(np.partition(border, middle)[middle])
