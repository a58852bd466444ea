"""Inference requests of the Open Inference Protocol, version 2, over REST, with the binary tensor data extension.

Sources: kserve/open-inference-protocol, specification/protocol/inference_rest.md; Triton's
docs/protocol/extension_binary_data.md. The protocol's other paths are in `serving/web/oip_metadata.py`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from math import inf
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from bundle.images.numbers import CONVERT
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
from serving.predict.bodies.image_warnings import summary, warned
from serving.predict.exchange import PreparedRequest, Request, Response, Target
from serving.predict.load_shedding import check_deadline
from serving.predict.native import cost_of
from serving.settings import ServiceSettings

HEADER_LENGTH = "Inference-Header-Content-Length"
OCTET_STREAM = "application/octet-stream"
INPUT = "images"
OUTPUTS = ("logits", "probabilities")

ROUTES = ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer")
"""The templates of its prediction routes, without and with a version."""
GRPC_PATH = "/inference.GRPCInferenceService/"
"""Prefix of the protocol's paths over gRPC, which `serving.worker.rpc` answers."""
GRPC_INFER = f"{GRPC_PATH}ModelInfer"

_PATH = re.compile(r"/v2/models/([^/:]+)(?:/versions/([^/:]+))?/infer")
_LENGTH = re.compile(r"[0-9]{1,10}")
_UNSUPPORTED_PARAMETERS = ("classification", "shared_memory_region")
"""Parameters of unsupported Triton extensions that would change the meaning of the data."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResponseOptions:
    """What the client asks of its response."""

    id: str | None
    """The request's id, which the response repeats."""
    outputs: tuple[tuple[str, bool], ...]
    """Names of the outputs, and whether each is sent as binary data."""


def is_path(path: str) -> bool:
    """Tell whether a path belongs to the protocol, which defines its own form of errors."""
    return path == "/v2" or path.startswith(("/v2/", GRPC_PATH))


def target(path: str) -> Target | None:
    """Return what an `infer` path names; None for other paths."""
    match = _PATH.fullmatch(path) if path.startswith("/v2/models/") else None
    if match is None:
        return None
    return Target(ROUTES[match[2] is not None], match[1], match[2])


