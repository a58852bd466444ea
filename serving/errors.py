"""Errors that the service raises on purpose.

`ProblemError` and its subclasses become HTTP responses, as RFC 9457 problem details. The subclasses are the table of
all problems, ordered by status. `ProviderError` ends the service before it has answered anything; `DeviceLostError`
ends a worker that has answered.
"""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, ClassVar

PROBLEM_MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5
BEARER_CHALLENGE = 'Bearer realm="glyph"'


class ServingError(Exception):
    """The base class of all of them."""


class ProviderError(ServingError):
    """The requested execution provider does not work on this machine; the message says what is missing."""


class DeviceLostError(ServingError):
    """The GPU is lost to this process, which has to be replaced; the message is what CUDA reports."""


class ProblemError(ServingError):
    """An HTTP error response: a status, what was wrong, and the remedy. This class itself is an unexpected error.

    Where the default detail is an example, such as "pixel 5 is 300", the code that raises the error gives its own.
    """

    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    kind: ClassVar[str] = "internal-error"
    """The end of the problem's `type` URI, and the label of metrics."""
    title: ClassVar[str] = "The service failed"
    detail: str = "an unexpected error occurred; the service's log has the details"
    remedy: str = (
        "Retry; if the error persists, give the operator the X-Request-ID and the time of this response."
    )
    """Both are defaults, and the example in the API's description."""
    fields: ClassVar[tuple[tuple[str, str], ...]] = ()
    """HTTP fields of every response of this kind."""

    def __init__(self, detail: str | None = None, *, remedy: str | None = None) -> None:
        super().__init__(detail or self.detail)
        self.detail, self.remedy = detail or self.detail, remedy or self.remedy
        self.extensions: dict[str, Any] = {}
        """More members of the problem document (RFC 9457, section 3.2)."""
        self.headers = dict(self.fields)
        """HTTP fields of the response, beside its content type."""

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

    def at_upload(self, index: int, filename: str | None) -> None:
        """Note which file of a form has the problem: its index, from 0, and its name."""
        self.extensions = {"upload": index, "filename": filename}

    def at_instance(self, index: int) -> None:
        """Note which of several instances has the problem: its index, from 0."""
        self.extensions = {"instance": index}


class MalformedRequestError(ProblemError):
    """The request is not HTTP/1.1 (RFC 9112), or exceeds a limit of the parser; some cases have another status."""

    status = HTTPStatus.BAD_REQUEST
    kind = "malformed-request"
    title = "The request cannot be read"
    detail = (
        "Invalid HTTP Header: 'an HTTP/1.1 request has one Host field, with a host in it (RFC 9112, "
        "section 3.2)'"
    )
    remedy = "Send a request that conforms to RFC 9112, as standard HTTP clients do."


class EmptyBodyError(ProblemError):
    """The request has no body."""

    status = HTTPStatus.BAD_REQUEST
    kind = "empty-body"
    title = "The body is empty"
    detail = "the request has no body"
    remedy = "Send an image file: curl --data-binary @digit.png ..."


class MalformedBodyError(ProblemError):
    """The body does not have the framing, the content coding or the format that the request declares."""

    status = HTTPStatus.BAD_REQUEST
    kind = "malformed-body"
    title = "The body cannot be read"
    detail = "the body is not JSON: unexpected end of data: line 1 column 16 (char 15)"
    remedy = "Send JSON in UTF-8 as defined by RFC 8259; NaN and Infinity are not JSON numbers."


class BadQueryError(ProblemError):
    """A query parameter is unknown or has an invalid value."""

    status = HTTPStatus.BAD_REQUEST
    kind = "bad-query"
    title = "The query cannot be understood"
    detail = "the query parameter 'top' is '0'"
    remedy = "Give the number of classes to list, 1 or more: ?top=3."


class BadTimeoutError(ProblemError):
    """X-Request-Timeout-Ms is not a number of milliseconds."""

    status = HTTPStatus.BAD_REQUEST
    kind = "bad-timeout"
    title = "The request's timeout cannot be understood"
    detail = "X-Request-Timeout-Ms is 'soon', which is not a number of milliseconds"
    remedy = "Send a whole number of milliseconds, 1 or more, or omit the field."


