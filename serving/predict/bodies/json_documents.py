"""JSON bodies within limits: the nesting depth and the number of values are checked before parsing.

A parsed value takes up to 64 bytes for two or three in the body, so a body within its size limit could otherwise take
twenty times as much memory.
"""

from itertools import chain
from typing import Any

import numpy as np
import orjson

from bundle.manifest import IMAGE_SIZE
from serving.errors import InvalidInstanceError, MalformedBodyError, TooManyImagesError, shortened
from serving.predict.bodies import json_pieces, media_types

MAX_DEPTH = 16
"""Levels of arrays and objects; an Open Inference Protocol request has 6."""
PIXELS = IMAGE_SIZE * IMAGE_SIZE
VALUES_BESIDE_PIXELS = 1024
"""Allowance for names, parameters and the like in one body."""
SINGLE_PASS_BYTES = 128 << 10
"""Bodies up to this size are parsed in a single pass, which takes a millisecond."""


def read(body: bytes, max_images: int) -> Any:
    """Parse a JSON body.

    Raises:
        MalformedBodyError: it is not JSON (RFC 8259, without NaN and infinities), or nested too deeply.
        TooManyImagesError: it has more values than `max_images` images can have.
    """
    body = body.removeprefix(media_types.UTF8_BOM)  # which a parser may ignore (RFC 8259, section 8.1)
    structure = _checked(body, max_images)
    try:
        return orjson.loads(body) if structure is None else json_pieces.loads(body, structure)
    except orjson.JSONDecodeError as error:
        is_json = media_types.found_in(body) == media_types.JSON
        advice = None if is_json else media_types.remedy(body)
        raise MalformedBodyError(f"the body is not JSON: {error}", remedy=advice) from None
    except json_pieces.ScatteredError as error:
        raise MalformedBodyError(
            f"the JSON cannot be parsed in pieces: {error}",
            remedy="Send the images as one list, without other large members.",
        ) from None


def _checked(body: bytes, max_images: int) -> json_pieces.Structure | None:
    """Check the limits; return the structure of a body that is too large for a single pass."""
    is_large = len(body) > SINGLE_PASS_BYTES
    most = max_images * (PIXELS + 2 * IMAGE_SIZE) + VALUES_BESIDE_PIXELS
    if not is_large:
        opened = body.count(b"[") + body.count(b"{")
        if opened <= MAX_DEPTH and opened + body.count(b",") <= most:
            return None
    structure = json_pieces.structure(body, most)
    if structure is None:
        raise TooManyImagesError(
            f"the JSON has more values than {max_images} images can have",
            remedy=f"Send at most {max_images} images in one request, without an axis for their one channel, or raise "
            "GLYPH_MAX_IMAGES.",
        )
    if structure.depths.max(initial=0) > MAX_DEPTH:
        raise MalformedBodyError(
            f"the JSON is nested deeper than {MAX_DEPTH} levels",
            remedy="An image is a list of 28 lists of 28 numbers, or one list of 784.",
        )
    return structure if is_large else None


def flattened(image: list[Any]) -> list[Any] | None:
    """Return the pixels of a list of 784, or of 28 lists of 28, as one list; None for any other list."""
    if len(image) == PIXELS:
        return image
    if len(image) != IMAGE_SIZE or not all(type(row) is list and len(row) == IMAGE_SIZE for row in image):
        return None
    return list(chain.from_iterable(image))


def pixel_bytes(numbers: list[Any]) -> bytes:
    """Return JSON numbers as bytes.

    Raises:
        InvalidInstanceError: one is not an integer from 0 to 255.
    """
    kinds = set(map(type, numbers))
    if kinds == {int}:
        try:
            return bytes(numbers)
        except (ValueError, OverflowError):
            pass
    elif kinds <= {int, float}:
        array = np.array(numbers, np.float64)
        if ((array >= 0) & (array <= 255) & (array == np.floor(array))).all():
            return array.astype(np.uint8).tobytes()
    index, number = next((i, n) for i, n in enumerate(numbers) if not _is_pixel(n))
    remedy = None
    if type(number) is float and 0 <= number <= 255:
        remedy = (
            "Pixels are integers from 0 to 255; if yours are scaled to 0..1, multiply them by 255 and round."
        )
    raise InvalidInstanceError(f"pixel {index} is {shown(number)}", remedy=remedy)


def _is_pixel(number: Any) -> bool:
    return type(number) in (int, float) and 0 <= number <= 255 and number == int(number)


def shown(value: Any) -> str:
    """Return a JSON value for an error message: a short one as JSON, a long one shortened."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    return shortened(orjson.dumps(value).decode())
