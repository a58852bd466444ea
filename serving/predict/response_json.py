"""Encode: from probabilities to the JSON that `POST /predict` answers.

The document is written from pieces that are the same in every answer of a model. orjson writes the
numbers and whatever a client or a manifest has said.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import orjson

from bundle.repository import Bundle
from serving.model.engine import Outputs
from serving.predict.bodies.image_files import looks_inverted
from serving.predict.exchange import Response
from serving.predict.query import Query


def encode(
    bundle: Bundle,
    query: Query,
    filenames: Sequence[str | None] | None,
    warnings: Sequence[tuple[str, ...]] | None,
    images: npt.NDArray[np.uint8],
    outputs: Outputs,
    start: int,
) -> Response:
    """Return the answer, one prediction for each image, in their order.

        {"model": {"name": "mnist", "version": 1, "digest": "<64 hexadecimal digits>"},
         "predictions": [
           {"label": "7",               the most probable class, by its name
            "index": 7,                 its place among the classes, from 0
            "probability": 0.998,       its calibrated probability
            "probabilities": {"0": 0.0001, ..., "9": 0.0003},   in the classes' order, sum 1
            "warnings": [],             sentences, as of an image that looks inverted
            "filename": "digit.png"}]}  only where the form gave one

    Args:
        bundle: what answered.
        query: `top`, so many classes alone, the most probable first; `threshold`, below which label and
            index are null and the probability still says how near it was.
        filenames: of a form's files; None where there was no form.
        warnings: of each image; None if it is one image, of a file, that nobody has looked at yet.
        images: of a batch, `uint8[n, 28, 28]`.
        outputs: of the batch, for the probabilities, `float32[n, classes]`; written with as many digits as a
            float32 needs to be read back exactly.
        start: where in the batch the images of this answer begin.
    """
    manifest = bundle.manifest
    pieces = _pieces(manifest.name, bundle.version, manifest.digest, manifest.classes)
    rows = outputs.written or _written(outputs)
    if warnings is None:
        warnings = (looks_inverted(images[start], manifest.input.polarity),)
    # In float32, as the probabilities are: 0.9 in an answer is not below a threshold of 0.9.
    least = 0.0 if query.threshold is None else float(np.float32(query.threshold))
    predictions: list[bytes] = []
    for i, warned in enumerate(warnings):
        index, probability, row = rows[start + i]
        numbers = row.split(b",")
        sure = probability >= least
        if query.top is None:
            listed = pieces.all_classes % tuple(numbers)
        else:
            order = np.argsort(-outputs.probabilities[start + i], kind="stable")[: query.top].tolist()
            listed = b",".join([pieces.keys[place] + numbers[place] for place in order])
        prediction = b'{"label":%b,"index":%b,"probability":%b,"probabilities":{%b},"warnings":%b' % (
            pieces.labels[index] if sure else b"null",
            b"%d" % index if sure else b"null",
            numbers[index],
            listed,
            orjson.dumps(warned) if warned else b"[]",
        )
        if filenames is not None and (filename := filenames[i]) is not None:
            prediction += b',"filename":' + orjson.dumps(filename)
        predictions.append(prediction)
    return Response(body=pieces.start + b"},".join(predictions) + b"}]}")


def _written(outputs: Outputs) -> list[tuple[int, float, bytes]]:
    """Return each image's most probable class, its probability, and all as JSON: for the whole batch at once."""
    probabilities = outputs.probabilities
    rows = orjson.dumps(probabilities, option=orjson.OPT_SERIALIZE_NUMPY)[2:-2].split(b"],[")
    places, most = probabilities.argmax(axis=1).tolist(), probabilities.max(axis=1).tolist()
    outputs.written = list(zip(places, most, rows, strict=True))
    return outputs.written


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pieces:
    """What every answer of a model has, as JSON."""

    start: bytes
    """As far as the first prediction."""
    labels: tuple[bytes, ...]
    keys: tuple[bytes, ...]
    """Each class's name with the colon behind it."""
    all_classes: bytes
    """Every key, and `%b` for its number."""


@lru_cache(maxsize=16)
def _pieces(name: str, version: int, digest: str, classes: tuple[str, ...]) -> _Pieces:
    model = orjson.dumps({"name": name, "version": version, "digest": digest})
    labels = tuple(orjson.dumps(label) for label in classes)
    return _Pieces(
        start=b'{"model":' + model + b',"predictions":[',
        labels=labels,
        keys=tuple(label + b":" for label in labels),
        all_classes=b",".join(label.replace(b"%", b"%%") + b":%b" for label in labels),
    )
