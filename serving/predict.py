"""A request's way, whole: admit, decode, infer, encode. It knows nothing of HTTP libraries.

`prepare` is the first half, up to the images; what it returns carries the second half. Whoever calls
decides where the inference between the two happens: the inference worker puts the images of all
requests that have arrived into one batch, a WSGI thread runs its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from serving.admission import Upload, admit
from serving.answer import encode
from serving.engine import Engine, Outputs
from serving.errors import ProblemError
from serving.images import Decoded, decode
from serving.messages import Answer, Request
from serving.settings import ServiceSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What one request asks of a model."""

    engine: Engine
    images: npt.NDArray[np.uint8]
    """`uint8[n, 28, 28]`, n at least 1."""
    encode: Callable[[Outputs], Answer]
    """Makes the answer of the n images' outputs."""


def prepare(engine: Engine, request: Request, settings: ServiceSettings) -> Work:
    """Admit and decode a request of `POST /predict`; the answer is what `answer.encode` describes.

    Raises:
        ProblemError: the request cannot be answered; its status, what was wrong, and the remedy.
    """
    uploads = admit(request.headers.get("content-type"), request.body, max_files=settings.max_files)
    images = [_decode(upload, index, engine) for index, upload in enumerate(uploads)]
    return Work(
        engine=engine,
        images=np.stack([image.pixels for image in images]),
        encode=partial(encode, engine.bundle, uploads, images),
    )


def _decode(upload: Upload, index: int, engine: Engine) -> Decoded:
    """Decode one upload; a refusal says which of them it was."""
    try:
        return decode(upload.data, upload.media_type, engine.bundle.manifest.input.polarity)
    except ProblemError as error:
        if upload.filename is not None:  # only a form has several
            error.of_upload(index, upload.filename)
        raise
