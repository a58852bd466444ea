"""Encode: from probabilities to the JSON that `POST /predict` answers."""

from collections.abc import Sequence
from typing import Any

import orjson

from bundle.repository import Bundle
from serving.admission import Upload
from serving.engine import Outputs
from serving.images import Decoded
from serving.messages import Answer


def encode(
    bundle: Bundle,
    uploads: Sequence[Upload],
    images: Sequence[Decoded],
    outputs: Outputs,
) -> Answer:
    """Return the answer, one prediction for each upload, in their order.

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
        uploads: for their filenames.
        images: for their warnings.
        outputs: for the probabilities, `float32[len(uploads), classes]`; written with as many digits
            as a float32 needs to be read back exactly.
    """
    manifest, probabilities = bundle.manifest, outputs.probabilities
    indices = probabilities.argmax(axis=1).tolist()
    predictions: list[dict[str, Any]] = []
    for upload, image, index, row in zip(uploads, images, indices, probabilities, strict=True):
        prediction = {
            "label": manifest.classes[index],
            "index": index,
            "probability": row[index],
            "probabilities": dict(zip(manifest.classes, row, strict=True)),
            "warnings": image.warnings,
        }
        if upload.filename is not None:
            prediction["filename"] = upload.filename
        predictions.append(prediction)
    model = {"name": manifest.name, "version": bundle.version, "digest": manifest.digest}
    document = {"model": model, "predictions": predictions}
    return Answer(body=orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY))
