"""`POST /predict` with `application/json`: `{"instances": [...]}`, images as numbers or as base64 files.

The JSON type of an instance determines its form:

    [[0, ..., 0], ...]       28 lists of 28 numbers 0..255
    [0, ..., 0]              784 numbers 0..255, row by row
    "iVBORw0KGgo..."         an image file, base64 (RFC 4648, section 4)
    "data:image/png;base64,iVBORw0KGgo..."   an image file as a data URL (RFC 2397)
    {"b64": "iVBORw0KGgo..."}   an image file in the form of TensorFlow Serving and KServe
"""

import binascii
from math import inf
from typing import Any

import numpy as np
import numpy.typing as npt

from bundle.images.decoding import PARSERS
from bundle.manifest import IMAGE_SIZE, Polarity
from common.configuration import nearest
from serving.errors import InvalidInstanceError, ProblemError, TooManyImagesError, UnsupportedMediaTypeError
from serving.predict.bodies import json_documents
from serving.predict.bodies.image_files import SUPPORTED, Decoded, canonical, decode, warnings_of
from serving.predict.load_shedding import check_deadline

_FORMS = "28 lists of 28 numbers, 784 numbers, or a base64 string of an image file"
_EXAMPLE = '{"instances": [image, ...]}'


def read(body: bytes, polarity: Polarity, max_images: int, deadline: float = inf) -> list[Decoded]:
    """Return the images of a JSON body, in order; the deadline is checked before each.

    Raises:
        ProblemError: the body is not JSON, exceeds a limit, or has an instance that is not an image; or the deadline
            is over.
    """
    instances = _instances(json_documents.read(body, max_images), max_images)
    images = []
    for index, instance in enumerate(instances):
        check_deadline(deadline)
        try:
            images.append(_image(instance, polarity))
        except ProblemError as error:
            error.at_instance(index)
            raise
    return images


def _instances(document: Any, max_images: int) -> list[Any]:
    if not isinstance(document, dict) or "instances" not in document:
        raise InvalidInstanceError(
            f"the body has no 'instances': it is {json_documents.shown(document)}", remedy=f"Send {_EXAMPLE}."
        )
    if unknown := document.keys() - {"instances"}:
        name = min(unknown)[:40]
        raise InvalidInstanceError(
            f"the body has the unknown member '{name}'{nearest(name, ['instances'])}",
            remedy=f"Send {_EXAMPLE} without other members; options such as top belong in the query.",
        )
    instances = document["instances"]
    if not isinstance(instances, list) or not instances:
        raise InvalidInstanceError(
            f"'instances' is {json_documents.shown(instances)}",
            remedy=f"Send a list of at least one image: {_EXAMPLE}.",
        )
    if len(instances) > max_images:
        raise TooManyImagesError(f"the body has {len(instances)} instances; at most {max_images} are allowed")
    return instances


def _image(instance: Any, polarity: Polarity) -> Decoded:
    if isinstance(instance, list):
        pixels = _pixels(instance)
        return Decoded(pixels=pixels, warnings=warnings_of(pixels[None], polarity)[0])
    if isinstance(instance, dict) and list(instance) == ["b64"]:
        instance = instance["b64"]
    if isinstance(instance, str):
        return _file(instance, polarity)
    raise InvalidInstanceError(
        f"the instance is {json_documents.shown(instance)}", remedy=f"An image is {_FORMS}."
    )


def _pixels(instance: list[Any]) -> npt.NDArray[np.uint8]:
    numbers = json_documents.flattened(instance)
    if numbers is None:
        remedy = f"An image is {_FORMS}."
        if len(instance) == IMAGE_SIZE and not any(isinstance(row, list) for row in instance):
            remedy = "'instances' is a list of images: wrap a single image in another list."
        raise InvalidInstanceError(
            f"the instance is a list of {len(instance)}, not a {IMAGE_SIZE}x{IMAGE_SIZE} image",
            remedy=remedy,
        )
    return np.frombuffer(json_documents.pixel_bytes(numbers), np.uint8).reshape(IMAGE_SIZE, IMAGE_SIZE)


def _file(text: str, polarity: Polarity) -> Decoded:
    media_type = None
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        media_type = canonical(head.removeprefix("data:").removesuffix(";base64"))
        if not comma or not head.endswith(";base64") or media_type not in PARSERS:
            raise UnsupportedMediaTypeError(
                "the data URL is not of an image in base64",
                remedy=f"Begin it with data:image/png;base64, or another supported type: {SUPPORTED}.",
            )
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:  # binascii.Error is one
        raise InvalidInstanceError(
            f"the string is not base64: {error}",
            remedy="Encode the image file as defined by RFC 4648, section 4: with padding, without line breaks.",
        ) from None
    return decode(data, media_type, polarity)
