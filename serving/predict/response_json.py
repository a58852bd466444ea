"""From probabilities to the JSON of `POST /predict`.

The document is assembled from fragments that are the same in every response of a model. orjson serialises the
numbers, and all text from clients and manifests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from bundle.repository import Bundle
from serving.model.engine import Outputs
from serving.predict.bodies.image_warnings import warnings_of_one
from serving.predict.exchange import Response
from serving.predict.query import Query

_PREDICTION = b'{%b,"probability":%b,"probabilities":{%b},"warnings":%b'
"""A prediction up to its warnings, without the end: label and index, probability, classes, warnings."""
_UNNAMED = b'"label":null,"index":null'


def encode(
    bundle: Bundle,
    query: Query,
    filenames: Sequence[str | None] | None,
    warnings: Sequence[tuple[str, ...]] | None,
    images: npt.NDArray[np.uint8],
    outputs: Outputs,
    start: int,
) -> Response:
    """Return the response, with one prediction for each image, in order.

        {"model": {"name": "mnist", "version": 1, "digest": "<64 hexadecimal digits>"},
         "predictions": [
           {"label": "7",               the name of the most probable class
            "index": 7,                 its index among the classes, from 0
            "probability": 0.998,       its calibrated probability
            "probabilities": {"0": 0.0001, ..., "9": 0.0003},   in the classes' order, with sum 1
            "warnings": [],             sentences, such as that the image looks inverted or blank
            "filename": "digit.png"}]}  only if a form's part has one

    Args:
        bundle: the model's.
        query: `top` lists only that many classes, the most probable first; below `threshold`, label and index are
            null and the probability is given all the same.
        filenames: of a form's files; None if the body is not a form.
        warnings: of each image; None for one plain PNG, whose image is not decoded yet.
        images: of the batch, `uint8[n, 28, 28]`.
        outputs: of the batch, for the probabilities, `float32[n, classes]`; written with as many digits as restore
            the float32 exactly.
        start: index in the batch of this response's first image.
    """
    manifest = bundle.manifest
    pieces = _pieces(manifest.name, bundle.version, manifest.digest, manifest.classes)
    rows = outputs.written or _written(outputs)
    if warnings is None:
        warnings = (warnings_of_one(images[start], manifest.input.polarity),)
    # In float32 like the probabilities, so that a probability printed as 0.9 reaches a threshold of 0.9.
    threshold = 0.0 if query.threshold is None else float(np.float32(query.threshold))
    predictions: list[bytes] = []
    for i, warned in enumerate(warnings):
        index, probability, row = rows[start + i]
        numbers = row.split(b",")
        named = pieces.named[index] if probability >= threshold else _UNNAMED
        said = orjson.dumps(warned) if warned else b"[]"
        if query.top is None:
            prediction = pieces.all_classes % (named, numbers[index], *numbers, said)
        else:
            order = np.argsort(-outputs.probabilities[start + i], kind="stable")[: query.top].tolist()
            listed = b",".join([pieces.keys[i] + numbers[i] for i in order])
            prediction = _PREDICTION % (named, numbers[index], listed, said)
        if filenames is not None and (filename := filenames[i]) is not None:
            prediction += b',"filename":' + orjson.dumps(filename)
        predictions.append(prediction)
    return Response(body=pieces.start + b"},".join(predictions) + b"}]}")


def encode_bare(bundle: Bundle, *arguments: Any) -> Response:
    """Return the response as `encode` does, without the member `model`: `{"predictions": [...]}`.

    Vertex AI defines the other members of a response itself, `model` among them (cloud.google.com/vertex-ai, Custom
    container requirements, Response requirements; PredictResponse of its REST API).
    """
    response = encode(bundle, *arguments)
    manifest = bundle.manifest
    start = _pieces(manifest.name, bundle.version, manifest.digest, manifest.classes).start
    response.body = b'{"predictions":[' + response.body[len(start) :]
    return response


def _written(outputs: Outputs) -> list[tuple[int, float, bytes]]:
    """Return for each image its most probable class, that probability, and all as JSON; once for the whole batch."""
    probabilities = outputs.probabilities
    rows = orjson.dumps(probabilities, option=orjson.OPT_SERIALIZE_NUMPY)[2:-2].split(b"],[")
    indices, highest = probabilities.argmax(axis=1).tolist(), probabilities.max(axis=1).tolist()
    outputs.written = list(zip(indices, highest, rows, strict=True))
    return outputs.written


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pieces:
    """The constant JSON fragments of a model's responses."""

    start: bytes
    """Up to the first prediction."""
    named: tuple[bytes, ...]
    """Label and index of a prediction, for each class."""
    keys: tuple[bytes, ...]
    """Each class's name, followed by a colon."""
    all_classes: bytes
    """`_PREDICTION` with every class's key, and `%b` for its number."""


@lru_cache(maxsize=16)
def _pieces(name: str, version: int, digest: str, classes: tuple[str, ...]) -> _Pieces:
    model = orjson.dumps({"name": name, "version": version, "digest": digest})
    labels = tuple(orjson.dumps(label) for label in classes)
    return _Pieces(
        start=b'{"model":' + model + b',"predictions":[',
        named=tuple(b'"label":%b,"index":%d' % (label, index) for index, label in enumerate(labels)),
        keys=tuple(label + b":" for label in labels),
        all_classes=_PREDICTION
        % (b"%b", b"%b", b",".join(label.replace(b"%", b"%%") + b":%b" for label in labels), b"%b"),
    )
