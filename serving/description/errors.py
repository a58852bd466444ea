"""Every error that an answer can be, with an example, as OpenAPI responses."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from serving import errors
from serving.errors import PROBLEM_MEDIA_TYPE, ProblemError
from serving.messages import JSON

EXAMPLES: dict[type[ProblemError], tuple[str, str]] = {
    ProblemError: (
        "an unexpected error; it is in the service's log",
        "Try again; if it stays, tell the operator the time of this answer and its X-Request-ID.",
    ),
    errors.EmptyBodyError: (
        "the request has no body",
        "Send an image file: curl --data-binary @digit.png ...",
    ),
    errors.MalformedBodyError: (
        "the body is not JSON: unexpected end of data: line 1 column 16 (char 15)",
        "Send JSON as RFC 8259 has it, in UTF-8; NaN and Infinity are not among its numbers.",
    ),
    errors.MalformedRequestError: (
        "Invalid HTTP Header: 'an HTTP/1.1 request has one Host field'",
        "Send the request as RFC 9112 has it; most HTTP clients do.",
    ),
    errors.BadQueryError: ("top is '0'", "Give the number of classes to list, 1 or more: ?top=3."),
    errors.BadTimeoutError: (
        "X-Request-Timeout-Ms is 'soon', which is no time",
        "Send a whole number of milliseconds, 1 or more, or leave the field out.",
    ),
    errors.BearerMalformedError: (
        "the Authorization field is not Bearer and a token",
        "Send it as in Authorization: Bearer TOKEN.",
    ),
    errors.UnauthorizedError: ("no token was sent", "Send Authorization: Bearer TOKEN."),
    errors.NotFoundError: (
        "version 9 is not loaded",
        "Ask for one of the versions that are: 1.",
    ),
    errors.MethodNotAllowedError: (
        "/predict does not answer GET",
        "Use one of the methods in the Allow field; images are POSTed.",
    ),
    errors.RequestTimeoutError: (
        "the request did not arrive in its time",
        "Send it faster, or less of it.",
    ),
    errors.BodyTooLargeError: (
        "the body is larger than 8388608 bytes",
        "Send fewer or smaller files in one request, or raise GLYPH_MAX_BODY_BYTES.",
    ),
    errors.TooManyFilesError: (
        "the form has more than 256 files",
        "Send at most 256 in one request, or raise GLYPH_MAX_FILES.",
    ),
    errors.TooManyImagesError: (
        "the body has 2000 instances; 1024 are allowed",
        "Send them in several requests, or raise GLYPH_MAX_IMAGES.",
    ),
    errors.ImageTooLargeError: (
        "the file is larger than any 28x28 image needs",
        "Save it without what is not pixels, as metadata.",
    ),
    errors.UnsupportedMediaTypeError: (
        "the content is declared as image/png, but it is image/jpeg",
        "Declare what it is: Content-Type: image/jpeg.",
    ),
    errors.UnsupportedCodingError: (
        "the content coding 'br' is not undone here",
        "Send the body as it is (images are compressed already), or with gzip or deflate.",
    ),
    errors.NotAFileError: (
        "the form part 'image' is a text field, not a file",
        "Send it as a file, with a filename: curl -F image=@digit.png (mind the @).",
    ),
    errors.NoFileError: ("the form has no part", "Add a file: curl -F image=@digit.png"),
    errors.BrokenImageError: (
        "the image is truncated",
        "Send the whole file; with curl that is --data-binary @FILE, not -d @FILE.",
    ),
    errors.WrongSizeError: (
        "the image is 32x32, the model takes 28x28",
        "Scale it to 28x28 as the training images were made.",
    ),
    errors.UnsupportedImageError: (
        "the image has 12 frames",
        "Send one frame, as a file or form part of its own.",
    ),
    errors.InvalidInstanceError: ("pixel 5 is 300", "Pixels are whole numbers from 0 to 255."),
    errors.NotReadyError: (
        "no model is served: the model is not loaded yet",
        "Publish or restore a version; 'python -m bundle verify' checks one.",
    ),
    errors.OverloadedError: (
        "the service has more requests than it can answer: its queue is full",
        "Ask again after 1 s, and then with growing pauses; or run more workers.",
    ),
    errors.AccessUnknownError: (
        "the file of tokens cannot be read",
        "Tell the operator; the service's log says what is wrong with it.",
    ),
    errors.DeadlineExceededError: (
        "the request's time was over before its turn came, and it was not computed",
        "Allow more with X-Request-Timeout-Ms, or ask again when there is less to do.",
    ),
}
"""By class, a detail and a remedy. A test shows that none is missing."""

ACCESS = (errors.UnauthorizedError, errors.BearerMalformedError, errors.AccessUnknownError)
"""What any path that is not open can answer, where tokens are asked for."""
FAILURES = (
    ProblemError,
    errors.NotReadyError,
    errors.OverloadedError,
    errors.RequestTimeoutError,
    errors.MalformedRequestError,
)
LIMITS = (errors.BodyTooLargeError, errors.TooManyImagesError)
QUEUE = (errors.BadTimeoutError, errors.DeadlineExceededError)
PREDICT = (
    *ACCESS,
    *FAILURES,
    *LIMITS,
    *QUEUE,
    errors.EmptyBodyError,
    errors.MalformedBodyError,
    errors.BadQueryError,
    errors.TooManyFilesError,
    errors.ImageTooLargeError,
    errors.UnsupportedMediaTypeError,
    errors.UnsupportedCodingError,
    errors.NotAFileError,
    errors.NoFileError,
    errors.BrokenImageError,
    errors.WrongSizeError,
    errors.UnsupportedImageError,
    errors.InvalidInstanceError,
)
INFER = (
    *ACCESS,
    *FAILURES,
    *LIMITS,
    *QUEUE,
    errors.MalformedBodyError,
    errors.BadQueryError,
    errors.InvalidInstanceError,
    errors.NotFoundError,
    errors.UnsupportedCodingError,
)

_HEADERS = {
    HTTPStatus.UNAUTHORIZED: ("WWW-Authenticate",),
    HTTPStatus.METHOD_NOT_ALLOWED: ("Allow",),
    HTTPStatus.SERVICE_UNAVAILABLE: ("Retry-After",),
}


def problems(kinds: Iterable[type[ProblemError]]) -> dict[str, Any]:
    """Return responses by status, each error an example, as RFC 9457 problem details."""
    return {
        str(int(status)): _response(
            status, PROBLEM_MEDIA_TYPE, "Problem", {k.kind: _problem(k) for k in members}
        )
        for status, members in _by_status(kinds, oip=False).items()
    }


def protocol_errors(kinds: Iterable[type[ProblemError]]) -> dict[str, Any]:
    """Return responses by status, each error an example, in the Open Inference Protocol's form."""
    return {
        str(int(status)): _response(
            status, JSON, "ProtocolError", {k.kind: {"error": " ".join(_sentence(k))} for k in members}
        )
        for status, members in _by_status(kinds, oip=True).items()
    }