class ModelControlError(ProblemError):
    """A client asks to load or unload a model, which only publishing does."""

    status = HTTPStatus.BAD_REQUEST
    kind = "model-control"
    title = "Models are not loaded by request"
    detail = "the service loads the versions that are published in its repository, and no others"
    remedy = (
        "Publish a version ('python -m training fit'), or remove one: it is noticed by itself "
        "(GLYPH_RELOAD_SECONDS); POST /v2/repository/index lists the versions."
    )


class BearerMalformedError(ProblemError):
    """The Authorization field has the scheme Bearer and is malformed (RFC 6750, section 3.1)."""

    status = HTTPStatus.BAD_REQUEST
    kind = "malformed-authorization"
    title = "The Authorization field cannot be read"
    detail = "the Authorization field is not 'Bearer' followed by one token"
    remedy = "Send one field as in RFC 6750, section 2.1: Authorization: Bearer TOKEN."
    fields = (("WWW-Authenticate", f'{BEARER_CHALLENGE}, error="invalid_request"'),)


class UnauthorizedError(ProblemError):
    """The request has no bearer token, or an invalid one (RFC 6750, section 3)."""

    status = HTTPStatus.UNAUTHORIZED
    kind = "unauthorized"
    title = "A bearer token is needed"
    detail = "the request has no bearer token"
    remedy = "Send the token that the operator gave you: -H 'Authorization: Bearer TOKEN'."
    fields = (("WWW-Authenticate", BEARER_CHALLENGE),)


class NotFoundError(ProblemError):
    """The path, the model or the version does not exist."""

    status = HTTPStatus.NOT_FOUND
    kind = "not-found"
    title = "There is nothing at this path"
    detail = "version 9 is not loaded"
    remedy = "Ask for one of the versions that are: 1."


class MethodNotAllowedError(ProblemError):
    """The path exists and does not allow the method."""

    status = HTTPStatus.METHOD_NOT_ALLOWED
    kind = "method-not-allowed"
    title = "This path does not answer this method"
    detail = "/predict does not allow GET"
    remedy = "Use one of the methods in the Allow field; predictions are requested by POST."


class RequestTimeoutError(ProblemError):
    """The request did not arrive completely within its time limit."""

    status = HTTPStatus.REQUEST_TIMEOUT
    kind = "request-timeout"
    title = "The request took too long to arrive"
    detail = "the body did not arrive within 30 s"
    remedy = (
        "Send the request without pauses; over a slow connection, send smaller files, or raise "
        "GLYPH_HEADER_TIMEOUT_SECONDS or GLYPH_BODY_TIMEOUT_SECONDS."
    )


class BodyTooLargeError(ProblemError):
    """The body has more bytes than GLYPH_MAX_BODY_BYTES."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    kind = "body-too-large"
    title = "The body is too large"
    detail = "the body is larger than 8388608 bytes"
    remedy = "Send fewer or smaller files in one request, or raise GLYPH_MAX_BODY_BYTES."


class TooManyImagesError(ProblemError):
    """The body has more images than GLYPH_MAX_IMAGES."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    kind = "too-many-images"
    title = "The body has too many images"
    detail = "the body has 2000 images; at most 1024 are allowed"
    remedy = "Send them in several requests, or raise GLYPH_MAX_IMAGES."


class TooManyFilesError(ProblemError):
    """The form has more files than GLYPH_MAX_FILES."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    kind = "too-many-files"
    title = "The form has too many parts"
    detail = "the form has more than 256 files"
    remedy = "Send at most 256 files in one request, or raise GLYPH_MAX_FILES."


class ImageTooLargeError(ProblemError):
    """An image file has more bytes than any 28x28 image needs."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    kind = "image-too-large"
    title = "The image's file is too large"
    detail = "the file has 1048577 bytes, more than the 1048576 that a 28x28 image may have"
    remedy = "Resize the image to 28x28 and save it without metadata; such a file has a few KiB."


class UnsupportedMediaTypeError(ProblemError):
    """The media type is not supported, or the body is of another one."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    kind = "unsupported-media-type"
    title = "The media type is not supported"
    detail = "the content is declared as image/png, but it is image/jpeg"
    remedy = "Declare the actual type: Content-Type: image/jpeg."


class UnsupportedCodingError(ProblemError):
    """The content coding of the body is not supported (RFC 9110, section 15.5.16)."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    kind = "unsupported-coding"
    title = "The content coding is not supported"
    detail = "the content coding 'br' is not supported"
    remedy = "Send the body uncompressed (image files are compressed already), or with gzip or deflate."
    fields = (("Accept-Encoding", "gzip, deflate"),)


