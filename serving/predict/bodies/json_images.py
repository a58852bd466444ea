"""`POST /predict` with `application/json`: `{"instances": [...]}`, images as numbers or as base64 files.

The JSON type of an instance determines its form:

    [[0, ..., 0], ...]       28 lists of 28 numbers 0..255
    [0, ..., 0]              784 numbers 0..255, row by row
                             each may have an axis for its one channel: [28, 28, 1] or [1, 28, 28]
    "iVBORw0KGgo..."         an image file, base64 (RFC 4648, section 4)
    "data:image/png;base64,iVBORw0KGgo..."   an image file as a data URL (RFC 2397)
    {"b64": "iVBORw0KGgo..."}   an image file in the form of TensorFlow Serving and KServe
"""

import binascii
from itertools import chain
from math import inf
from typing import Any

import numpy as np
import numpy.typing as npt

from bundle.images.decoding import PARSERS
from bundle.manifest import IMAGE_SIZE, Polarity
from common.configuration import nearest
from serving.errors import (
    BadQueryError,
    InvalidInstanceError,
    ProblemError,
    TooManyImagesError,
    UnsupportedMediaTypeError,
)
from serving.predict.bodies import json_documents
from serving.predict.bodies.image_files import (
    MAX_RESIZED,
    NOT_RESIZED,
    RESIZED_REMEDY,
    Decoded,
    Resizing,
    decode,
)
from serving.predict.bodies.image_warnings import warnings_of_one
from serving.predict.bodies.media_types import IMAGES, canonical, undeclared
from serving.predict.load_shedding import check_deadline

SIGNATURE, PARAMETERS = "signature_name", "parameters"
"""Members beside 'instances' that are ignored: TensorFlow Serving's clients send the first (a bundle's model has one
signature), Vertex AI's the second."""

_URL_SAFE = str.maketrans("-_", "+/")
_FORMS = "28 lists of 28 numbers, 784 numbers, or a base64 string of an image file"
_EXAMPLE = '{"instances": [image, ...]}'


def read(
    body: bytes,
    polarity: Polarity,
    max_images: int,
    deadline: float = inf,
    resizing: Resizing = NOT_RESIZED,
) -> list[Decoded]:
    """Return the images of a JSON body, in order; the deadline is checked before each.

    Raises:
        ProblemError: the body is not JSON, exceeds a limit, or has an instance that is not an image; or the deadline
            is over.
    """
    instances = _instances(json_documents.read(body, max_images), max_images)
    return decode_all(instances, polarity, deadline, resizing)


def decode_all(
    instances: list[Any], polarity: Polarity, deadline: float = inf, resizing: Resizing = NOT_RESIZED
) -> list[Decoded]:
    """Return the images of instances as `read` does, with the same errors."""
    if resizing.asked and len(instances) > MAX_RESIZED:
        raise TooManyImagesError(
            f"the body has {len(instances)} images to be resized; at most {MAX_RESIZED} are allowed",
            remedy=RESIZED_REMEDY,
        )
    images = []
    for index, instance in enumerate(instances):
        check_deadline(deadline)
        try:
            images.append(_image(instance, polarity, resizing))
        except ProblemError as error:
            error.at_instance(index)
            raise
    return images


def _instances(document: Any, max_images: int) -> list[Any]:
    if not isinstance(document, dict) or "instances" not in document:
        raise InvalidInstanceError(
            f"the body has no 'instances': it is {json_documents.shown(document)}", remedy=f"Send {_EXAMPLE}."
        )
    check_members(document, "instances")
    return checked(document["instances"], "instances", max_images)


def check_members(document: dict[str, Any], *known: str) -> None:
    """Check the members of a body, of which `known` are not ignored.

    Raises:
        InvalidInstanceError: one is unknown, or the signature's name is none.
    """
    if unknown := document.keys() - {*known, SIGNATURE, PARAMETERS}:
        name = min(unknown)[:40]
        raise InvalidInstanceError(
            f"the body has the unknown member '{name}'{nearest(name, known)}",
            remedy=f"Send {_EXAMPLE} without other members; options such as top belong in the query.",
        )
    if not isinstance(name := document.get(SIGNATURE, ""), str):
        raise InvalidInstanceError(
            f"'{SIGNATURE}' is {json_documents.shown(name)}", remedy="Omit it: the model has one signature."
        )


