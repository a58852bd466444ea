"""Arrays of numbers that are not plain unsigned bytes become images, judged as a whole (`bundle/images/numbers.py`)."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from bundle.images.contract import IMAGE_SIZE, PIXELS
from bundle.images.errors import NumbersError
from bundle.images.hardening import MAX_SIDE
from bundle.images.numbers import (
    Factor,
    check_type,
    count_of,
    joined,
    judge,
    needs_no_values,
    scale,
    shaped,
    values_of,
)
from bundle.images.resizing import resize
from imagesets.errors import DataError
from imagesets.formats.arrays.array_source import ArraySource, spooled
from imagesets.source import Images, Options

DECLARE = "declare it with --pixels 0..1 (1 is white) or --pixels 0..255"


def image_count(shape: tuple[int, ...], where: str, options: Options) -> int:
    """Return the number of images in an array of this shape, whose first axis is that of the images.

    They are 28x28, or of any size and gray or of colours, `[n, height, width]` or `[n, height, width, 1 to 4]`, if
    `options.resize` makes 28x28 of them.

    Raises:
        DataError: it is not a shape of images.
    """
    if shape and shape[0] == 0:
        raise DataError(f"{where} has no images")
    try:
        if options.resize is not None and _is_resizable(shape):
            return shape[0]
        if len(shape) == 3 and shape[1:] != (IMAGE_SIZE, IMAGE_SIZE) and shape[2] not in (IMAGE_SIZE, 1):
            raise NumbersError(
                f"images of {shape[1]}x{shape[2]}",
                f"the model takes {IMAGE_SIZE}x{IMAGE_SIZE}; --resize fit, pad or mnist makes it of them",
            )
        if len(shape) < 2:
            raise NumbersError(f"the array's shape is {list(shape)}", "give [n, 28, 28] or [n, 784]")
        return count_of(shape)
    except NumbersError as error:
        raise DataError(f"{where}: {error}") from None


def is_as_it_is(dtype: "np.dtype[Any]", shape: tuple[int, ...], options: Options) -> bool:
    """Return whether the array's bytes are the images' pixels, so that they are read where they are."""
    return dtype == np.uint8 and math.prod(shape[1:]) == PIXELS and options.resize != "mnist"


def _is_resizable(shape: tuple[int, ...]) -> bool:
    return (
        len(shape) in (3, 4)
        and all(0 < side <= MAX_SIDE for side in shape[1:3])
        and (len(shape) == 3 or 1 <= shape[3] <= 4)
    )


def _images(batch: npt.NDArray[Any], factor: Factor, options: Options) -> Images:
    """Return images `uint8[n, 28, 28]` of a batch of numbers."""
    if options.resize is None or not _is_resizable(batch.shape):
        images = scale(shaped(batch), factor)
    else:
        images = _gray(scale(batch, factor))
    if options.resize is None:
        return images
    return np.stack([resize(image, options.resize) for image in images])


def _gray(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return `uint8[n, height, width]` of an array with or without channels, as the decoder of files does."""
    if pixels.ndim == 3:
        return pixels
    if pixels.shape[3] == 1:
        return pixels[..., 0]
    if pixels.shape[3] in (2, 4):  # opacity, over black
        opacity = pixels[..., -1:].astype(np.uint16)
        pixels = ((pixels[..., :-1] * opacity + 127) // 255).astype(np.uint8)
    if pixels.shape[3] == 1:
        return pixels[..., 0]
    return np.stack([np.array(Image.fromarray(image).convert("L")) for image in np.ascontiguousarray(pixels)])


def convert(
    name: str,
    path: Path,
    batches: Callable[[], Iterable[npt.NDArray[Any]]],
    dtype: "np.dtype[Any]",
    options: Options,
    **fields: Any,
) -> ArraySource:
    """Return the source of numbers of one type as images.

    Args:
        name: of the source.
        path: of the file, for its fingerprint.
        batches: yields the whole array in chunks along the first axis; called twice, to judge and to convert.
        dtype: of the numbers.
        options: `pixels` declares the range, `say` hears a warning.
        fields: of the ArraySource.

    Raises:
        DataError: the numbers are not pixels, or their range is in doubt.
    """
    try:
        check_type(dtype)
        values = None
        if not needs_no_values(dtype, options.pixels):
            values = joined(map(values_of, batches()))
        factor = judge(values, dtype, options.pixels)
        return spooled(name, path, (_images(batch, factor, options) for batch in batches()), **fields)
    except NumbersError as error:
        raise DataError(f"{name}: {error}" + (f"; {DECLARE}" if error.in_doubt else "")) from None