class InvalidInstanceError(ProblemError):
    """The body could be parsed, but its content is not images of the model's input contract."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    kind = "invalid-instance"
    title = "An instance is not an image"
    detail = "pixel 5 is 300"
    remedy = "Pixels are integers from 0 to 255."


class NotAFileError(ProblemError):
    """A part of the form is a text field."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    kind = "not-a-file"
    title = "A form part is not a file"
    detail = "the form part 'image' is a text field, not a file"
    remedy = "Send it as a file, with a filename: curl -F image=@digit.png (mind the @)."


class NoFileError(ProblemError):
    """The form has no parts, or no file was chosen in it."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    kind = "no-file"
    title = "The form has no file"
    detail = "the form has no parts"
    remedy = "Add a file: curl -F image=@digit.png."


class BrokenImageError(ProblemError):
    """The image file is empty, truncated or damaged."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    kind = "broken-image"
    title = "The image cannot be decoded"
    detail = "the image/png is truncated or damaged (it ends too early)"
    remedy = "Send the whole file; with curl that is --data-binary @FILE, not -d @FILE."


class WrongSizeError(ProblemError):
    """The image is not 28x28."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    kind = "wrong-size"
    title = "The image has the wrong size"
    detail = "the image is 32x32 pixels, the model takes 28x28"
    remedy = "Resize the image to 28x28, as the training images were prepared."


class UnsupportedImageError(ProblemError):
    """The image is intact, but of a kind that is not read here: several frames, floats, CIELab."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    kind = "unsupported-image"
    title = "This kind of image is not supported"
    detail = "the file has several frames"
    remedy = "Send each frame as a file or a form part of its own."


class AuthorizationUnavailableError(ProblemError):
    """Tokens are required, and the token file has never been readable, so the valid ones are unknown."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    kind = "access-unknown"
    title = "The service cannot tell who may ask"
    detail = "authorisation is unavailable: the token file cannot be read"
    remedy = "Tell the operator; the service's log has the reason."


class NotReadyError(ProblemError):
    """No verified model is loaded."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    kind = "not-ready"
    title = "The service is not ready"
    detail = "no model is served: no version is published in /models"
    remedy = (
        "Publish a version ('python -m training fit' trains one) or restore one, then wait until it is noticed "
        "(GLYPH_RELOAD_SECONDS), restart the service or send it SIGHUP; 'python -m bundle verify' checks a version."
    )
    fields = (("Retry-After", str(RETRY_AFTER_SECONDS)),)


class OverloadedError(ProblemError):
    """The request was shed: the queue is full, or the memory for requests is in use."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    kind = "overloaded"
    title = "The service has too much to do"
    detail = "the service is overloaded: 512 requests are queued, and the queue is full"
    remedy = "Retry after 1 s, then with exponential backoff; the operator can run more workers."

    def __init__(self, detail: str | None = None, *, remedy: str | None = None, retry_after: int = 1) -> None:
        super().__init__(detail, remedy=remedy)
        self.headers = {"Retry-After": str(retry_after)}


class DeadlineExceededError(ProblemError):
    """The request's deadline passed before it was computed."""

    status = HTTPStatus.GATEWAY_TIMEOUT
    kind = "deadline-exceeded"
    title = "The request's time is over"
    detail = "the request's deadline passed before it was computed"
    remedy = (
        "Allow more time with X-Request-Timeout-Ms, up to GLYPH_REQUEST_TIMEOUT_SECONDS, or retry when the "
        "load is lower."
    )


def shortened(text: str, most: int = 40) -> str:
    """Return a client's text for an error message: at most so many characters of it."""
    return text if len(text) <= most else f"{text[:most]}..."


def problem_classes(base: type[ProblemError] = ProblemError) -> Iterator[type[ProblemError]]:
    """Yield `base` and all of its subclasses."""
    yield base
    for child in base.__subclasses__():
        yield from problem_classes(child)
