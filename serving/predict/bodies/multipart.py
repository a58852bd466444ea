"""Bodies with image files: one file, or multipart/form-data (RFC 7578), parsed by Werkzeug."""

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
    shortened,
)
from serving.predict.bodies.image_files import SUPPORTED, canonical
from serving.predict.load_shedding import check_deadline

CHUNK_BYTES = 1 << 16
MAX_PART_HEADER_BYTES = 16 << 10
MAX_BOUNDARY_CHARACTERS = 70  # RFC 2046, section 5.1.1
UNDECLARED = ("", "application/octet-stream")
"""Media types of a form part that declare nothing; the type is then recognised by content."""


@dataclass(kw_only=True, slots=True)
class Upload:
    """One file of a body, not decoded."""

    filename: str | None
    media_type: str | None
    """A key of `bundle.images.decoding.PARSERS`; None if none was declared."""
    data: bytes


def read_files(
    content_type: str | None, body: bytes, *, max_files: int, deadline: float = inf
) -> list[Upload]:
    """Return the files of a body, in order.

    Args:
        content_type: the field's value; None if the request has none.
        body: complete, without content coding.
        max_files: maximum of parts of a form.
        deadline: on the clock of `time.perf_counter()`, checked before each part of a form.

    Raises:
        EmptyBodyError: there is no body.
        UnsupportedMediaTypeError: the type is neither an image format nor multipart/form-data.
        MalformedBodyError: the form is malformed (RFC 7578, RFC 2046).
        NotAFileError, NoFileError, TooManyFilesError: parts are not files, or there are none, or too many.
        DeadlineExceededError: the deadline is over.
    """
    if not body:
        raise EmptyBodyError
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
                # A part without a filename is a file too if it declares an image type (RFC 7578, section 4.2).
                case Field() if _declared(event) not in PARSERS:
                    name = shortened(event.name or "", 100)
                    raise NotAFileError(f"the form part '{name}' is a text field, not a file")
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
            remedy=f"Send at most {max_files} files in one request, or raise GLYPH_MAX_FILES.",
        ) from None
    except ValueError as error:  # raised by Werkzeug for a malformed form
        raise MalformedBodyError(
            f"the form cannot be parsed: {error}",
            remedy="Let the HTTP client build the form (curl -F image=@digit.png): the boundary in Content-Type must "
            "be the one in the body, and the body must end with it.",
        ) from None
    if not uploads:
        raise NoFileError
    return uploads


def _events(boundary: bytes, body: bytes, max_files: int) -> Iterator[Event]:
    """Feed the body to Werkzeug's decoder in chunks, so that the headers of a part are bounded."""
    decoder = MultipartDecoder(boundary, max_parts=max_files)
    delimiter, view = b"--" + boundary, memoryview(body)
    inside = False  # whether the decoder is within the data of a part
    start = end = 0
    while start <= len(body):
        start, end = end, end + CHUNK_BYTES
        # Werkzeug 3.1 takes part of a boundary's line, or of the line break before it, as data of the file before it
        # if a chunk ends there, so no chunk does.
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
            "the Content-Type multipart/form-data has no valid boundary",
            remedy="Let the HTTP client set Content-Type; with curl, use -F without -H.",
        )
    return text.encode()


def _unsupported(media_type: str, data: bytes) -> ProblemError:
    likely = sniff(data)
    declare = f"-H 'Content-Type: {likely or 'image/png'}'"
    remedy = f"Declare the image's type (with curl: {declare}), or send a form (-F image=@FILE)."
    if likely is None:
        remedy += f" The supported types are {SUPPORTED} and multipart/form-data."
    if media_type == "application/x-www-form-urlencoded":
        return UnsupportedMediaTypeError(
            f"the content type is {media_type}, the default of curl",
            remedy=remedy,
        )
    said = (
        f"the content type {shortened(media_type, 100)} is not supported"
        if media_type
        else "the request has no Content-Type"
    )
    return UnsupportedMediaTypeError(said, remedy=remedy)
