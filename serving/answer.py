"""Encode: from probabilities to the JSON that `POST /predict` answers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from bundle.repository import Bundle
from serving.engine import Outputs
from serving.messages import Answer
from serving.query import Query


def encode(
    bundle: Bundle,
    asked: Query,
    filenames: Sequence[str | None] | None,
    warnings: Sequence[tuple[str, ...]],
    outputs: Outputs,
) -> Answer:
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
        asked: `top`, so many classes alone, the most probable first; `threshold`, below which label and
            index are null and the probability still says how near it was.
        filenames: of a form's files; None where there was no form.
        warnings: of each image.
        outputs: for the probabilities, `float32[len(warnings), classes]`; written with as many digits
            as a float32 needs to be read back exactly.
    """
    manifest, probabilities = bundle.manifest, outputs.probabilities
    predictions: list[dict[str, Any]] = []
    for i, index in enumerate(probabilities.argmax(axis=1).tolist()):
        row = probabilities[i]
        sure = asked.threshold is None or row[index] >= asked.threshold
        prediction = {
            "label": manifest.classes[index] if sure else None,
            "index": index if sure else None,
            "probability": row[index],
            "probabilities": _listed(manifest.classes, row, asked.top),
            "warnings": warnings[i],
        }
        if filenames is not None and (filename := filenames[i]) is not None:
            prediction["filename"] = filename
        predictions.append(prediction)
    model = {"name": manifest.name, "version": bundle.version, "digest": manifest.digest}
    document = {"model": model, "predictions": predictions}
    return Answer(body=orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY))


def _listed(classes: Sequence[str], row: npt.NDArray[np.float32], top: int | None) -> dict[str, np.float32]:
    if top is None:
        return dict(zip(classes, row, strict=True))
    order = np.argsort(-row, kind="stable")[:top].tolist()
    return {classes[index]: row[index] for index in order}
