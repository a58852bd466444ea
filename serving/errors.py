"""Every error that the service raises on purpose: what was wrong, and what to do.

`ProblemError` and its children become answers: RFC 9457 problem details. `ProviderError` ends the
service before it has answered anything, `DeviceLostError` a worker that has answered.
"""

from http import HTTPStatus
from typing import Any, ClassVar

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


class EmptyBodyError(ProblemError):
    """There is nothing in the request."""

    status = HTTPStatus.BAD_REQUEST
    kind = "empty-body"
    title = "The body is empty"


class MalformedBodyError(ProblemError):
    """The body is not what its framing or its form promises."""

    status = HTTPStatus.BAD_REQUEST
    kind = "malformed-body"
    title = "The body cannot be read"


class UnauthorizedError(ProblemError):
    """There is no bearer token, or it is not valid (RFC 6750, section 3)."""

    status = HTTPStatus.UNAUTHORIZED
    kind = "unauthorized"
    title = "A bearer token is needed"

    def __init__(self, detail: str, *, remedy: str, code: str = "") -> None:
        super().__init__(detail, remedy=remedy)
        self.headers = {"WWW-Authenticate": BEARER_CHALLENGE + (f', error="{code}"' if code else "")}


class BearerMalformedError(ProblemError):
    """The Authorization field is of the scheme Bearer, and not well formed (RFC 6750, section 3.1)."""

    status = HTTPStatus.BAD_REQUEST
    kind = "malformed-authorization"
    title = "The Authorization field cannot be read"

    def __init__(self, detail: str, *, remedy: str) -> None:
        super().__init__(detail, remedy=remedy)
        self.headers = {"WWW-Authenticate": f'{BEARER_CHALLENGE}, error="invalid_request"'}


class AccessUnknownError(ProblemError):
    """Tokens are asked for, and which are valid is not known: the operator's file is broken."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    kind = "access-unknown"
    title = "The service cannot tell who may ask"


class NotFoundError(ProblemError):
    """No such path, model or version."""

    status = HTTPStatus.NOT_FOUND
    kind = "not-found"
    title = "There is nothing at this path"


class MethodNotAllowedError(ProblemError):
    """The path is there, the method is not."""

    status = HTTPStatus.METHOD_NOT_ALLOWED
    kind = "method-not-allowed"
    title = "This path does not answer this method"


class BodyTooLargeError(ProblemError):
    """More bytes than the service reads."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    kind = "body-too-large"
    title = "The body is too large"


class TooManyImagesError(ProblemError):
    """More images in one body than the service answers."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    kind = "too-many-images"
    title = "The body has too many images"


class UnsupportedCodingError(ProblemError):
    """The body has a content coding that is not undone here (RFC 9110, section 15.5.16)."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    kind = "unsupported-coding"
    title = "The content coding is not supported"


class BadQueryError(ProblemError):
    """A query parameter is unknown, or its value is not one that it can have."""

    status = HTTPStatus.BAD_REQUEST
    kind = "bad-query"
    title = "The query cannot be understood"


class InvalidInstanceError(ProblemError):
    """The body is read, and what it says is no image."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    kind = "invalid-instance"
    title = "An instance is not an image"


class TooManyFilesError(ProblemError):
    """More files in one form than the service answers."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    kind = "too-many-files"
    title = "The form has too many parts"


class UnsupportedMediaTypeError(ProblemError):
    """The media type is none that is read, or not what the bytes are."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    kind = "unsupported-media-type"
    title = "The media type is not supported"


class NotAFileError(ProblemError):
    """A text field stands where a file should."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    kind = "not-a-file"
    title = "A form part is not a file"


class NoFileError(ProblemError):
    """The form has no part at all."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    kind = "no-file"
    title = "The form has no file"


class BrokenImageError(ProblemError):
    """The image is truncated or damaged."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    kind = "broken-image"
    title = "The image cannot be decoded"


class WrongSizeError(ProblemError):
    """The image is not 28x28."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    kind = "wrong-size"
    title = "The image has the wrong size"


class ImageTooLargeError(ProblemError):
    """One image's file has more bytes than any 28x28 image needs."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    kind = "image-too-large"
    title = "The image's file is too large"


class UnsupportedImageError(ProblemError):
    """The image is whole, but of a kind that has no one meaning here: several frames, or floats."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    kind = "unsupported-image"
    title = "This kind of image is not supported"


class NotReadyError(ProblemError):
    """There is no proven model to answer with."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    kind = "not-ready"
    title = "The service is not ready"

    def __init__(self, detail: str, *, remedy: str) -> None:
        super().__init__(detail, remedy=remedy)
        self.headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}


class BadTimeoutError(ProblemError):
    """X-Request-Timeout-Ms is no time."""

    status = HTTPStatus.BAD_REQUEST
    kind = "bad-timeout"
    title = "The request's timeout cannot be understood"


class OverloadedError(ProblemError):
    """More requests than the queue holds."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    kind = "overloaded"
    title = "The service has too much to do"


class DeadlineExceededError(ProblemError):
    """The request's time was over before it was computed."""

    status = HTTPStatus.GATEWAY_TIMEOUT
    kind = "deadline-exceeded"
    title = "The request's time is over"


class RequestTimeoutError(ProblemError):
    """The request did not arrive whole within its time."""

    status = HTTPStatus.REQUEST_TIMEOUT
    kind = "request-timeout"
    title = "The request took too long to arrive"
