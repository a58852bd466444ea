"""The Open Inference Protocol, version 2, over REST: `.../infer`, with the binary tensor data extension.

Sources: kserve/open-inference-protocol, specification/protocol/inference_rest.md; Triton's
docs/protocol/extension_binary_data.md. The protocol's other paths are in `oip_metadata`.
"""

import re
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from math import inf
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from bundle.manifest import IMAGE_SIZE
from common.configuration import nearest
from serving.errors import (
    InvalidInstanceError,
    MalformedBodyError,
    ProblemError,
    TooManyImagesError,
)
from serving.model.engine import Engine, Outputs
from serving.predict import query
from serving.predict.bodies import json_documents, raw_pixels
from serving.predict.exchange import PreparedRequest, Request, Response, Target
from serving.predict.load_shedding import check_deadline
from serving.predict.native import cost_of
from serving.settings import ServiceSettings

HEADER_LENGTH = "Inference-Header-Content-Length"
OCTET_STREAM = "application/octet-stream"
INPUT = "images"
OUTPUTS = ("logits", "probabilities")

_PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
_LENGTH = re.compile(r"[0-9]{1,10}")
_UNSUPPORTED_PARAMETERS = ("classification", "shared_memory_region")
"""Parameters of Triton's extensions that change what data means, and that are not offered here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResponseOptions:
    """What a request asks of its answer."""

    id: str | None
    outputs: tuple[tuple[str, bool], ...]
    """Names, and whether each is sent as binary data."""


def is_path(path: str) -> bool:
    """Tell whether a path is the protocol's, whose errors have a form of their own."""
    return path == "/v2" or path.startswith("/v2/")


def target(path: str) -> Target | None:
    """Return what an `infer` path names, or None if the path is another."""
    match = _PATH.fullmatch(path) if path.startswith("/v2/models/") else None
    if match is None:
        return None
    version = "" if match[2] is None else "/versions/{version}"
    return Target(f"/v2/models/{{model}}{version}/infer", match[1], match[2])


