"""Content codings (RFC 9110, section 8.4.1): request bodies are decoded within a limit, responses compressed.

Only `gzip` and `deflate`, which is the zlib format (RFC 1950), not raw deflate as some clients send it.
"""

import gzip
import re
import zlib

from serving.errors import BodyTooLargeError, MalformedBodyError, UnsupportedCodingError
from serving.predict.exchange import Request, Response

MIN_COMPRESSED_BYTES = 1024
"""Below this size, compressing a response costs more than sending it."""
MAX_GZIP_MEMBERS = 16
"""Members of one gzip body: many empty ones would take time quadratic in their number."""
COMPRESSION_LEVEL = 1
"""zlib's fastest, because other requests wait meanwhile."""

_NOT_ACCEPTABLE = re.compile(r"q\s*=\s*0(\.0{0,3})?")
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


def decode(request: Request, limit: int) -> bytes:
    """Return the body without its `Content-Encoding`; at most `limit` + 1 bytes are decoded.

    Raises:
        UnsupportedCodingError: the coding is not supported, or there are several.
        BodyTooLargeError: the decoded body has more than `limit` bytes.
        MalformedBodyError: the body is not in this coding, or ends early.
    """
    named = request.headers["content-encoding"]
    coding = named.strip().lower()
    if coding in ("", "identity"):
        return request.body
    if coding not in _WINDOW_BITS:
        raise UnsupportedCodingError(f"the content coding {named[:100]!r} is not supported")
    try:
        body = _inflate(request.body, _WINDOW_BITS[coding], limit)
    except zlib.error as error:
        raise MalformedBodyError(
            f"the body is not {coding}: {error}",
            remedy="Compress the body as Content-Encoding declares (deflate is the zlib format, RFC 1950), "
            "or omit the field.",
        ) from None
    if len(body) > limit:
        raise BodyTooLargeError(f"the body is larger than {limit} bytes after {coding} decoding")
    return body


def _inflate(data: bytes, window_bits: int, limit: int) -> bytes:
    """Decompress all members of a gzip body, or one zlib stream; stop one byte beyond the limit."""
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


def compress(response: Response, accepted: str) -> None:
    """Compress a large response in place, if `Accept-Encoding` lists gzip or deflate."""
    if len(response.body) < MIN_COMPRESSED_BYTES:
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
    """Return the first supported coding in the list, skipping those with `q=0`."""
    for element in accepted.lower().split(","):
        coding, _, weight = (part.strip() for part in element.partition(";"))
        if coding in ("gzip", "deflate") and not _NOT_ACCEPTABLE.fullmatch(weight):
            return coding
    return None
