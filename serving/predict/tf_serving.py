"""Predictions of TensorFlow Serving's REST API, which is the V1 protocol of KServe.

    POST /v1/models/{model}:predict                         of the served version
    POST /v1/models/{model}/versions/{version}:predict      of another one that is loaded

    {"instances": [image, ...]}              row format        -> {"predictions": [[p, ...], ...]}
    {"inputs": [image, ...]}                 columnar format   -> {"outputs": [[p, ...], ...]}

An image is what it is in `POST /predict` (`bodies/json_images.py`), or `{"images": image}`, by the name of the model's
input; in the columnar format so may be all: `{"images": [image, ...]}`. An answer has for each image its calibrated
probabilities in the classes' order, as of a model with one output. Errors have the form `{"error": "..."}`.

The body is JSON whatever its content type, as curl's -d declares another. Labels and warnings have no place in an
answer: `GET /metadata` has the classes, `POST /predict` answers with both.

Sources: tensorflow/serving, tensorflow_serving/g3doc/api_rest.md, Predict API; kserve.github.io, Data Plane, V1
Protocol, which says that all InferenceServices speak the former.
"""

import re
from functools import partial
from math import inf
from typing import Any

import numpy as np
import orjson

from serving.errors import EmptyBodyError, InvalidInstanceError
from serving.model.engine import Engine, Outputs
from serving.predict import query
from serving.predict.bodies import json_documents, json_images
from serving.predict.exchange import PreparedRequest, Request, Response, Target
from serving.predict.native import cost_of
from serving.predict.oip import INPUT
from serving.settings import ServiceSettings

PREFIX = "/v1/models"
ROUTES = (f"{PREFIX}/{{model}}:predict", f"{PREFIX}/{{model}}/versions/{{version}}:predict")
"""The templates of its prediction routes, without and with a version."""
ANSWERS = {"instances": "predictions", "inputs": "outputs"}
"""The member of an answer, by that of a request."""

_PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/([^/:]+))?:predict")


def is_path(path: str) -> bool:
    """Tell whether a path belongs to the protocol, which defines its own form of errors."""
    return path == PREFIX or path.startswith(PREFIX + "/")


def target(path: str) -> Target | None:
    """Return what a `:predict` path names; None for other paths."""
    match = _PATH.fullmatch(path) if path.startswith(PREFIX) else None
    if match is None:
        return None
    return Target(ROUTES[match[2] is not None], match[1], match[2])


def prepare(
    engine: Engine, request: Request, body: bytes, settings: ServiceSettings, deadline: float = inf
) -> PreparedRequest:
    """Decode a request; `body` is without content coding. The deadline is checked before each image.

    Raises:
        ProblemError: the request is rejected.
    """
    query.reject(request.query)
    if not body:
        raise EmptyBodyError(remedy='Send JSON: {"instances": [image, ...]}.')
    form, instances = _instances(json_documents.read(body, settings.max_images), settings.max_images)
    decoded = json_images.decode_all(instances, engine.bundle.manifest.input.polarity, deadline)
    return PreparedRequest(
        engine=engine,
        images=np.stack([image.pixels for image in decoded]),
        encode=partial(encode, ANSWERS[form], len(decoded)),
        cost=cost_of(len(decoded), decoded=True),
    )


def encode(member: str, count: int, _images: Any, outputs: Outputs, start: int) -> Response:
    """Return the response, whose one member lists the probabilities of each image."""
    rows = np.ascontiguousarray(outputs.probabilities[start : start + count])
    return Response(body=orjson.dumps({member: rows}, option=orjson.OPT_SERIALIZE_NUMPY))


def _instances(document: Any, max_images: int) -> tuple[str, list[Any]]:
    """Return the member that holds the images, and the images."""
    given = [name for name in ANSWERS if isinstance(document, dict) and name in document]
    if len(given) != 1:
        has = "both 'instances' and 'inputs'" if given else "neither 'instances' nor 'inputs'"
        raise InvalidInstanceError(
            f"the body has {has}: it is {json_documents.shown(document)}",
            remedy='Send {"instances": [image, ...]}.',
        )
    (form,) = given
    json_images.check_members(document, form)
    images = json_images.checked(_unnamed(document[form]), form, max_images)
    return form, [_unnamed(image) for image in images]


def _unnamed(value: Any) -> Any:
    """Return the tensor of `{"images": tensor}`, and any other value as it is."""
    return value[INPUT] if isinstance(value, dict) and list(value) == [INPUT] else value
