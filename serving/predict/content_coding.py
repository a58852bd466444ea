"""Content codings (RFC 9110, section 8.4.1): a request body is decoded within a limit.

Only `gzip` and `deflate`, which is the zlib format (RFC 1950), not raw deflate as some clients send it.
Responses are not compressed here, where it would block the event loop; a proxy does it (docs/operations.md).
"""

import zlib

from serving.errors import BodyTooLargeError, MalformedBodyError, UnsupportedCodingError
from serving.predict.exchange import Request

MAX_GZIP_MEMBERS = 16
"""Members of one gzip body: many empty ones would take time quadratic in their number."""

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