def checked(instances: Any, name: str, max_images: int) -> list[Any]:
    """Return the images that the member `name` lists.

    Raises:
        ProblemError: it is no list, or has no images or too many.
    """
    if not isinstance(instances, list) or not instances:
        raise InvalidInstanceError(
            f"'{name}' is {json_documents.shown(instances)}",
            remedy=f"Send a list of at least one image: {_EXAMPLE.replace('instances', name)}.",
        )
    if len(instances) > max_images:
        raise TooManyImagesError(f"the body has {len(instances)} {name}; at most {max_images} are allowed")
    return instances


def _image(instance: Any, polarity: Polarity, resizing: Resizing) -> Decoded:
    if isinstance(instance, list):
        if resizing.asked:
            raise BadQueryError(
                "the instance is a list of pixels, and 'resize' is for image files",
                remedy="Send image files in base64, or omit resize and send lists of 28x28 pixels.",
            )
        pixels = _pixels(instance)
        return Decoded(pixels=pixels, warnings=warnings_of_one(pixels, polarity))
    if isinstance(instance, dict) and list(instance) == ["b64"]:
        instance = instance["b64"]
    if isinstance(instance, str):
        return _file(instance, polarity, resizing)
    raise InvalidInstanceError(
        f"the instance is {json_documents.shown(instance)}", remedy=f"An image is {_FORMS}."
    )


def _pixels(instance: list[Any]) -> npt.NDArray[np.uint8]:
    numbers = json_documents.flattened(_without_channel(instance))
    if numbers is None:
        remedy = f"An image is {_FORMS}."
        if len(instance) == IMAGE_SIZE and not any(isinstance(row, list) for row in instance):
            remedy = "'instances' is a list of images: wrap a single image in another list."
        raise InvalidInstanceError(
            f"the instance is a list of {len(instance)}, not a {IMAGE_SIZE}x{IMAGE_SIZE} image",
            remedy=remedy,
        )
    return np.frombuffer(json_documents.pixel_bytes(numbers), np.uint8).reshape(IMAGE_SIZE, IMAGE_SIZE)


def _without_channel(instance: list[Any]) -> list[Any]:
    """Return `[28, 28, 1]`, as TensorFlow's clients send, and `[1, 28, 28]` as `[28, 28]`, any other list as it is."""
    rows = instance[0] if len(instance) == 1 else instance
    if not rows or type(rows) is not list or type(rows[0]) is not list:
        return instance
    if rows is instance and rows[0] and type(rows[0][0]) is list:
        is_channel = all(
            type(row) is list and all(type(pixel) is list and len(pixel) == 1 for pixel in row)
            for row in rows
        )
        return [list(chain.from_iterable(row)) for row in rows] if is_channel else instance
    return rows


def _file(text: str, polarity: Polarity, resizing: Resizing) -> Decoded:
    media_type = None
    if text[:5].lower() == "data:":
        head, comma, text = text[5:].partition(",")
        declared, *parameters = [field.strip() for field in head.split(";")]  # RFC 2397, section 3
        media_type = canonical(declared)
        is_image = media_type in PARSERS or undeclared(media_type)
        if not comma or not is_image or not parameters or parameters[-1].lower() != "base64":
            raise UnsupportedMediaTypeError(
                "the data URL is not of an image in base64",
                remedy=f"Begin it with data:image/png;base64, or another supported type: {IMAGES}.",
            )
        if undeclared(media_type):
            media_type = None
    return decode(_from_base64(text), media_type, polarity, resizing)


def _from_base64(text: str) -> bytes:
    """Decode base64, also with line breaks, in the URL-safe alphabet, or without padding.

    Raises:
        InvalidInstanceError: it is not base64 (RFC 4648, sections 4 and 5; MIME's is of RFC 2045, section 6.8).
    """
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:  # binascii.Error is one
        pass
    plain = "".join(text.split()).translate(_URL_SAFE).rstrip("=")
    try:
        return binascii.a2b_base64(plain + "=" * (-len(plain) % 4), strict_mode=True)
    except ValueError as error:
        raise InvalidInstanceError(
            f"the string is not base64: {error}",
            remedy="Encode the image file as defined by RFC 4648, section 4, or send it as a data URL.",
        ) from None
