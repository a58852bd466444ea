"""Family "malformed": bytes that are no request, or one beyond any limit (26 cases)."""

from random import Random

from bench.http11.case import (
    BAD,
    OK,
    PASS,
    Case,
    Level,
    also,
    answered,
    family,
    refused,
    refused_or_read,
)
from bench.http11.requests import HOST, chunks, get, length, request

MUST, SHOULD, MAY, OPEN = Level
_HUGE = 100_000
_MANY = 10_000
_GARBAGE = Random(42).randbytes(256)  # noqa: S311  no secret
_NO_URI = "RFC 3986, 2"
_TEXT = "RFC 9110, 5.5"
_KNOWN_OR_NOT = answered(BAD, range(200, 500))
"""400 is safer; a path that is merely not there is answered as any other."""
_TOO_MUCH = answered((*BAD, 413), silent=PASS)
"""413 besides 400: the length is well formed, and more than the server takes (RFC 9110, 15.5.14). The suite knows only
400, or that the server waits for a body which may never come."""

_case = family("malformed")
CASES: tuple[Case, ...] = (
    # No request
    _case("MAL-BINARY-GARBAGE", SHOULD, "RFC 9112, 3", _GARBAGE, refused, waits=True),
    _case("MAL-INCOMPLETE-REQUEST", OPEN, "", get(b"X-Test: a")[:-4], refused, waits=True),
    _case("MAL-EMPTY-REQUEST", OPEN, "", b"", refused, waits=True),
    _case("MAL-WHITESPACE-ONLY-LINE", OPEN, "", b"   \r\n\r\n", refused, waits=True),
    _case(
        "MAL-H2-PREFACE",
        OPEN,
        "RFC 9113, 3.4",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        answered((400, 505), silent=PASS),
        waits=True,
    ),
    # Too much
    _case("MAL-LONG-URL", SHOULD, "RFC 9112, 3", get(target=b"/" + b"A" * _HUGE), also(414, 431)),
    _case("MAL-LONG-METHOD", SHOULD, "RFC 9112, 3", get(method=b"A" * _HUGE), answered(BAD)),
    _case("MAL-LONG-HEADER-VALUE", SHOULD, "RFC 6585, 5", get(b"X-Big: " + b"B" * _HUGE), also(431)),
    _case("MAL-LONG-HEADER-NAME", SHOULD, "RFC 6585, 5", get(b"A" * _HUGE + b": a"), also(431)),
    _case("MAL-MANY-HEADERS", OPEN, "RFC 6585, 5", get(*(b"X-H-%d: a" % n for n in range(_MANY))), also(431)),
    _case(
        "MAL-CHUNK-EXT-64K",
        OPEN,
        "RFC 9112, 7.1.1",
        chunks(b"5;a=" + b"a" * 65536 + b"\r\nhello\r\n0\r\n\r\n"),
        answered((400, 431), OK),
    ),
    _case(
        "MAL-RANGE-OVERLAPPING",
        OPEN,
        "RFC 9110, 14.2",
        get(b"Range: bytes=" + b",".join([b"0-"] * 1000)),
        answered((), (200, 206, 400, 416, 431)),
        scored=False,
    ),
    _case("MAL-CL-OVERFLOW", MUST, "RFC 9110, 8.6", length(b"99999999999999999999", b""), refused),
    _case(
        "MAL-POST-CL-HUGE-NO-BODY", MUST, "RFC 9112, 6.3", length(b"999999999", b""), _TOO_MUCH, waits=True
    ),
    _case(
        "MAL-CHUNK-SIZE-OVERFLOW",
        MUST,
        "RFC 9112, 7.1",
        chunks(b"FFFFFFFFFFFFFFFF0\r\nhello\r\n0\r\n\r\n"),
        refused,
    ),
    # Characters
    _case("MAL-NUL-IN-URL", MUST, _NO_URI, get(target=b"/\0test"), refused),
    _case("MAL-NON-ASCII-URL", MUST, _NO_URI, get(target=b"/caf\xc3\xa9"), refused),
    _case("MAL-URL-OVERLONG-UTF8", MUST, _NO_URI, get(target=b"/\xc0\xaf"), refused),
    _case("MAL-URL-BACKSLASH", SHOULD, _NO_URI, get(target=b"/path\\file"), _KNOWN_OR_NOT),
    _case("MAL-URL-PERCENT-NULL", OPEN, "", get(target=b"/path%00.html"), _KNOWN_OR_NOT),
    _case("MAL-URL-PERCENT-CRLF", OPEN, "", get(target=b"/path%0d%0aX-Test:%20a"), _KNOWN_OR_NOT),
    _case("MAL-CONTROL-CHARS-HEADER", MUST, _TEXT, get(b"X-Test: a\x07\x08\x0bb"), refused),
    _case("MAL-NUL-IN-HEADER-VALUE", MUST, _TEXT, get(b"X-Test: a\0b"), refused),
    _case("MAL-NON-ASCII-HEADER-NAME", MUST, "RFC 9110, 5.1", get(b"X-T\xc3\xabst: a"), refused),
    # Lengths
    _case("MAL-CL-EMPTY", MUST, "RFC 9110, 8.6", length(b"", b""), refused),
    _case(
        "MAL-CL-TAB-BEFORE-VALUE",
        MAY,
        "RFC 9110, 5.5",
        request(b"POST / HTTP/1.1", b"Content-Length:\t5", host=HOST, body=b"hello"),
        refused_or_read,
    ),
)
