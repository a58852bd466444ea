"""Content codings (RFC 9110, section 8.4.1): a request's body undone within a bound, an answer's made.

Only `gzip` and `deflate`, which is the zlib format (RFC 1950), whatever some clients think.
"""

import gzip
import re
import zlib

from serving.errors import BodyTooLargeError, MalformedBodyError, UnsupportedCodingError
from serving.predict.exchange import Request, Response

MIN_COMPRESSED_BYTES = 1024
"""Bytes of an answer below which compressing costs more than sending."""
MAX_GZIP_MEMBERS = 16
"""Of one gzip body. Many, each of them empty, would cost time that grows with the square of their number."""
COMPRESSION_LEVEL = 1
"""Of zlib: answers are made while others wait."""

_REFUSED = re.compile(r"q\s*=\s*0(\.0{0,3})?")
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


def decode(request: Request, limit: int) -> bytes:
    """Return the body without its content coding, never holding more than `limit` bytes of it.

    Raises:
        UnsupportedCodingError: the coding is another, or there are several.
        BodyTooLargeError: more than `limit` bytes come out.
        MalformedBodyError: the body is not what the coding says, or ends early.
    """
    named = request.headers.get("content-encoding")
    if named is None:
        return request.body
    coding = named.strip().lower()
    if coding in ("", "identity"):
        return request.body
    if coding not in _WINDOW_BITS:
        raise UnsupportedCodingError(
            f"the content coding {named[:100]!r} is not undone here",
            remedy="Send the body as it is (images are compressed already), or with gzip or deflate.",
        )
    try:
        body = _inflate(request.body, _WINDOW_BITS[coding], limit)
    except zlib.error as error:
        raise MalformedBodyError(
            f"the body is not {coding}: {error}",
            remedy="Compress the body as Content-Encoding says (deflate is the zlib format, RFC 1950), "
            "or leave the field out.",
        ) from None
    if len(body) > limit:
        raise BodyTooLargeError(
            f"the body is larger than {limit} bytes when its {coding} coding is undone",
            remedy="Send fewer or smaller files in one request, or raise GLYPH_MAX_BODY_BYTES.",
        )
    return body


def _inflate(data: bytes, window_bits: int, limit: int) -> bytes:
    """Undo all members of a gzip body, or one zlib stream; stop one byte beyond the limit."""
    pieces: list[bytes] = []
    left = limit + 1
    for _ in range(MAX_GZIP_MEMBERS):
        inflater = zlib.decompressobj(window_bits)
        pieces.append(inflater.decompress(data, left))
        left -= len(pieces[-1])
        if left <= 0:
            return b"".join(pieces)
        if not inflater.eof:
            raise zlib.error("it ends early")
        data = inflater.unused_data
        if not data:
            return b"".join(pieces)
        if window_bits == zlib.MAX_WBITS:
            raise zlib.error("bytes follow its end")
    raise zlib.error(f"it has more than {MAX_GZIP_MEMBERS} members")


def compress(response: Response, accepted: str | None) -> None:
    """Compress a large answer in place, if the client's `Accept-Encoding` names a coding that is known."""
    if accepted is None or len(response.body) < MIN_COMPRESSED_BYTES:
        return
    coding = _chosen(accepted)
    if coding == "gzip":
        response.body = gzip.compress(response.body, COMPRESSION_LEVEL, mtime=0)
    elif coding == "deflate":
        response.body = zlib.compress(response.body, COMPRESSION_LEVEL)
    else:
        return
    response.headers["Content-Encoding"] = coding
    response.headers["Vary"] = "Accept-Encoding"


def _chosen(accepted: str) -> str | None:
    """Return the first coding of ours that is listed and not refused by `q=0`."""
    for element in accepted.lower().split(","):
        coding, _, weight = (part.strip() for part in element.partition(";"))
        if coding in ("gzip", "deflate") and not _REFUSED.fullmatch(weight):
            return coding
    return None
