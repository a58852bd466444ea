"""Family "smuggling": requests whose end two readers may see at two places (87 cases)."""

from bench.http11.case import (
    BAD,
    FAIL,
    OK,
    PASS,
    WARN,
    Case,
    Judge,
    Level,
    Outcome,
    Verdict,
    also,
    answered,
    family,
    refused,
    refused_or_read,
)
from bench.http11.requests import CHUNKED, HOST, chunks, coding, get, length, post, request

MUST, SHOULD, MAY, OPEN = Level
_TE_CL = "RFC 9112, 6.1"
_FIELD_AND_LENGTH = "RFC 9110, 8.6"
_CHUNK = "RFC 9112, 7.1"
_EXTENSION = "RFC 9112, 7.1.1"
_TRAILER = "RFC 9110, 6.5.1"
_NOT_READ = (400, 501)


def _read_and_closed(outcome: Outcome) -> Verdict:
    """Judge a coding beside a length: refused; or read, if the connection is closed after it."""
    if outcome.first is not None and outcome.first.status in OK:
        return WARN if outcome.closed else FAIL
    return answered(_NOT_READ)(outcome)


def _closed_or_refused(outcome: Outcome) -> Verdict:
    """Judge a coding beside a length, whose reader need not close: 400 or the end pass, 2xx warns."""
    if (outcome.first is not None and outcome.first.status == 400) or outcome.closed:
        return PASS
    return WARN if outcome.first is not None and outcome.first.status in OK else FAIL


def _ends(outcome: Outcome) -> Verdict:
    """Judge that the request is refused, or the connection closed after it, and nothing hidden in it is answered."""
    if outcome.extra:
        return FAIL
    if outcome.first is not None and outcome.first.status == 400:
        return PASS
    again = len(outcome.answers) > 1 and outcome.last is not None
    return PASS if outcome.closed and not again else FAIL


def _body_is_skipped(refusals: tuple[int, ...] = BAD, *, other: Verdict = FAIL) -> Judge:
    """Judge that a body that nobody reads is not taken for the next request, which warns."""

    def judge(outcome: Outcome) -> Verdict:
        first, last = outcome.first, outcome.last
        if (first is not None and first.status in refusals) or (outcome.closed and last is None):
            return PASS
        if first is None or first.status not in OK:
            return other
        return PASS if last is not None and last.status in OK and not outcome.extra else WARN

    return judge


def _hidden_prefix(outcome: Outcome) -> Verdict:
    """Judge a body that begins a request, which the second step would end: it is no request."""
    first, last = outcome.first, outcome.last
    if (first is not None and first.status == 400) or (outcome.closed and last is None):
        return PASS
    if first is None or first.status not in OK or outcome.extra:
        return WARN
    return PASS if last is not None and last.status in (400, *OK) else WARN


def _poisoned(outcome: Outcome) -> Verdict:
    """Judge a byte after a request: whoever answers both takes it for the next one's, as it must; 400 is safer."""
    first, last = outcome.first, outcome.last
    if (first is not None and first.status == 400) or (outcome.closed and last is None):
        return PASS
    return WARN if first is not None and first.status in OK else FAIL


def _both(outcome: Outcome) -> Verdict:
    if outcome.first is None or outcome.first.status not in OK:
        return FAIL
    return PASS if outcome.last is not None and outcome.last.status in OK else WARN


def _hiding(hidden: bytes, *fields: bytes, prefix: bytes = b"0\r\n\r\n") -> bytes:
    """Return a POST whose body, by one of two readings, ends before a request; `%d` in a field is its length."""
    body = prefix + hidden
    return post(*(field.replace(b"%d", b"%d" % len(body)) for field in fields), body=body)


def _hidden_in_a_chunk() -> bytes:
    """Return a POST whose chunk is a request, to whoever ends the body with the chunk's size."""
    hidden = get(b"Content-Length: 7")
    size = b"%x\r\n" % len(hidden)
    return post(CHUNKED, b"Content-Length: %d" % len(size), body=size + hidden + b"\r\n0\r\n\r\n")


_case = family("smuggling")
_AGAIN = get()
_UNREAD = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
_FOLDED = b"Transfer-Encoding:\r\n chunked"
_BANANAS = b"D\r\nhello-bananas\r\n0\r\n\r\n"


