"""Bodies with image files: one file, or multipart/form-data (RFC 7578), parsed by Werkzeug."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

from werkzeug.datastructures import Headers
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from bundle.images.decoding import PARSERS
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
from serving.predict.bodies.media_types import ACCEPTED, ANY_IMAGE, IMAGES, canonical, remedy, undeclared
from serving.predict.load_shedding import check_deadline

CHUNK_BYTES = 1 << 16
MAX_PART_HEADER_BYTES = 16 << 10
MAX_BOUNDARY_CHARACTERS = 70  # RFC 2046, section 5.1.1


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
    if media_type in PARSERS or media_type in ANY_IMAGE:
        declared = media_type if media_type in PARSERS else None
        return [Upload(filename=None, media_type=declared, data=body)]
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
                # A part without a filename is a file too if it is not text (RFC 7578, sections 4.2 and 4.4).
                case Field() if _declared(event) in ("", "text/plain"):
                    name = shortened(event.name or "", 100)
                    raise NotAFileError(f"the form part '{name}' is a text field, not a file")
                case File() | Field():
                    check_deadline(deadline)
                    part, pieces = event, []
                case Data() if part is not None:
                    pieces.append(event.data)
                    if not event.more_data and (any(pieces) or not _is_unset(part)):
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
        raise NoFileError(None if part is None else "no file is chosen in the form")
    return uploads


class _Decoder(MultipartDecoder):
    """Werkzeug's decoder, which rejects names in other encodings than UTF-8 (RFC 7578, section 5.1)."""

    def _parse_headers(self, data: bytes | bytearray) -> Headers:
        """Parse as UTF-8, and what is not as Latin-1, in which every byte is a character."""
        try:
            return super()._parse_headers(data)
        except UnicodeDecodeError:
            return super()._parse_headers(bytes(data).decode("latin-1").encode())


def _events(boundary: bytes, body: bytes, max_files: int) -> Iterator[Event]:
    """Feed the body to Werkzeug's decoder in chunks, so that the headers of a part are bounded."""
    decoder = _Decoder(boundary, max_parts=max_files)
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


def _is_unset(part: File | Field) -> bool:
    """Tell whether a part without data is a file input in which the user chose no file.

    Its name is empty (HTML, section 4.10.22.4, "Constructing the entry list").
    """
    return isinstance(part, File) and not part.filename


def _upload(part: File | Field, data: bytes, index: int) -> Upload:
    filename = part.filename or None if isinstance(part, File) else None
    declared = _declared(part)
    if undeclared(declared):
        return Upload(filename=filename, media_type=None, data=data)
    if declared not in PARSERS:
        error = UnsupportedMediaTypeError(
            _said(declared),
            remedy=f"Declare one of {IMAGES}, or nothing; with curl: -F 'image=@FILE;type=image/png'.",
        )
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


def _unsupported(media_type: str, body: bytes) -> ProblemError:
    if media_type == "application/x-www-form-urlencoded":
        said = f"the content type is {media_type}, the default of curl's -d and --data-binary"
    else:
        said = _said(media_type) if media_type else "the request has no Content-Type"
    general = (
        "Declare what the body is (with curl: -H 'Content-Type: image/png' --data-binary @FILE), or send a form "
        f"(-F image=@FILE). The supported types are {ACCEPTED}."
    )
    return UnsupportedMediaTypeError(said, remedy=remedy(body) or general)


def _said(media_type: str) -> str:
    return f"the content type {shortened(media_type, 100)} is not supported"
