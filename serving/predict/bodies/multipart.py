"""Admit: from a content type and the bytes of a body to the files in it, without HTTP or WSGI."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from bundle.images.decoding import PARSERS, sniff
from serving.errors import (
    EmptyBodyError,
    MalformedBodyError,
    NoFileError,
    NotAFileError,
    ProblemError,
    TooManyFilesError,
    UnsupportedMediaTypeError,
)
from serving.predict.bodies.image_files import SUPPORTED, canonical
from serving.predict.load_shedding import check_deadline

CHUNK_BYTES = 1 << 16
MAX_PART_HEADER_BYTES = 16 << 10
MAX_BOUNDARY_CHARACTERS = 70  # RFC 2046, section 5.1.1
UNDECLARED = ("", "application/octet-stream")
"""Media types of a form part that say nothing, so that its content decides."""


@dataclass(kw_only=True, slots=True)
class Upload:
    """One file as it was sent, not yet looked at."""

    filename: str | None
    media_type: str | None
    """A key of `bundle.images.decoding.PARSERS`, or None where nothing was declared."""
    data: bytes


def read_files(
    content_type: str | None, body: bytes, *, max_files: int, deadline: float = inf
) -> list[Upload]:
    """Take a body apart into the files it carries, in their order.

    Args:
        content_type: the field's value, None if the request had none.
        body: the whole body, content codings undone; its size is already within the limit.
        max_files: most parts of a form.
        deadline: when the answer is not waited for any more, looked at before each part of a form.

    Raises:
        EmptyBodyError: there is no body.
        UnsupportedMediaTypeError: the type is neither an image format nor multipart/form-data.
        MalformedBodyError: the form is not one (RFC 7578, RFC 2046).
        NotAFileError, NoFileError, TooManyFilesError: the form's parts are not files, or too many.
        DeadlineExceededError: the time is over.
    """
    if not body:
        raise EmptyBodyError(
            "the request has no body", remedy="Send an image file: curl --data-binary @digit.png ..."
        )
    media_type, options = parse_options_header(content_type)
    media_type = canonical(media_type)
    if media_type in PARSERS:
        return [Upload(filename=None, media_type=media_type, data=body)]
    if media_type == "multipart/form-data":
        return _read_form(_boundary(options.get("boundary", "")), body, max_files, deadline)
    raise _unsupported(media_type, body)


def _read_form(boundary: bytes, body: bytes, max_files: int, deadline: float) -> list[Upload]:
    uploads: list[Upload] = []
    part: File | Field | None = None
    pieces: list[bytes] = []
    try:
        for event in _events(boundary, body, max_files):
            match event:
                # A part without a filename is a file all the same if it says of what type (RFC 7578, 4.2).
                case Field() if _declared(event) not in PARSERS:
                    raise NotAFileError(
                        f"the form part '{_shown(event.name)}' is a text field, not a file",
                        remedy="Send it as a file, with a filename: curl -F image=@digit.png (mind the @).",
                    )
                case File() | Field():
                    check_deadline(deadline)
                    part, pieces = event, []
                case Data() if part is not None:
                    pieces.append(event.data)
                    if not event.more_data:
                        uploads.append(_upload(part, b"".join(pieces), len(uploads)))
    except RequestEntityTooLarge:
        raise TooManyFilesError(
            f"the form has more than {max_files} files",
            remedy=f"Send at most {max_files} in one request, or raise GLYPH_MAX_FILES.",
        ) from None
    except ValueError as error:  # the decoder's word for a form that is broken
        raise MalformedBodyError(
            f"the form cannot be read: {error}",
            remedy="Let the HTTP client build it (curl -F image=@digit.png); the boundary in Content-Type "
            "must be the one in the body, and the form must end with it.",
        ) from None
    if not uploads:
        raise NoFileError("the form has no part", remedy="Add a file: curl -F image=@digit.png")
    return uploads


def _events(boundary: bytes, body: bytes, max_files: int) -> Iterator[Event]:
    """Run the decoder over the body in chunks, so that no part's headers can grow without bound."""
    decoder = MultipartDecoder(boundary, max_parts=max_files)
    delimiter, view = b"--" + boundary, memoryview(body)
    inside = False  # a part's data is still to come
    start = end = 0
    while start <= len(body):
        start, end = end, end + CHUNK_BYTES
        # Where a chunk ends within a boundary's line, or the line break before it, Werkzeug (3.1) takes some of it for
        # the file before.
        if (at := body.rfind(delimiter, max(0, start - len(delimiter)), end + len(b"\r\n" + delimiter))) >= 0:
            line_end = body.find(b"\n", at, at + MAX_PART_HEADER_BYTES) + 1
            end = max(end, line_end, at + len(delimiter + b"--"))
        decoder.receive_data(bytes(view[start:end]) or None)
        while not isinstance(event := decoder.next_event(), NeedData):
            yield event
            if isinstance(event, Epilogue):
                return
            inside = isinstance(event, File | Field) or (isinstance(event, Data) and event.more_data)
        if not inside and len(decoder.buffer) > MAX_PART_HEADER_BYTES:
            raise ValueError(f"more than {MAX_PART_HEADER_BYTES} bytes without a part")


def _declared(part: File | Field) -> str:
    return canonical(parse_options_header(part.headers.get("content-type"))[0])


def _upload(part: File | Field, data: bytes, index: int) -> Upload:
    filename = part.filename or None if isinstance(part, File) else None
    declared = _declared(part)
    if declared in UNDECLARED:
        return Upload(filename=filename, media_type=None, data=data)
    if declared not in PARSERS:
        error = _unsupported(declared, data)
        error.at_upload(index, filename)
        raise error
    return Upload(filename=filename, media_type=declared, data=data)


def _boundary(text: str) -> bytes:
    if not text or len(text) > MAX_BOUNDARY_CHARACTERS or not text.isascii():
        raise MalformedBodyError(
            "the Content-Type multipart/form-data has no usable boundary",
            remedy="Let the HTTP client set Content-Type itself; with curl, give -F and no -H.",
        )
    return text.encode()


def _unsupported(media_type: str, data: bytes) -> ProblemError:
    likely = sniff(data)
    declare = f"-H 'Content-Type: {likely or 'image/png'}'"
    remedy = f"Declare the image's type, with curl: {declare}; or send a form: -F image=@FILE."
    if likely is None:
        remedy += f" Supported are {SUPPORTED} and multipart/form-data."
    if media_type == "application/x-www-form-urlencoded":
        return UnsupportedMediaTypeError(
            f"the content type is {media_type}, which is what curl sends unless it is told otherwise",
            remedy=remedy,
        )
    said = (
        f"the content type {_shown(media_type)} is not supported"
        if media_type
        else "there is no content type"
    )
    return UnsupportedMediaTypeError(said, remedy=remedy)


def _shown(text: str | None) -> str:
    """Return a client's text short enough to be repeated to it."""
    text = text or ""
    return text if len(text) <= 100 else f"{text[:100]}..."