def _by_status(
    kinds: Iterable[type[ProblemError]], *, oip: bool
) -> dict[HTTPStatus, list[type[ProblemError]]]:
    found: dict[HTTPStatus, list[type[ProblemError]]] = {}
    for kind in dict.fromkeys(kinds):
        bad = oip and kind.status == HTTPStatus.UNPROCESSABLE_ENTITY
        found.setdefault(HTTPStatus.BAD_REQUEST if bad else kind.status, []).append(kind)
    return dict(sorted(found.items()))


def _response(status: HTTPStatus, media_type: str, schema: str, examples: dict[str, Any]) -> dict[str, Any]:
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in _HEADERS.get(status, ())}
    return {
        "description": "; or: ".join(dict.fromkeys(_titles(examples))) or status.phrase,
        "headers": headers | {"X-Request-ID": {"$ref": "#/components/headers/X-Request-ID"}},
        "content": {
            media_type: {
                "schema": {"$ref": f"#/components/schemas/{schema}"},
                "examples": {name: {"value": value} for name, value in examples.items()},
            }
        },
    }


def _titles(examples: Iterable[str]) -> Iterable[str]:
    titles = {kind.kind: kind.title for kind in EXAMPLES}
    return (titles[name] for name in examples)


def _problem(kind: type[ProblemError]) -> dict[str, Any]:
    detail, remedy = EXAMPLES[kind]
    return {
        "type": f"urn:glyph:problem:{kind.kind}",
        "title": kind.title,
        "status": int(kind.status),
        "detail": detail,
        "remedy": remedy,
    }


def _sentence(kind: type[ProblemError]) -> tuple[str, str]:
    detail, remedy = EXAMPLES[kind]
    return f"{detail}.", remedy