def prepare(
    engine: Engine, request: Request, body: bytes, settings: ServiceSettings, deadline: float = inf
) -> PreparedRequest:
    """Decode an inference request; `body` is without content coding. The deadline is checked after parsing the JSON.

    Raises:
        ProblemError: the request is rejected.
    """
    query.reject(request.query)
    polarity = engine.bundle.manifest.input.polarity
    length = _header_length(request.headers.get(HEADER_LENGTH.lower()), len(body))
    if length == 0:
        images = raw_pixels.read_raw(body, settings.max_images)
        options = ResponseOptions(id=None, outputs=tuple((name, True) for name in OUTPUTS))
    else:
        document = _object(json_documents.read(body[:length], settings.max_images), "the request")
        check_deadline(deadline)
        images, options = read(document, memoryview(body)[length:], settings.max_images)
    return PreparedRequest(
        engine=engine,
        images=images,
        encode=partial(encode, engine, options, warned(images, polarity), len(images)),
        cost=cost_of(len(images), decoded=length > len(body) // 2),  # numbers in JSON
    )


def read(
    document: dict[str, Any], binary: bytes | memoryview, max_images: int
) -> tuple[npt.NDArray[np.uint8], ResponseOptions]:
    """Return the images and the options of a request, given its JSON and what follows it.

    Raises:
        ProblemError: the request is rejected.
    """
    return _images(document, binary, max_images), _response_options(document)


def encode(
    engine: Engine,
    options: ResponseOptions,
    warnings: Mapping[int, Sequence[str]],
    count: int,
    _images: Any,
    outputs: Outputs,
    start: int,
) -> Response:
    """Return the inference response: JSON, followed by the tensors that are sent as binary data.

    The protocol has no member for warnings. It lets a response have parameters, whose values are strings, numbers
    and booleans, so they are the parameter `warnings`, which is there only if an image has one.
    """
    outputs = outputs[start : start + count]
    document: dict[str, Any] = {
        "model_name": engine.bundle.manifest.name,
        "model_version": str(engine.bundle.version),
    }
    if options.id is not None:
        document["id"] = options.id
    if warnings:
        document["parameters"] = {"warnings": summary(warnings)}
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
    """Return an error in the protocol's form, detail and remedy in one message.

    The protocol says "typically 400", so 422 becomes 400.
    """
    stop = "" if error.detail.endswith("?") else "."
    unprocessable = error.status == HTTPStatus.UNPROCESSABLE_ENTITY
    return Response(
        body=orjson.dumps({"error": f"{error.detail}{stop} {error.remedy}"}),
        status=HTTPStatus.BAD_REQUEST if unprocessable else error.status,
        headers=dict(error.headers),
    )


def _header_length(sent: str | None, size: int) -> int:
    if sent is None:
        # At least 1, so that an empty body is rejected as JSON, not as a raw tensor.
        return max(size, 1)
    if not _LENGTH.fullmatch(sent) or int(sent) > size:
        raise MalformedBodyError(
            f"{HEADER_LENGTH} is '{sent[:40]}', but the body has {size} bytes",
            remedy="Set it to the length in bytes of the JSON before the tensors, or to 0 if the body is one raw "
            "tensor.",
        )
    return int(sent)


def _images(document: dict[str, Any], binary: bytes | memoryview, max_images: int) -> npt.NDArray[np.uint8]:
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        raise _invalid(f"'inputs' is {_shown(document, 'inputs')}", f"Send a list with one input, '{INPUT}'.")
    tensor = _object(inputs[0], "the input")
    name, datatype = tensor.get("name"), tensor.get("datatype")
    if name != INPUT:
        hint = nearest(name[:40], [INPUT]) if isinstance(name, str) else ""
        raise _invalid(
            f"the input's name is {_shown(tensor, 'name')}{hint}", f"The model has one input, '{INPUT}'."
        )
    if datatype != "UINT8":
        raise _invalid(
            f"the datatype of '{INPUT}' is {_shown(tensor, 'datatype')}",
            f"Send UINT8, pixels from 0 to 255: {CONVERT}.",
        )
    shape = _shape(tensor, max_images)
    size = _parameters(tensor, "the input").get("binary_data_size")
    if size is None:
        if binary:
            raise _invalid(
                f"{len(binary)} bytes follow the JSON, but the input has no 'binary_data_size'",
                f"Set 'binary_data_size' to their number, or omit {HEADER_LENGTH}.",
            )
        data: bytes | memoryview = _from_json(tensor, shape)
    else:
        if "data" in tensor:
            raise _invalid("the input has both 'data' and 'binary_data_size'", "Send one of them.")
        if type(size) is not int or size != len(binary):
            raise _invalid(
                f"'binary_data_size' is {json_documents.shown(size)}, but {len(binary)} bytes follow the JSON",
                f"Both must be the size of the tensor; {HEADER_LENGTH} is the size of the JSON alone.",
            )
        data = binary
    wanted = shape[0] * json_documents.PIXELS
    if len(data) != wanted:
        raise _invalid(
            f"the input has {len(data)} elements, but its shape has {wanted}",
            "Send as many elements as the shape has.",
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def _shape(tensor: dict[str, Any], max_images: int) -> tuple[int, int, int]:
    shape = tensor.get("shape")
    axes: list[Any] = shape if isinstance(shape, list) else [shape]
    if all((type(axis) is float and axis.is_integer()) or type(axis) is int for axis in axes):
        axes = list(map(int, axes))  # to JSON Schema, 2.0 is an integer
    if [type(axis) for axis in axes] != [int] * 3 or axes[1:] != [IMAGE_SIZE] * 2 or axes[0] < 1:
        written = ", ".join(map(json_documents.shown, axes[:8]))
        raise _invalid(
            f"the shape of '{INPUT}' is [{written}]",
            f"It must be [N, {IMAGE_SIZE}, {IMAGE_SIZE}], N at least 1.",
        )
    if axes[0] > max_images:
        raise TooManyImagesError(f"the input has {axes[0]} images; at most {max_images} are allowed")
    return axes[0], IMAGE_SIZE, IMAGE_SIZE


def _from_json(tensor: dict[str, Any], shape: tuple[int, int, int]) -> bytes:
    """Return `data` as bytes; it may be flat, or nested as the shape is."""
    data = tensor.get("data")
    if not isinstance(data, list):
        raise _invalid(
            f"'data' of '{INPUT}' is {_shown(tensor, 'data')}",
            "Send a list of numbers, or 'binary_data_size' and the bytes after the JSON.",
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
                "the nesting of 'data' does not match the shape",
                f"Nest it as {list(shape)}, or send it flat.",
            )
        flat += numbers
    return json_documents.pixel_bytes(flat)


def _response_options(document: dict[str, Any]) -> ResponseOptions:
    identifier = document.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise _invalid(f"'id' is {_shown(document, 'id')}", "Send a string, or omit it.")
    default = _flag(_parameters(document, "the request"), "binary_data_output", default=False)
    wanted = document.get("outputs")
    if wanted is None or wanted == []:
        return ResponseOptions(id=identifier, outputs=tuple((name, default) for name in OUTPUTS))
    if not isinstance(wanted, list):
        raise _invalid(
            f"'outputs' is {_shown(document, 'outputs')}", "Send a list, or omit it to get all outputs."
        )
    outputs: dict[str, bool] = {}
    for entry in wanted:
        output = _object(entry, "an output")
        name = output.get("name")
        if name not in OUTPUTS or name in outputs:
            hint = nearest(name[:40], OUTPUTS) if isinstance(name, str) and name not in OUTPUTS else ""
            raise _invalid(
                f"an output's name is {_shown(output, 'name')}{hint}",
                f"Request each of {', '.join(OUTPUTS)} at most once.",
            )
        outputs[name] = _flag(_parameters(output, "an output"), "binary_data", default=default)
    return ResponseOptions(id=identifier, outputs=tuple(outputs.items()))


def _parameters(holder: dict[str, Any], whose: str) -> dict[str, Any]:
    """Return the parameters; unknown ones are ignored, as the protocol requires."""
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    parameters = _object(parameters, f"the parameters of {whose}")
    for name, value in parameters.items():
        if not isinstance(value, str | int | float | bool):
            raise _invalid(
                f"the parameter '{name[:40]}' of {whose} is {json_documents.shown(value)}",
                "The value of a parameter is a string, a number or a boolean.",
            )
        if name in _UNSUPPORTED_PARAMETERS:
            raise _invalid(
                f"the parameter '{name}' belongs to an unsupported extension", "GET /v2 lists the extensions."
            )
    return parameters


def _flag(parameters: dict[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise _invalid(f"the parameter '{name}' is {json_documents.shown(value)}", "Send true or false.")
    return value


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _invalid(f"{what} is {json_documents.shown(value)}", "The protocol requires a JSON object.")
    return value


def _shown(holder: dict[str, Any], name: str) -> str:
    return json_documents.shown(holder[name]) if name in holder else "missing"


def _invalid(detail: str, remedy: str) -> InvalidInstanceError:
    return InvalidInstanceError(detail, remedy=remedy)
