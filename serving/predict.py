"""A request's way, whole: admit, decode, infer, encode. It knows nothing of HTTP libraries."""

import numpy as np

from serving.admission import Upload, admit
from serving.answer import encode
from serving.engine import Engine
from serving.errors import ProblemError
from serving.images import Decoded, decode


def predict(engine: Engine, content_type: str | None, body: bytes, *, max_files: int) -> bytes:
    """Answer one request's body with the JSON that `answer.encode` describes.

    Raises:
        ProblemError: the request cannot be answered; its status, what was wrong, and the remedy.
    """
    uploads = admit(content_type, body, max_files=max_files)
    images = [_decode(upload, index, engine) for index, upload in enumerate(uploads)]
    probabilities = engine.infer(np.stack([image.pixels for image in images]))
    return encode(engine.bundle, uploads, images, probabilities)


def _decode(upload: Upload, index: int, engine: Engine) -> Decoded:
    """Decode one upload; a refusal says which of them it was."""
    try:
        return decode(upload.data, upload.media_type, engine.bundle.manifest.input.polarity)
    except ProblemError as error:
        if upload.filename is not None:  # only a form has several
            error.of_upload(index, upload.filename)
        raise
