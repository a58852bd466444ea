"""`POST /predict`: from a body of any content type to a `PreparedRequest`.

`prepare` decodes the images; the request that it returns can also encode the response. The caller runs the inference
in between: the inference worker makes one batch of all requests that have arrived, a WSGI thread runs its own.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import inf

import numpy as np
import numpy.typing as npt

from bundle.images import plain_png
from bundle.images.contract import Resize
from bundle.images.decoding import PARSERS
from bundle.manifest import Polarity
from serving.errors import BadQueryError, EmptyBodyError, ProblemError, TooManyFilesError
from serving.model.engine import Engine
from serving.predict import query
from serving.predict.bodies import json_images, raw_pixels
from serving.predict.bodies.image_files import MAX_RESIZED, RESIZED_REMEDY, Decoded, Resizing, decode
from serving.predict.bodies.image_warnings import warnings_of
from serving.predict.bodies.multipart import Upload, read_files
from serving.predict.exchange import PreparedRequest, Request, Response
from serving.predict.load_shedding import check_deadline
from serving.predict.response_json import encode, encode_bare
from serving.settings import ServiceSettings

PIXELS = frozenset(("application/octet-stream", "application/x-npy"))
"""Media types of raw pixels, which need no decoding."""


def images_of(requests: Sequence[PreparedRequest]) -> npt.NDArray[np.uint8]:
    """Return the images of all requests, `uint8[n, 28, 28]`; one call unfilters the scanlines of all plain PNGs."""
    if len(requests) == 1 and not isinstance(requests[0].images, bytes):
        return requests[0].images
    lines = [request.images for request in requests if isinstance(request.images, bytes)]
    if len(lines) == len(requests):
        return plain_png.unfiltered(lines)
    made: Iterator[npt.NDArray[np.uint8]] = iter(plain_png.unfiltered(lines)[:, None] if lines else ())
    return np.concatenate(
        [next(made) if isinstance(request.images, bytes) else request.images for request in requests]
    )


def prepare(
    engine: Engine, request: Request, body: bytes, settings: ServiceSettings, deadline: float = inf
) -> PreparedRequest:
    """Decode a request of `POST /predict`; `response_json.encode` describes the response.

    Args:
        engine: the model that will run.
        request: for its query and its content type.
        body: its body, without content coding.
        settings: for the limits.
        deadline: on the clock of `time.perf_counter()`, checked before each image file.

    Raises:
        ProblemError: the request is rejected.
    """
    options = query.parse(request.query)
    if not body:
        raise EmptyBodyError
    contract = engine.bundle.manifest.input
    polarity, asked = contract.polarity, options.resize
    content_type = request.headers.get("content-type")
    filenames: Sequence[str | None] | None = None
    write: Callable[..., Response] = encode
    images: npt.NDArray[np.uint8] | bytes
    warnings: Sequence[tuple[str, ...]] | None
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if asked is not None:
        _check_resizing(asked, contract.resize, media_type)
    match media_type:
        case "image/png" if asked is None and (lines := plain_png.scanlines(body)) is not None:
            images, warnings = lines, None
        case "application/json":
            if request.path == settings.predict_route:
                write = encode_bare
            images, warnings = _stacked(
                json_images.read(
                    body, polarity, settings.max_images, deadline, Resizing(asked, contract.resize)
                )
            )
        case "application/octet-stream":
            images = raw_pixels.read_raw(body, settings.max_images)
            warnings = warnings_of(images, polarity)
        case "application/x-npy":
            images = raw_pixels.read_npy(body, settings.max_images)
            warnings = warnings_of(images, polarity)
        case "multipart/form-data":
            uploads = read_files(content_type, body, max_files=settings.max_files, deadline=deadline)
            resizing = Resizing(asked, contract.resize)
            _check_count(len(uploads), resizing)
            decoded = [
                _decode_part(upload, place, polarity, deadline, resizing)
                for place, upload in enumerate(uploads)
            ]
            images, warnings = _stacked(decoded)
            filenames = [upload.filename for upload in uploads]
        case _:
            declared: str | None = media_type
            if media_type not in PARSERS:  # an alias of a supported type, or unsupported
                (upload,) = read_files(content_type, body, max_files=settings.max_files)
                declared = upload.media_type
            one = decode(body, declared, polarity, Resizing(asked, contract.resize))
            images, warnings = one.pixels[None], [one.warnings]
    return PreparedRequest(
        engine=engine,
        images=images,
        encode=partial(write, engine.bundle, options, filenames, warnings),
        cost=cost_of(1 if warnings is None else len(warnings), decoded=media_type not in PIXELS),
    )


def cost_of(count: int, *, decoded: bool) -> int:
    """Return `PreparedRequest.cost` for `count` images."""
    return 4 * count if decoded else 3 + count


def _stacked(images: Sequence[Decoded]) -> tuple[npt.NDArray[np.uint8], list[tuple[str, ...]]]:
    pixels = images[0].pixels[None] if len(images) == 1 else np.stack([image.pixels for image in images])
    return pixels, [image.warnings for image in images]


def _check_resizing(asked: Resize, offered: Resize | None, media_type: str) -> None:
    query.check_offered(asked, offered)
    if media_type in PIXELS:
        raise BadQueryError(
            "the body has pixels, and 'resize' is for image files",
            remedy="Send image files, or omit resize and send pixels of 28x28.",
        )


def _check_count(files: int, resizing: Resizing) -> None:
    if resizing.asked and files > MAX_RESIZED:
        raise TooManyFilesError(
            f"the form has {files} files to be resized; at most {MAX_RESIZED} are allowed",
            remedy=RESIZED_REMEDY,
        )


def _decode_part(
    upload: Upload, place: int, polarity: Polarity, deadline: float, resizing: Resizing
) -> Decoded:
    """Decode one file of a form before the deadline; an error names the file."""
    check_deadline(deadline)
    try:
        return decode(upload.data, upload.media_type, polarity, resizing)
    except ProblemError as error:
        error.at_upload(place, upload.filename)
        raise
