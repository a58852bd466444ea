"""ModelInfer: from its message to a `PreparedRequest`, and from a batch's outputs to its message.

The message becomes the document that the same request has over REST, which `serving.predict.oip` reads. So both have
the same inputs, limits, warnings and errors.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.errors import InvalidInstanceError, TooManyImagesError
from serving.model.engine import Engine, Outputs
from serving.model.store import ModelStore
from serving.predict import oip
from serving.predict.bodies.image_warnings import summary, warned
from serving.predict.bodies.json_documents import PIXELS
from serving.predict.exchange import PreparedRequest, Request, Response, Target
from serving.predict.load_shedding import check_deadline
from serving.predict.native import cost_of
from serving.predict.pipeline import engine_of
from serving.settings import ServiceSettings
from serving.worker.rpc.messages import message_class, parsed

GRPC = "application/grpc"
PATH = oip.GRPC_INFER

_REQUEST = message_class("inference.ModelInferRequest")
_RESPONSE = message_class("inference.ModelInferResponse")
_OF_REST = frozenset(("binary_data", "binary_data_output", "binary_data_size"))
"""Parameters of REST's binary tensor data, which mean nothing here, and are ignored as unknown ones are."""


def prepare(
    store: ModelStore, _request: Request, body: bytes, settings: ServiceSettings, deadline: float
) -> PreparedRequest:
    """Decode a request; `body` is its message, not compressed.

    Raises:
        ProblemError: the request is rejected.
    """
    message = parsed(_REQUEST, body)
    engine = engine_of(store, message.model_name, message.model_version or None)
    document, raw = _document(message, settings.max_images)
    check_deadline(deadline)
    images, options = oip.read(document, raw, settings.max_images)
    polarity = engine.bundle.manifest.input.polarity
    return PreparedRequest(
        engine=engine,
        images=images,
        encode=partial(encode, engine, options, warned(images, polarity), len(images)),
        cost=cost_of(len(images), decoded=not raw),
    )


TARGET = Target(PATH, model="", prepare=prepare)
"""The message names model and version."""


def encode(
    engine: Engine,
    options: oip.ResponseOptions,
    warnings: Mapping[int, Sequence[str]],
    count: int,
    _images: npt.NDArray[np.uint8],
    outputs: Outputs,
    start: int,
) -> Response:
    """Return the response's message; its outputs are raw or typed as the request's input was."""
    outputs = outputs[start : start + count]
    message = _RESPONSE(
        model_name=engine.bundle.manifest.name, model_version=str(engine.bundle.version), id=options.id or ""
    )
    if warnings:
        message.parameters["warnings"].string_param = summary(warnings)
    for name, raw in options.outputs:
        values: npt.NDArray[np.float32] = getattr(outputs, name)
        tensor = message.outputs.add(name=name, datatype="FP32", shape=values.shape)
        if raw:
            message.raw_output_contents.append(values.astype("<f4", copy=False).tobytes())
        else:
            tensor.contents.fp32_contents.extend(values.ravel().tolist())
    return Response(body=message.SerializeToString(), media_type=GRPC)


def _document(message: Any, max_images: int) -> tuple[dict[str, Any], bytes]:
    """Return a request as over REST: its JSON, and the raw tensor that would follow it."""
    raw = message.raw_input_contents
    document = {
        "id": message.id,
        "parameters": _parameters(message) | {"binary_data_output": bool(raw)},
        "outputs": [{"name": output.name, "parameters": _parameters(output)} for output in message.outputs],
    }
    if len(message.inputs) != 1:
        return document | {"inputs": [None] * len(message.inputs)}, b""
    (tensor,) = message.inputs
    if raw and len(raw) != 1:
        raise InvalidInstanceError(
            f"'raw_input_contents' has {len(raw)} elements, but there is one input",
            remedy="Send the bytes of all images as one element.",
        )
    parameters = _parameters(tensor)
    given = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
    if not raw:
        return document | {
            "inputs": [given | {"parameters": parameters, "data": _numbers(tensor, max_images)}]
        }, b""
    if tensor.contents.ListFields():
        raise InvalidInstanceError(
            "the input has both 'contents' and 'raw_input_contents'", remedy="Send one of them."
        )
    return document | {
        "inputs": [given | {"parameters": parameters | {"binary_data_size": len(raw[0])}}]
    }, raw[0]


def _numbers(tensor: Any, max_images: int) -> list[Any]:
    """Return the contents of an input, of whichever kind of number."""
    found = tensor.contents.ListFields()
    if not found:
        return []
    field, values = found[0]
    if len(found) > 1 or field.name == "bytes_contents":
        raise InvalidInstanceError(
            f"the input's contents are in {' and '.join(repr(one.name) for one, _ in found)}",
            remedy="Send the pixels as 'uint_contents', or their bytes as one element of 'raw_input_contents'.",
        )
    if len(values) > max_images * PIXELS:
        raise TooManyImagesError(
            f"the input has {len(values)} pixels; at most {max_images} images are allowed"
        )
    return list(values)


def _parameters(holder: Any) -> dict[str, Any]:
    return {
        name: getattr(value, kind) if (kind := value.WhichOneof("parameter_choice")) else None
        for name, value in holder.parameters.items()
        if name not in _OF_REST
    }
