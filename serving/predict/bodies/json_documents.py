"""JSON bodies, read within limits: how deep they nest and how many values they hold is known before parsing.

A parsed value takes up to 64 bytes where two or three stood in the body, so that a body within its
own limit could otherwise fill twenty times its size of memory.
"""

from itertools import chain
from typing import Any

import numpy as np
import orjson

from bundle.manifest import IMAGE_SIZE
from serving.errors import InvalidInstanceError, MalformedBodyError, TooManyImagesError
from serving.predict.bodies import json_pieces

MAX_DEPTH = 16
"""Nested arrays and objects; an Open Inference Protocol request has 6."""
PIXELS = IMAGE_SIZE * IMAGE_SIZE
VALUES_BESIDE_PIXELS = 1024
"""Names, parameters and the like in one body."""
AT_ONCE = 128 << 10
"""Bodies up to this size are parsed in one go, which takes a millisecond."""


def read(body: bytes, max_images: int) -> Any:
    """Parse a JSON body.

    Raises:
        MalformedBodyError: it is not JSON (RFC 8259, which has no NaN and no infinities), or too deep.
        TooManyImagesError: it has more values than `max_images` images can have.
    """
    structure = _checked(body, max_images)
    try:
        return orjson.loads(body) if structure is None else json_pieces.loads(body, structure)
    except orjson.JSONDecodeError as error:
        raise MalformedBodyError(
            f"the body is not JSON: {error}",
            remedy="Send JSON as RFC 8259 has it, in UTF-8; NaN and Infinity are not among its numbers.",
        ) from None
    except json_pieces.ScatteredError as error:
        raise MalformedBodyError(
            f"the JSON cannot be read in pieces: {error}",
            remedy="Send the images as one list, and no large member beside it.",
        ) from None


def _checked(body: bytes, max_images: int) -> json_pieces.Structure | None:
    """Check the structure; return it of a body that is too large to be parsed in one go."""
    is_large = len(body) > AT_ONCE
    most = max_images * (PIXELS + 2 * IMAGE_SIZE) + VALUES_BESIDE_PIXELS
    if not is_large:
        opened = body.count(b"[") + body.count(b"{")
        if opened <= MAX_DEPTH and opened + body.count(b",") <= most:
            return None
    structure = json_pieces.structure(body, most)
    if structure is None:
        raise TooManyImagesError(
            f"the JSON has more values than {max_images} images have",
            remedy=f"Send at most {max_images} images in one request, or raise GLYPH_MAX_IMAGES.",
        )
    if structure.depths.max(initial=0) > MAX_DEPTH:
        raise MalformedBodyError(
            f"the JSON nests deeper than {MAX_DEPTH} levels",
            remedy="An image is a list of 28 lists of 28 numbers, or one list of 784.",
        )
    return structure if is_large else None


def flattened(image: list[Any]) -> list[Any] | None:
    """Return the pixels of a 28x28 or 784 list in one list; None if it is neither."""
    if len(image) == PIXELS:
        return image
    if len(image) != IMAGE_SIZE or not all(type(row) is list and len(row) == IMAGE_SIZE for row in image):
        return None
    return list(chain.from_iterable(image))


def pixel_bytes(numbers: list[Any]) -> bytes:
    """Return JSON numbers as bytes.

    Raises:
        InvalidInstanceError: one is no number, no whole number, or not in 0..255.
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
    if type(number) is float and 0 <= number <= 255:
        remedy = "Pixels are whole numbers; if yours were scaled to 0..1, multiply them by 255 and round."
    else:
        remedy = "Pixels are whole numbers from 0 to 255."
    raise InvalidInstanceError(f"pixel {index} is {shown(number)}", remedy=remedy)


def _is_pixel(number: Any) -> bool:
    return type(number) in (int, float) and 0 <= number <= 255 and number == int(number)


def shown(value: Any) -> str:
    """Return a JSON value as an error says it: short, and as it was written where that is short."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    text = orjson.dumps(value).decode()
    return text if len(text) <= 40 else f"{text[:40]}..."
