"""From probabilities to the JSON of `POST /predict`.

The document is assembled from fragments that are the same in every response of a model. orjson serialises the
numbers, and all text from clients and manifests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

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
_MANY = 8
"""From so many images on, columns take less time than a template for each prediction."""
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
    if query.top is None and filenames is None and len(warnings) >= _MANY:
        return Response(body=_together(pieces, rows[start : start + len(warnings)], threshold, warnings))
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


def _together(
    pieces: "_Pieces",
    rows: Sequence[tuple[int, float, bytes]],
    threshold: float,
    warnings: Sequence[tuple[str, ...]],
) -> bytes:
    """Return the document of many images with all classes; each fragment and number is a column, joined once."""
    width = len(pieces.keys)
    numbers = b",".join([row for _, _, row in rows]).split(b",")
    columns = [
        [pieces.named[index] if highest >= threshold else _UNNAMED for index, highest, _ in rows],
        [numbers[width * place + index] for place, (index, _, _) in enumerate(rows)],
        *(numbers[place::width] for place in range(width)),
        [orjson.dumps(said) if said else b"[]" for said in warnings],
    ]
    parts = [*pieces.before_columns] * len(rows)
    for place, column in enumerate(columns):
        parts[2 * place + 1 :: 2 * len(columns)] = column
    parts[0] = pieces.start + b"{"
    return b"".join(parts) + b"}]}"


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
    before_columns: tuple[bytes, ...]
    """The same in parts: what precedes each number or text, followed by an empty place for it."""


@lru_cache(maxsize=16)
def _pieces(name: str, version: int, digest: str, classes: tuple[str, ...]) -> _Pieces:
    model = orjson.dumps({"name": name, "version": version, "digest": digest})
    labels = tuple(orjson.dumps(label) for label in classes)
    keys = tuple(label + b":" for label in labels)
    before = (b"},{", b',"probability":', b',"probabilities":{' + keys[0], *(b"," + key for key in keys[1:]))
    return _Pieces(
        start=b'{"model":' + model + b',"predictions":[',
        named=tuple(b'"label":%b,"index":%d' % (label, index) for index, label in enumerate(labels)),
        keys=keys,
        all_classes=_PREDICTION
        % (b"%b", b"%b", b",".join(label.replace(b"%", b"%%") + b":%b" for label in labels), b"%b"),
        before_columns=tuple(part for text in (*before, b'},"warnings":') for part in (text, b"")),
    )