def prepare(
    engine: Engine, request: Request, body: bytes, settings: ServiceSettings, deadline: float = inf
) -> PreparedRequest:
    """Read an inference request, its content coding undone; the deadline is looked at when the JSON is parsed.

    Raises:
        ProblemError: the request cannot be answered.
    """
    query.reject(request.query)
    length = _header_length(request.headers.get(HEADER_LENGTH.lower()), len(body))
    if length == 0:
        images = raw_pixels.read_raw(body, settings.max_images)
        options = ResponseOptions(id=None, outputs=tuple((name, True) for name in OUTPUTS))
    else:
        document = _object(json_documents.read(body[:length], settings.max_images), "the request")
        check_deadline(deadline)
        images = _images(document, body[length:], settings.max_images)
        options = _response_options(document)
    return PreparedRequest(
        engine=engine,
        images=images,
        encode=partial(encode, engine, options, len(images)),
        cost=cost_of(len(images), decoded=length > len(body) // 2),  # numbers in JSON
    )


def encode(
    engine: Engine, options: ResponseOptions, count: int, _images: Any, outputs: Outputs, start: int
) -> Response:
    """Return the inference response: JSON alone, or JSON with the binary tensors behind it."""
    outputs = outputs[start : start + count]
    document: dict[str, Any] = {
        "model_name": engine.bundle.manifest.name,
        "model_version": str(engine.bundle.version),
    }
    if options.id is not None:
        document["id"] = options.id
    tensors, binary = [], []
    for name, as_bytes in options.outputs:
        values: npt.NDArray[np.float32] = getattr(outputs, name)
        tensor: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": values.shape}
        if as_bytes:
            binary.append(values.astype("<f4", copy=False).tobytes())
            tensor["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            tensor["data"] = np.ascontiguousarray(values).reshape(-1)
        tensors.append(tensor)
    document["outputs"] = tensors
    header = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not binary:
        return Response(body=header)
    return Response(
        body=b"".join((header, *binary)), media_type=OCTET_STREAM, headers={HEADER_LENGTH: str(len(header))}
    )


def problem(error: ProblemError) -> Response:
    """Return an error in the protocol's form; what was wrong and the remedy are one message.

    The protocol says "typically 400", so that what is 422 elsewhere is 400 here.
    """
    unprocessable = error.status == HTTPStatus.UNPROCESSABLE_ENTITY
    return Response(
        body=orjson.dumps({"error": f"{error.detail}. {error.remedy}"}),
        status=HTTPStatus.BAD_REQUEST if unprocessable else error.status,
        headers=dict(error.headers),
    )


def _header_length(sent: str | None, size: int) -> int:
    if sent is None:
        return max(size, 1)  # an empty body is no JSON; it is no raw tensor either
    if not _LENGTH.fullmatch(sent) or int(sent) > size:
        raise MalformedBodyError(
            f"{HEADER_LENGTH} is '{sent[:40]}', the body has {size} bytes",
            remedy="Give the length in bytes of the JSON before the tensors; 0 if the body is one raw tensor.",
        )
    return int(sent)


def _images(document: dict[str, Any], binary: bytes, max_images: int) -> npt.NDArray[np.uint8]:
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        raise _invalid(f"'inputs' is {_shown(document, 'inputs')}", f"Send a list of one input, '{INPUT}'.")
    tensor = _object(inputs[0], "the input")
    name, datatype = tensor.get("name"), tensor.get("datatype")
    if name != INPUT:
        hint = nearest(name[:40], [INPUT]) if isinstance(name, str) else ""
        raise _invalid(
            f"the input's name is {_shown(tensor, 'name')}{hint}", f"The model has one input, '{INPUT}'."
        )
    if datatype != "UINT8":
        raise _invalid(
            f"the datatype of '{INPUT}' is {_shown(tensor, 'datatype')}", "Send UINT8, pixels from 0 to 255."
        )
    shape = _shape(tensor, max_images)
    size = _parameters(tensor, "the input").get("binary_data_size")
    if size is None:
        if binary:
            raise _invalid(
                f"{len(binary)} bytes follow the JSON and no input has 'binary_data_size'",
                f"Name their number there, or leave {HEADER_LENGTH} out.",
            )
        data = _from_json(tensor, shape)
    else:
        if "data" in tensor:
            raise _invalid("the input has 'data' and 'binary_data_size'", "Send one of them.")
        if type(size) is not int or size != len(binary):
            raise _invalid(
                f"'binary_data_size' is {json_documents.shown(size)}, {len(binary)} bytes follow the JSON",
                f"Both are the tensor's size, and {HEADER_LENGTH} is the size of the JSON alone.",
            )
        data = binary
    wanted = shape[0] * raw_pixels.IMAGE_BYTES
    if len(data) != wanted:
        raise _invalid(
            f"the input has {len(data)} elements, its shape has {wanted}", "Send data and shape that agree."
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def _shape(tensor: dict[str, Any], max_images: int) -> tuple[int, int, int]:
    shape = tensor.get("shape")
    axes: list[Any] = shape if isinstance(shape, list) else [shape]
    if all((type(axis) is float and axis.is_integer()) or type(axis) is int for axis in axes):
        axes = list(map(int, axes))  # JSON has one kind of number, and 2.0 is an integer to JSON Schema
    if [type(axis) for axis in axes] != [int] * 3 or axes[1:] != [IMAGE_SIZE] * 2 or axes[0] < 1:
        written = ", ".join(map(json_documents.shown, axes[:8]))
        raise _invalid(
            f"the shape of '{INPUT}' is [{written}]", f"It is [N, {IMAGE_SIZE}, {IMAGE_SIZE}], N at least 1."
        )
    if axes[0] > max_images:
        raise TooManyImagesError(
            f"the input has {axes[0]} images; {max_images} are allowed",
            remedy="Send them in several requests, or raise GLYPH_MAX_IMAGES.",
        )
    return axes[0], IMAGE_SIZE, IMAGE_SIZE


def _from_json(tensor: dict[str, Any], shape: tuple[int, int, int]) -> bytes:
    """Return `data` as bytes, whether it is flat or has the shape's dimensions."""
    data = tensor.get("data")
    if not isinstance(data, list):
        raise _invalid(
            f"'data' of '{INPUT}' is {_shown(tensor, 'data')}",
            "Send a list of numbers, or 'binary_data_size' and the bytes behind the JSON.",
        )
    if not data or not isinstance(data[0], list):
        return json_documents.pixel_bytes(data)
    flat: list[Any] = []
    for image in data:
        numbers = (
            json_documents.flattened(image) if isinstance(image, list) and len(image) == IMAGE_SIZE else None
        )
        if numbers is None:
            raise _invalid(
                "'data' is nested otherwise than the shape", f"Its shape is {list(shape)}; or send it flat."
            )
        flat += numbers
    return json_documents.pixel_bytes(flat)


def _response_options(document: dict[str, Any]) -> ResponseOptions:
    identifier = document.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise _invalid(f"'id' is {_shown(document, 'id')}", "Send a string, or leave it out.")
    default = _flag(_parameters(document, "the request"), "binary_data_output", default=False)
    wanted = document.get("outputs")
    if wanted is None or wanted == []:
        return ResponseOptions(id=identifier, outputs=tuple((name, default) for name in OUTPUTS))
    if not isinstance(wanted, list):
        raise _invalid(f"'outputs' is {_shown(document, 'outputs')}", "Send a list, or leave it out for all.")
    outputs: dict[str, bool] = {}
    for entry in wanted:
        output = _object(entry, "an output")
        name = output.get("name")
        if name not in OUTPUTS or name in outputs:
            hint = nearest(name[:40], OUTPUTS) if isinstance(name, str) and name not in OUTPUTS else ""
            raise _invalid(
                f"an output's name is {_shown(output, 'name')}{hint}",
                f"Ask once for each of {', '.join(OUTPUTS)}.",
            )
        outputs[name] = _flag(_parameters(output, "an output"), "binary_data", default=default)
    return ResponseOptions(id=identifier, outputs=tuple(outputs.items()))


def _parameters(holder: dict[str, Any], whose: str) -> dict[str, Any]:
    """Return the parameters; those that are not known are left to others, as the protocol has it."""
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    parameters = _object(parameters, f"the parameters of {whose}")
    for name, value in parameters.items():
        if not isinstance(value, str | int | float | bool):
            raise _invalid(
                f"the parameter '{name[:40]}' of {whose} is {json_documents.shown(value)}",
                "A parameter's value is a string, a number or a boolean.",
            )
        if name in _UNSUPPORTED_PARAMETERS:
            raise _invalid(
                f"the parameter '{name}' is of an extension that is not offered", "See the extensions in /v2."
            )
    return parameters


def _flag(parameters: dict[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise _invalid(f"the parameter '{name}' is {json_documents.shown(value)}", "Send true or false.")
    return value


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _invalid(f"{what} is {json_documents.shown(value)}", "Send an object, as the protocol has it.")
    return value


def _shown(holder: dict[str, Any], name: str) -> str:
    return json_documents.shown(holder[name]) if name in holder else "missing"


def _invalid(detail: str, remedy: str) -> InvalidInstanceError:
    return InvalidInstanceError(detail, remedy=remedy)
