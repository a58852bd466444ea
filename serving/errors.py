"""Every error that the service raises on purpose: what was wrong, and what to do.

`ProblemError` and its children become answers: RFC 9457 problem details. `ProviderError` ends the
service before it has answered anything, `DeviceLostError` a worker that has answered.
"""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, ClassVar, Self

PROBLEM_MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5
BEARER_CHALLENGE = 'Bearer realm="glyph"'


class ServingError(Exception):
    """The base of all of them."""


class ProviderError(ServingError):
    """The execution provider that was asked for does not work here; the message says what is missing."""


class DeviceLostError(ServingError):
    """The GPU computes no more for this process, which has to be replaced; the message says what CUDA reports."""


class ProblemError(ServingError):
    """An answer that is no prediction: an HTTP status, what was wrong, and the remedy."""

    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    kind: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "The service failed"
    example: ClassVar[tuple[str, str]] = (
        "an unexpected error; it is in the service's log",
        "Try again; if it stays, tell the operator the time of this answer and its X-Request-ID.",
    )
    """The detail and the remedy of one, for the API's description."""

    def __init__(self, detail: str, *, remedy: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy
        self.extensions: dict[str, Any] = {}
        """More members of the problem document (RFC 9457, section 3.2)."""
        self.headers: dict[str, str] = {}
        """HTTP fields that the answer carries beside its content type."""

    def document(self) -> dict[str, Any]:
        """Return the members of the problem document (RFC 9457, section 3.1) and the remedy."""
        return {
            "type": f"urn:glyph:problem:{self.kind}",
            "title": self.title,
            "status": int(self.status),
            "detail": self.detail,
            "remedy": self.remedy,
            **self.extensions,
        }

    @classmethod
    def of_example(cls) -> Self:
        """Return one, as the service raises it."""
        detail, remedy = cls.example
        return cls(detail, remedy=remedy)

    def of_upload(self, index: int, filename: str | None) -> None:
        """Note which of several images was refused: its place in the form, from 0, and its name."""
        self.extensions = {"upload": index, "filename": filename}

    def of_instance(self, index: int) -> None:
        """Note which of several instances was refused: its place, from 0."""
        self.extensions = {"instance": index}


class MalformedRequestError(ProblemError):
    """The request is not HTTP/1.1 as RFC 9112 has it, or beyond a limit; some cases have a status of their own."""

    status = HTTPStatus.BAD_REQUEST
    kind = "malformed-request"
    title = "The request cannot be read"
    example = (
        "Invalid HTTP Header: 'an HTTP/1.1 request has one Host field, with a host in it (RFC 9112, section 3.2)'",
        "Send the request as RFC 9112 has it; most HTTP clients do.",
    )


class EmptyBodyError(ProblemError):
    """There is nothing in the request."""

    status = HTTPStatus.BAD_REQUEST
    kind = "empty-body"
    title = "The body is empty"
    example = ("the request has no body", "Send an image file: curl --data-binary @digit.png ...")


class MalformedBodyError(ProblemError):
    """The body is not what its framing or its form promises."""

    status = HTTPStatus.BAD_REQUEST
    kind = "malformed-body"
    title = "The body cannot be read"
    example = (
        "the body is not JSON: unexpected end of data: line 1 column 16 (char 15)",
        "Send JSON as RFC 8259 has it, in UTF-8; NaN and Infinity are not among its numbers.",
    )


class UnauthorizedError(ProblemError):
    """There is no bearer token, or it is not valid (RFC 6750, section 3)."""

    status = HTTPStatus.UNAUTHORIZED
    kind = "unauthorized"
    title = "A bearer token is needed"
    example = (
        "the request has no bearer token",
        "Send the token that the operator gave you: -H 'Authorization: Bearer TOKEN'.",
    )

    def __init__(self, detail: str, *, remedy: str, code: str = "") -> None:
        super().__init__(detail, remedy=remedy)
        self.headers = {"WWW-Authenticate": BEARER_CHALLENGE + (f', error="{code}"' if code else "")}


class BearerMalformedError(ProblemError):
    """The Authorization field is of the scheme Bearer, and not well formed (RFC 6750, section 3.1)."""

    status = HTTPStatus.BAD_REQUEST
    kind = "malformed-authorization"
    title = "The Authorization field cannot be read"
    example = (
        "the Authorization field is not 'Bearer' and one token",
        "Send the field once, as in RFC 6750, section 2.1: Authorization: Bearer TOKEN.",
    )

    def __init__(self, detail: str, *, remedy: str) -> None:
        super().__init__(detail, remedy=remedy)
        self.headers = {"WWW-Authenticate": f'{BEARER_CHALLENGE}, error="invalid_request"'}


class AccessUnknownError(ProblemError):
    """Tokens are asked for, and which are valid is not known: the operator's file is broken."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    kind = "access-unknown"
    title = "The service cannot tell who may ask"
    example = ("who may ask cannot be told", "The operator finds the reason in the service's log.")


class NotFoundError(ProblemError):
    """No such path, model or version."""

    status = HTTPStatus.NOT_FOUND
    kind = "not-found"
    title = "There is nothing at this path"
    example = ("version 9 is not loaded", "Ask for one of the versions that are: 1.")


class MethodNotAllowedError(ProblemError):
    """The path is there, the method is not."""

    status = HTTPStatus.METHOD_NOT_ALLOWED
    kind = "method-not-allowed"
    title = "This path does not answer this method"
    example = (
        "/predict does not answer GET",
        "Use one of the methods in the Allow field; images are POSTed.",
    )


class BodyTooLargeError(ProblemError):
    """More bytes than the service reads."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    kind = "body-too-large"
    title = "The body is too large"
    example = (
        "the body is larger than 8388608 bytes",
        "Send fewer or smaller files in one request, or raise GLYPH_MAX_BODY_BYTES.",
    )


class TooManyImagesError(ProblemError):
    """More images in one body than the service answers."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    kind = "too-many-images"
    title = "The body has too many images"
    example = (
        "the body has 2000 images; 1024 are allowed",
        "Send them in several requests, or raise GLYPH_MAX_IMAGES.",
    )


class UnsupportedCodingError(ProblemError):
    """The body has a content coding that is not undone here (RFC 9110, section 15.5.16)."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    kind = "unsupported-coding"
    title = "The content coding is not supported"
    example = (
        "the content coding 'br' is not undone here",
        "Send the body as it is (images are compressed already), or with gzip or deflate.",
    )

    def __init__(self, detail: str, *, remedy: str) -> None:
        super().__init__(detail, remedy=remedy)
        self.headers = {"Accept-Encoding": "gzip, deflate"}  # as RFC 9110, section 15.5.16, asks


class BadQueryError(ProblemError):
    """A query parameter is unknown, or its value is not one that it can have."""

    status = HTTPStatus.BAD_REQUEST
    kind = "bad-query"
    title = "The query cannot be understood"
    example = ("top is '0'", "Give the number of classes to list, 1 or more: ?top=3.")


class InvalidInstanceError(ProblemError):
    """The body is read, and what it says is no image."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    kind = "invalid-instance"
    title = "An instance is not an image"
    example = ("pixel 5 is 300", "Pixels are whole numbers from 0 to 255.")


class TooManyFilesError(ProblemError):
    """More files in one form than the service answers."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    kind = "too-many-files"
    title = "The form has too many parts"
    example = (
        "the form has more than 256 files",
        "Send at most 256 in one request, or raise GLYPH_MAX_FILES.",
    )


class UnsupportedMediaTypeError(ProblemError):
    """The media type is none that is read, or not what the bytes are."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    kind = "unsupported-media-type"
    title = "The media type is not supported"
    example = (
        "the content is declared as image/png, but it is image/jpeg",
        "Declare what it is: Content-Type: image/jpeg.",
    )


class NotAFileError(ProblemError):
    """A text field stands where a file should."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    kind = "not-a-file"
    title = "A form part is not a file"
    example = (
        "the form part 'image' is a text field, not a file",
        "Send it as a file, with a filename: curl -F image=@digit.png (mind the @).",
    )


class NoFileError(ProblemError):
    """The form has no part at all."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    kind = "no-file"
    title = "The form has no file"
    example = ("the form has no part", "Add a file: curl -F image=@digit.png")


class BrokenImageError(ProblemError):
    """The image is truncated or damaged."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    kind = "broken-image"
    title = "The image cannot be decoded"
    example = (
        "the image/png is truncated or damaged (it ends too early)",
        "Send the whole file; with curl that is --data-binary @FILE, not -d @FILE.",
    )


class WrongSizeError(ProblemError):
    """The image is not 28x28."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    kind = "wrong-size"
    title = "The image has the wrong size"
    example = (
        "the image is 32x32 pixels, the model takes 28x28",
        "Scale it to 28x28 as the training images were made.",
    )


class ImageTooLargeError(ProblemError):
    """One image's file has more bytes than any 28x28 image needs."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    kind = "image-too-large"
    title = "The image's file is too large"
    example = (
        "the file has 1048577 bytes, more than the 1048576 that a 28x28 image may have",
        "Scale it to 28x28, and save it without metadata: that is a few KiB.",
    )


class UnsupportedImageError(ProblemError):
    """The image is whole, but of a kind that has no one meaning here: several frames, or floats."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    kind = "unsupported-image"
    title = "This kind of image is not supported"
    example = ("the file has several frames", "Send one frame, as a file or form part of its own.")


class NotReadyError(ProblemError):
    """There is no proven model to answer with."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    kind = "not-ready"
    title = "The service is not ready"
    example = (
        (
            "no model is served: no version is published in /models: train one with 'python -m training fit', "
            "or give another directory"
        ),
        (
            "Publish or restore a version, then wait until it is noticed (GLYPH_RELOAD_SECONDS), restart "
            "the service or send it SIGHUP; 'python -m bundle verify' checks a version."
        ),
    )

    def __init__(self, detail: str, *, remedy: str) -> None:
        super().__init__(detail, remedy=remedy)
        self.headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}