def _trailer(name: str, field: bytes) -> Case:
    return _case(
        name,
        MUST,
        _TRAILER,
        chunks(b"5\r\nhello\r\n0\r\n" + field + b"\r\n\r\n"),
        refused_or_read,
        scored=False,
    )


CASES: tuple[Case, ...] = (
    # A length beside a coding
    _case(
        "SMUG-CL-TE-BOTH",
        SHOULD,
        _TE_CL,
        post(b"Content-Length: %d" % len(_BANANAS), CHUNKED, body=_BANANAS),
        refused_or_read,
    ),
    _case(
        "SMUG-CLTE-PIPELINE",
        MAY,
        _TE_CL,
        post(b"Content-Length: 4", CHUNKED, body=b"0\r\n\r\n"),
        _closed_or_refused,
    ),
    _case(
        "SMUG-TECL-PIPELINE",
        MAY,
        _TE_CL,
        post(CHUNKED, b"Content-Length: 30", body=b"0\r\n\r\n"),
        _closed_or_refused,
    ),
    _case(
        "SMUG-CLTE-CONN-CLOSE",
        MUST,
        _TE_CL,
        post(b"Content-Length: 5", CHUNKED, body=b"0\r\n\r\n"),
        _ends,
        _AGAIN,
    ),
    _case(
        "SMUG-TECL-CONN-CLOSE",
        MUST,
        _TE_CL,
        post(CHUNKED, b"Content-Length: 5", body=b"0\r\n\r\n"),
        _ends,
        _AGAIN,
    ),
    _case(
        "SMUG-CLTE-DESYNC",
        MUST,
        _TE_CL,
        post(b"Content-Length: 6", CHUNKED, body=b"0\r\n\r\nX"),
        _ends,
        _AGAIN,
    ),
    _case(
        "SMUG-TECL-DESYNC",
        MUST,
        _TE_CL,
        post(CHUNKED, b"Content-Length: 30", body=b"0\r\n\r\nX"),
        _ends,
        _AGAIN,
    ),
    _case("SMUG-CLTE-SMUGGLED-GET", MUST, _TE_CL, _hiding(_AGAIN, b"Content-Length: %d", CHUNKED), _ends),
    _case(
        "SMUG-CLTE-SMUGGLED-GET-CL-PLUS",
        MUST,
        _TE_CL,
        _hiding(_AGAIN, b"Content-Length: +%d", CHUNKED),
        _ends,
    ),
    _case(
        "SMUG-CLTE-SMUGGLED-GET-CL-NON-NUMERIC",
        MUST,
        _TE_CL,
        _hiding(_AGAIN, b"Content-Length: %dx", CHUNKED),
        _ends,
    ),
    _case(
        "SMUG-CLTE-SMUGGLED-GET-TE-OBS-FOLD",
        MUST,
        "RFC 9112, 5.2",
        _hiding(_AGAIN, _FOLDED, b"Content-Length: %d"),
        _ends,
    ),
    _case(
        "SMUG-CLTE-SMUGGLED-HEAD",
        MUST,
        _TE_CL,
        _hiding(get(method=b"HEAD"), b"Content-Length: %d", CHUNKED),
        _ends,
    ),
    _case(
        "SMUG-CLTE-SMUGGLED-GET-TE-TRAILING-SPACE",
        MUST,
        _TE_CL,
        _hiding(_AGAIN, b"Content-Length: %d", CHUNKED + b" "),
        _ends,
    ),
    _case(
        "SMUG-CLTE-SMUGGLED-GET-TE-LEADING-COMMA",
        MUST,
        _TE_CL,
        _hiding(_AGAIN, b"Content-Length: %d", b"Transfer-Encoding: , chunked"),
        _ends,
    ),
    _case(
        "SMUG-CLTE-SMUGGLED-GET-TE-CASE-MISMATCH",
        MUST,
        _TE_CL,
        _hiding(_AGAIN, b"Content-Length: %d", b"Transfer-Encoding: Chunked"),
        _ends,
    ),
    _case(
        "SMUG-TE-DUPLICATE-HEADERS-SMUGGLED-GET",
        MUST,
        _TE_CL,
        _hiding(_AGAIN, CHUNKED, b"Transfer-Encoding: identity", b"Content-Length: %d"),
        _ends,
    ),
    _case("SMUG-TECL-SMUGGLED-GET", MUST, _TE_CL, _hidden_in_a_chunk(), _ends),
    _case(
        "SMUG-DUPLICATE-CL-SMUGGLED-GET",
        MUST,
        _FIELD_AND_LENGTH,
        _hiding(_AGAIN, b"Content-Length: 4", b"Content-Length: %d", prefix=b"PING"),
        _ends,
    ),
    # Lengths
    _case(
        "SMUG-DUPLICATE-CL",
        MUST,
        _FIELD_AND_LENGTH,
        post(b"Content-Length: 5", b"Content-Length: 10", body=b"helloworld"),
        refused,
    ),
    _case("SMUG-CL-LEADING-ZEROS", SHOULD, _FIELD_AND_LENGTH, length(b"005"), refused_or_read),
    _case(
        "SMUG-CL-LEADING-ZEROS-OCTAL", SHOULD, _FIELD_AND_LENGTH, length(b"0200", b"A" * 200), refused_or_read
    ),
    _case("SMUG-CL-DOUBLE-ZERO", SHOULD, _FIELD_AND_LENGTH, length(b"00", b""), refused_or_read),
    _case("SMUG-CL-NEGATIVE", MUST, _FIELD_AND_LENGTH, length(b"-1", b""), refused),
    _case("SMUG-CL-NEGATIVE-ZERO", MUST, _FIELD_AND_LENGTH, length(b"-0", b""), refused),
    _case("SMUG-CL-OCTAL", MUST, _FIELD_AND_LENGTH, length(b"0o5"), refused),
    _case("SMUG-CL-HEX-PREFIX", MUST, _FIELD_AND_LENGTH, length(b"0x5"), refused),
    _case("SMUG-CL-UNDERSCORE", MUST, _FIELD_AND_LENGTH, length(b"1_0", b"helloworld"), refused),
    _case("SMUG-CL-INTERNAL-SPACE", MUST, _FIELD_AND_LENGTH, length(b"1 0", b"hello12345"), refused),
    _case("SMUG-CL-TRAILING-SPACE", SHOULD, "RFC 9110, 5.5", length(b"5 "), refused_or_read),
    _case("SMUG-CL-EXTRA-LEADING-SP", SHOULD, "RFC 9110, 5.5", length(b" 5"), refused_or_read),
    _case("SMUG-CL-COMMA-DIFFERENT", MUST, _FIELD_AND_LENGTH, length(b"5, 10"), refused),
    _case("SMUG-CL-COMMA-SAME", MUST, _FIELD_AND_LENGTH, length(b"5, 5"), refused_or_read, scored=False),
    _case("SMUG-CL-COMMA-TRIPLE", MUST, _FIELD_AND_LENGTH, length(b"5, 5, 5"), refused_or_read, scored=False),
    # Codings, each with a length beside it but where it says otherwise
    _case("SMUG-TE-XCHUNKED", MUST, _TE_CL, coding(b"xchunked"), also(501)),
    _case("SMUG-TE-TRAILING-SPACE", MUST, _TE_CL, coding(b"chunked "), _read_and_closed),
    _case(
        "SMUG-TE-SP-BEFORE-COLON",
        MUST,
        "RFC 9112, 5.1",
        post(b"Transfer-Encoding : chunked", b"Content-Length: 5", body=b"hello"),
        refused,
    ),
    _case("SMUG-TE-DOUBLE-CHUNKED", SHOULD, _TE_CL, coding(b"chunked, chunked"), refused_or_read),
    _case("SMUG-TE-CASE-MISMATCH", SHOULD, _TE_CL, coding(b"Chunked"), refused_or_read),
    _case(
        "SMUG-TE-NOT-FINAL-CHUNKED",
        MUST,
        "RFC 9112, 6.3",
        post(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"),
        refused,
    ),
    _case(
        "SMUG-TE-HTTP10",
        MUST,
        _TE_CL,
        post(CHUNKED, b"Content-Length: 5", body=b"hello", version=b"HTTP/1.0"),
        refused,
    ),
    _case("SMUG-TE-EMPTY-VALUE", MUST, _TE_CL, coding(b""), refused),
    _case("SMUG-TE-LEADING-COMMA", SHOULD, "RFC 9110, 5.6.1", coding(b", chunked"), refused_or_read),
    _case("SMUG-TE-TRAILING-COMMA", SHOULD, "RFC 9110, 5.6.1", coding(b"chunked,"), refused_or_read),
    _case(
        "SMUG-TE-DUPLICATE-HEADERS",
        MUST,
        _TE_CL,
        post(CHUNKED, b"Transfer-Encoding: identity", b"Content-Length: 5", body=b"hello"),
        refused,
    ),
    _case("SMUG-TE-VTAB", MUST, _TE_CL, coding(b"\x0bchunked"), refused),
    _case("SMUG-TE-FORMFEED", MUST, _TE_CL, coding(b"\x0cchunked"), refused),
    _case("SMUG-TE-NULL", MUST, _TE_CL, coding(b"chunked\0"), refused),
    _case("SMUG-TE-IDENTITY", MUST, "RFC 9112, 7", coding(b"identity"), also(501)),
    _case(
        "SMUG-TE-OBS-FOLD",
        MUST,
        "RFC 9112, 5.2",
        post(_FOLDED, b"Content-Length: 5", body=b"hello"),
        _read_and_closed,
    ),
    _case(
        "SMUG-OPTIONS-TE-OBS-FOLD",
        MUST,
        "RFC 9112, 5.2",
        get(_FOLDED, b"Content-Length: 5", method=b"OPTIONS") + b"hello",
        _ends,
        _AGAIN,
    ),
    _case(
        "SMUG-TE-TAB-BEFORE-VALUE", MUST, "RFC 9110, 5.5", coding(b"\tchunked"), refused_or_read, scored=False
    ),
    _case(
        "SMUG-CHUNKED-WITH-PARAMS", MUST, "RFC 9112, 7", coding(b"chunked;a=b"), refused_or_read, scored=False
    ),
    _case(
        "SMUG-TRANSFER_ENCODING",
        MUST,
        _TE_CL,
        post(b"Transfer_Encoding: chunked", b"Content-Length: 5", body=b"hello"),
        refused_or_read,
        scored=False,
    ),
    # Chunks
    _case("SMUG-CHUNK-BARE-SEMICOLON", MUST, _EXTENSION, chunks(b"5;\r\nhello\r\n0\r\n\r\n"), refused),
    _case("SMUG-CHUNK-EXT-INVALID-TOKEN", MUST, _EXTENSION, chunks(b"5;a[=b\r\nhello\r\n0\r\n\r\n"), refused),
    _case("SMUG-CHUNK-EXT-CTRL", MUST, _EXTENSION, chunks(b"5;\0a\r\nhello\r\n0\r\n\r\n"), refused),
    _case("SMUG-CHUNK-EXT-CR", MUST, _EXTENSION, chunks(b"5;a\rX\r\nhello\r\n0\r\n\r\n"), refused),
    _case("SMUG-CHUNK-EXT-LF", MAY, _EXTENSION, chunks(b"5;\nhello\r\n0\r\n\r\n"), refused_or_read),
    _case("SMUG-CHUNK-UNDERSCORE", MUST, _CHUNK, chunks(b"1_0\r\nhello world!!!!!\r\n0\r\n\r\n"), refused),
    _case("SMUG-CHUNK-HEX-PREFIX", MUST, _CHUNK, chunks(b"0x5\r\nhello\r\n0\r\n\r\n"), refused),
    _case("SMUG-CHUNK-SIZE-PLUS", MUST, _CHUNK, chunks(b"+5\r\nhello\r\n0\r\n\r\n"), refused),
    _case("SMUG-CHUNK-NEGATIVE", MUST, _CHUNK, chunks(b"-1\r\nhello\r\n0\r\n\r\n"), refused),
    _case("SMUG-CHUNK-SIZE-TRAILING-OWS", MUST, _CHUNK, chunks(b"5 \r\nhello\r\n0\r\n\r\n"), refused),
    _case("SMUG-CHUNK-LEADING-SP", MUST, _CHUNK, chunks(b" 5\r\nhello\r\n0\r\n\r\n"), refused),
    _case("SMUG-CHUNK-MISSING-TRAILING-CRLF", MUST, _CHUNK, chunks(b"5\r\nhello0\r\n\r\n"), refused),
    _case("SMUG-CHUNK-SPILL", MUST, _CHUNK, chunks(b"5\r\nhello!!\r\n0\r\n\r\n"), refused),
    _case("SMUG-CHUNK-LF-TERM", MAY, _CHUNK, chunks(b"5\r\nhello\n0\r\n\r\n"), refused_or_read),
    _case("SMUG-CHUNK-LF-TRAILER", MAY, _CHUNK, chunks(b"5\r\nhello\r\n0\r\n\n"), refused_or_read),
    _case("SMUG-CHUNK-BARE-CR-TERM", MUST, "RFC 9112, 2.2", chunks(b"5\rhello\r\n0\r\n\r\n"), refused),
    _case("SMUG-CHUNK-INVALID-SIZE-DESYNC", MUST, _CHUNK, chunks(b"+0\r\n\r\nX"), _ends, _AGAIN),
    # Trailers that say what only a head may say
    _trailer("SMUG-TRAILER-CL", b"Content-Length: 50"),
    _trailer("SMUG-TRAILER-TE", CHUNKED),
    _trailer("SMUG-TRAILER-HOST", b"Host: other.example.com"),
    _trailer("SMUG-TRAILER-AUTH", b"Authorization: Bearer other"),
    _trailer("SMUG-TRAILER-CONTENT-TYPE", b"Content-Type: text/other"),
    # Bodies where nobody looks for one
    _case(
        "SMUG-HEAD-CL-BODY",
        MUST,
        "RFC 9110, 9.3.2",
        get(b"Content-Length: 5", method=b"HEAD") + b"hello",
        refused_or_read,
        scored=False,
    ),
    _case(
        "SMUG-OPTIONS-CL-BODY",
        MUST,
        "RFC 9110, 9.3.7",
        get(b"Content-Length: 5", method=b"OPTIONS") + b"hello",
        refused_or_read,
        scored=False,
    ),
    _case(
        "SMUG-EXPECT-100-CL",
        MUST,
        "RFC 9110, 10.1.1",
        post(b"Content-Length: 5", b"Expect: 100-continue", body=b"hello"),
        refused_or_read,
        scored=False,
    ),
    _case(
        "SMUG-GET-CL-PREFIX-DESYNC",
        MAY,
        "RFC 9110, 9.3.1",
        get(b"Content-Length: %d" % len(_UNREAD)) + _UNREAD,
        _hidden_prefix,
        b"\r\n" + _AGAIN,
        scored=False,
    ),
    _case(
        "SMUG-GET-CL-BODY-DESYNC",
        MAY,
        "RFC 9110, 9.3.1",
        get(b"Content-Length: 5") + b"hello",
        _body_is_skipped(),
        _AGAIN,
        scored=False,
    ),
    _case(
        "SMUG-OPTIONS-CL-BODY-DESYNC",
        OPEN,
        "RFC 9110, 9.3.7",
        get(b"Content-Length: 5", method=b"OPTIONS") + b"hello",
        _body_is_skipped(),
        _AGAIN,
        scored=False,
    ),
    _case(
        "SMUG-EXPECT-100-CL-DESYNC",
        OPEN,
        "RFC 9110, 10.1.1",
        post(b"Content-Length: 5", b"Expect: 100-continue", body=b"hello"),
        _body_is_skipped((400, 417), other=WARN),
        _AGAIN,
        scored=False,
    ),
    _case("SMUG-CL0-BODY-POISON", OPEN, "RFC 9112, 6.2", length(b"0", b"X"), _poisoned, _AGAIN, scored=False),
    # Heads
    _case(
        "SMUG-BARE-CR-HEADER-VALUE",
        MUST,
        "RFC 9112, 2.2",
        post(b"Content-Length: 5", b"X-Test: a\rb", body=b"hello"),
        refused,
    ),
    _case(
        "SMUG-MULTIPLE-HOST-COMMA",
        MUST,
        "RFC 9110, 7.2",
        request(b"GET / HTTP/1.1", host=HOST + b", other.example.com"),
        refused,
    ),
    _case(
        "SMUG-ABSOLUTE-URI-HOST-MISMATCH",
        MUST,
        "RFC 9112, 3.2.2",
        get(target=b"http://other.example.com/"),
        refused_or_read,
        scored=False,
    ),
    _case("SMUG-PIPELINE-SAFE", SHOULD, "RFC 9112, 9.3", _AGAIN, _both, _AGAIN, scored=False),
)