class BadTimeoutError(ProblemError):
    """X-Request-Timeout-Ms is no time."""

    status = HTTPStatus.BAD_REQUEST
    kind = "bad-timeout"
    title = "The request's timeout cannot be understood"
    example = (
        "X-Request-Timeout-Ms is 'soon', which is no time",
        "Send a whole number of milliseconds, 1 or more, or leave the field out.",
    )


class OverloadedError(ProblemError):
    """More requests than the queue holds."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    kind = "overloaded"
    title = "The service has too much to do"
    example = (
        "the service has more requests than it can answer: 512 requests wait already, and no more may",
        "Ask again after 1 s, and then with growing pauses; or run more workers.",
    )

    def __init__(self, detail: str, *, remedy: str, retry_after: int = 1) -> None:
        super().__init__(detail, remedy=remedy)
        self.headers = {"Retry-After": str(retry_after)}


class DeadlineExceededError(ProblemError):
    """The request's time was over before it was computed."""

    status = HTTPStatus.GATEWAY_TIMEOUT
    kind = "deadline-exceeded"
    title = "The request's time is over"
    example = (
        "the request's time was over before its turn came, and it was not computed",
        (
            "Allow more with X-Request-Timeout-Ms (the service has a ceiling of its own), or ask again "
            "when there is less to do."
        ),
    )


class RequestTimeoutError(ProblemError):
    """The request did not arrive whole within its time."""

    status = HTTPStatus.REQUEST_TIMEOUT
    kind = "request-timeout"
    title = "The request took too long to arrive"
    example = (
        "the body was not there within 30 s",
        (
            "Send the request in one go; over a slow line, send smaller files, or raise "
            "GLYPH_HEADER_TIMEOUT_SECONDS or GLYPH_BODY_TIMEOUT_SECONDS."
        ),
    )


def problem_classes(base: type[ProblemError] = ProblemError) -> Iterator[type[ProblemError]]:
    """Yield a class of problems and all below it; by default all that there are."""
    yield base
    for child in base.__subclasses__():
        yield from problem_classes(child)
