"""Family "compliance": what RFC 9110, 9112 and 6455 ask of a server (76 cases)."""

from collections.abc import Container
from email.utils import parsedate_to_datetime

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
    echoed,
    family,
    read,
    refused,
    refused_in_words,
    refused_or_read,
)
from bench.http11.requests import HELLO, HOST, chunks, get, length, post, request

MUST, SHOULD, MAY, OPEN = Level
_WEBSOCKET = (b"Upgrade: websocket", b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
_LONG_PATH = b"/" + b"a" * 7900
_SECRET = b"not-to-be-told"


def _switched(outcome: Outcome) -> Verdict:
    """Judge that no other protocol was switched to."""
    if outcome.first is None:
        return PASS if outcome.closed else FAIL
    return FAIL if outcome.first.status == 101 or 101 in outcome.first.interim else PASS


def _unknown_version(outcome: Outcome) -> Verdict:
    """Judge as `_switched`; a server that would switch says which versions it knows, with 426."""
    answer = outcome.first
    return WARN if answer and answer.status in OK else _switched(outcome)


def _then_closed(stays: Verdict) -> Judge:
    """Judge that the answer is 2xx, and the connection ends; else `stays`."""

    def judge(outcome: Outcome) -> Verdict:
        if outcome.first is None or outcome.first.status not in OK:
            return FAIL
        return PASS if outcome.closed else stays

    return judge


def _has(field: str, statuses: Container[int], *, missing: Verdict, other: Verdict) -> Judge:
    """Judge that an answer of these statuses has a field; `missing` if not, `other` for other statuses."""

    def judge(outcome: Outcome) -> Verdict:
        if (answer := outcome.first) is None:
            return FAIL
        if answer.status not in statuses:
            return other
        return PASS if field in answer.fields else missing

    return judge


def _no_body(outcome: Outcome) -> Verdict:
    answer = outcome.first
    return PASS if answer and answer.status in OK and not answer.body else FAIL


def _no_interim(outcome: Outcome) -> Verdict:
    return FAIL if outcome.first and outcome.first.interim else PASS


def _no_length(outcome: Outcome) -> Verdict:
    """Judge a 204: it has no Content-Length; of no other answer can it be said."""
    if outcome.first is None:
        return FAIL
    if outcome.first.status != 204:
        return WARN
    return FAIL if "content-length" in outcome.first.fields else PASS


def _date(outcome: Outcome) -> Verdict:
    answer = outcome.first
    if answer is None or answer.status not in OK:
        return FAIL
    text = answer.fields.get("date", "")
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return WARN
    return PASS if f"{moment:%a, %d %b %Y %H:%M:%S GMT}" == text else WARN


def _extension(outcome: Outcome) -> Verdict:
    """Judge a chunk extension: read past, as it must be; to refuse it warns."""
    if outcome.first is None:
        return WARN if outcome.closed else FAIL
    return WARN if outcome.first.status == 400 else echoed(b"hello")(outcome)


def _not_414(outcome: Outcome) -> Verdict:
    if outcome.first is None:
        return WARN if outcome.closed else FAIL
    return FAIL if outcome.first.status == 414 else PASS


def _keeps_secret(outcome: Outcome) -> Verdict:
    answer = outcome.first
    if answer and answer.status in OK:
        return WARN if _SECRET in answer.body else PASS
    return answered((405, 501))(outcome)


def _whole(outcome: Outcome) -> Verdict:
    """Judge that a Range that cannot be understood changes nothing."""
    if outcome.first is None:
        return WARN if outcome.closed else FAIL
    return PASS if outcome.first.status == 416 or outcome.first.status in set(OK) - {206} else WARN


_case = family("compliance")
CASES: tuple[Case, ...] = (
    _case("COMP-BASELINE", OPEN, "", get(), answered(OK, closed=FAIL)),
    # Lines
    _case(
        "RFC9112-2.2-BARE-LF-REQUEST-LINE",
        MAY,
        "RFC 9112, 2.2",
        request(b"GET / HTTP/1.1", end=b"\n"),
        refused_or_read,
    ),
    _case(
        "RFC9112-2.2-BARE-LF-HEADER",
        MAY,
        "RFC 9112, 2.2",
        request(b"GET / HTTP/1.1", host=HOST + b"\nX-Test: a"),
        refused_or_read,
    ),
    _case("RFC9112-5.1-OBS-FOLD", MUST, "RFC 9112, 5.2", get(b"X-Test: a\r\n b"), refused_in_words),
    _case("RFC9110-5.6.2-SP-BEFORE-COLON", MUST, "RFC 9112, 5.1", get(b"X-Test : a"), refused_in_words),
    _case(
        "RFC9112-3-CR-ONLY-LINE-ENDING",
        MUST,
        "RFC 9112, 2.2",
        request(b"GET / HTTP/1.1", end=b"\r"),
        refused_in_words,
    ),
    _case("COMP-WHITESPACE-BEFORE-HEADERS", MUST, "RFC 9112, 2.2", request(b"GET / HTTP/1.1\r\n "), refused),
    _case("COMP-LEADING-CRLF", SHOULD, "RFC 9112, 2.2", b"\r\n\r\n" + get(), refused_or_read),
    # The request line
    _case(
        "RFC9112-3-MULTI-SP-REQUEST-LINE", SHOULD, "RFC 9112, 3", request(b"GET  / HTTP/1.1"), refused_or_read
    ),
    _case("COMP-REQUEST-LINE-TAB", SHOULD, "RFC 9112, 3", request(b"GET\t/ HTTP/1.1"), refused_or_read),
    _case("RFC9112-3-MISSING-TARGET", MUST, "RFC 9112, 3", request(b"GET HTTP/1.1"), refused),
    _case(
        "RFC9112-3.2-FRAGMENT-IN-TARGET", SHOULD, "RFC 9112, 3.2", get(target=b"/path#frag"), refused_or_read
    ),
    _case("COMP-SPACE-IN-TARGET", MUST, "RFC 9112, 3.2", get(target=b"/pa th"), refused),
    _case("COMP-LONG-URL-OK", SHOULD, "RFC 9112, 3", get(target=_LONG_PATH), _not_414),
    _case("COMP-ASTERISK-WITH-GET", MUST, "RFC 9112, 3.2.4", get(target=b"*"), refused),
    _case(
        "COMP-OPTIONS-STAR",
        MUST,
        "RFC 9112, 3.2.4",
        get(method=b"OPTIONS", target=b"*"),
        answered(OK, closed=FAIL),
    ),
    _case(
        "COMP-ABSOLUTE-FORM",
        SHOULD,
        "RFC 9112, 3.2.2",
        get(target=b"http://localhost/"),
        answered(OK, BAD, closed=WARN),
        scored=False,
    ),
    # Versions
    _case("RFC9112-2.3-INVALID-VERSION", SHOULD, "RFC 9112, 2.3", get(version=b"HTTP/9.9"), also(505)),
    _case("RFC9112-2.3-HTTP09-REQUEST", SHOULD, "RFC 9112, 2.3", b"GET /\r\n", refused, waits=True),
    _case("COMP-VERSION-MISSING-MINOR", MUST, "RFC 9112, 2.3", get(version=b"HTTP/1"), refused),
    _case("COMP-VERSION-LEADING-ZEROS", MUST, "RFC 9112, 2.3", get(version=b"HTTP/01.01"), refused),
    _case("COMP-VERSION-WHITESPACE", MUST, "RFC 9112, 2.3", get(version=b"HTTP/ 1.1"), refused),
    _case("COMP-VERSION-CASE", MUST, "RFC 9112, 2.3", get(version=b"http/1.1"), refused),
    _case(
        "COMP-HTTP12-VERSION",
        MAY,
        "RFC 9112, 2.3",
        get(version=b"HTTP/1.2"),
        answered((), (*OK, 505)),
        scored=False,
    ),
    _case("COMP-HTTP10-DEFAULT-CLOSE", SHOULD, "RFC 9112, 9.3", get(version=b"HTTP/1.0"), _then_closed(WARN)),
    _case(
        "COMP-HTTP10-NO-HOST",
        MAY,
        "RFC 9112, 3.2",
        request(b"GET / HTTP/1.0", host=None),
        refused_or_read,
        scored=False,
    ),
    # Fields
    _case("RFC9112-5-EMPTY-HEADER-NAME", MUST, "RFC 9112, 5", get(b": a"), refused),
    _case("RFC9112-5-INVALID-HEADER-NAME", MUST, "RFC 9112, 5", get(b"Bad[Name: a"), refused),
    _case("RFC9112-5-HEADER-NO-COLON", MUST, "RFC 9112, 5", get(b"NoColonHere"), refused),
    _case(
        "COMP-DUPLICATE-CT",
        SHOULD,
        "RFC 9110, 5.3",
        post(b"Content-Length: 5", b"Content-Type: text/plain", b"Content-Type: text/html", body=b"hello"),
        refused_or_read,
    ),
    # Host
    _case(
        "RFC9112-7.1-MISSING-HOST",
        MUST,
        "RFC 9112, 3.2",
        request(b"GET / HTTP/1.1", host=None),
        refused_in_words,
    ),
    _case(
        "RFC9110-5.4-DUPLICATE-HOST", MUST, "RFC 9112, 3.2", get(b"Host: other.example.com"), refused_in_words
    ),
    _case("COMP-DUPLICATE-HOST-SAME", MUST, "RFC 9112, 3.2", get(HOST), refused_in_words),
    _case(
        "COMP-HOST-WITH-USERINFO",
        MUST,
        "RFC 9112, 3.2",
        request(b"GET / HTTP/1.1", host=b"Host: user@a"),
        refused,
    ),
    _case(
        "COMP-HOST-WITH-PATH",
        MUST,
        "RFC 9112, 3.2",
        request(b"GET / HTTP/1.1", host=HOST + b"/path"),
        refused,
    ),
    _case(
        "COMP-HOST-EMPTY-VALUE", MUST, "RFC 9112, 3.2", request(b"GET / HTTP/1.1", host=b"Host: "), refused
    ),
    # Lengths and codings
    _case("RFC9112-6.1-CL-NON-NUMERIC", MUST, "RFC 9112, 6.3", length(b"abc", b""), refused),
    _case("RFC9112-6.1-CL-PLUS-SIGN", MUST, "RFC 9112, 6.3", length(b"+5"), refused),
    _case("COMP-UNKNOWN-TE-501", MUST, "RFC 9112, 6.1", post(b"Transfer-Encoding: gzip"), also(501)),
    _case("COMP-POST-CL-BODY", MUST, "RFC 9112, 6.2", length(b"5"), echoed(b"hello")),
    _case("COMP-POST-CL-ZERO", MUST, "RFC 9112, 6.2", length(b"0", b""), read),
    _case("COMP-POST-NO-CL-NO-TE", MUST, "RFC 9112, 6.3", post(), read),
    _case("COMP-POST-CL-UNDERSEND", MUST, "RFC 9112, 6.2", length(b"10"), refused, waits=True),
    _case(
        "COMP-GET-WITH-CL-BODY",
        MAY,
        "RFC 9110, 9.3.1",
        get(b"Content-Length: 5") + b"hello",
        answered(BAD, range(100, 600)),
        scored=False,
    ),
    _case("COMP-CHUNKED-BODY", MUST, "RFC 9112, 7.1", chunks(HELLO), echoed(b"hello")),
    _case(
        "COMP-CHUNKED-MULTI",
        MUST,
        "RFC 9112, 7.1",
        chunks(b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"),
        echoed(b"hello world"),
    ),
    _case("COMP-CHUNKED-EMPTY", MUST, "RFC 9112, 7.1", chunks(b"0\r\n\r\n"), read),
    _case(
        "COMP-CHUNKED-NO-FINAL",
        MUST,
        "RFC 9112, 7.1",
        chunks(b"5\r\nhello\r\n"),
        refused,
        waits=True,
    ),
    _case(
        "COMP-CHUNKED-EXTENSION", MUST, "RFC 9112, 7.1.1", chunks(b"5;a=b\r\nhello\r\n0\r\n\r\n"), _extension
    ),
    _case(
        "COMP-CHUNKED-TRAILER-VALID",
        MUST,
        "RFC 9112, 7.1.2",
        chunks(b"5\r\nhello\r\n0\r\nX-Checksum: a\r\n\r\n"),
        echoed(b"hello"),
    ),
    _case(
        "COMP-CHUNKED-HEX-UPPERCASE",
        MUST,
        "RFC 9112, 7.1",
        chunks(b"A\r\nhelloworld\r\n0\r\n\r\n"),
        echoed(b"helloworld"),
    ),
    # Upgrades, of which none is made
    _case(
        "COMP-UPGRADE-POST",
        MUST,
        "RFC 6455, 4.1",
        post(b"Connection: Upgrade", *_WEBSOCKET, b"Sec-WebSocket-Version: 13"),
        _switched,
    ),
    _case(
        "COMP-UPGRADE-MISSING-CONN",
        MUST,
        "RFC 9110, 7.8",
        get(*_WEBSOCKET, b"Sec-WebSocket-Version: 13"),
        _switched,
    ),
    _case(
        "COMP-UPGRADE-UNKNOWN",
        MUST,
        "RFC 9110, 7.8",
        get(b"Connection: Upgrade", b"Upgrade: none-such/1.0"),
        _switched,
    ),
    _case(
        "COMP-UPGRADE-INVALID-VER",
        MUST,
        "RFC 6455, 4.4",
        get(b"Connection: Upgrade", *_WEBSOCKET, b"Sec-WebSocket-Version: 99"),
        _unknown_version,
    ),
    _case(
        "COMP-UPGRADE-HTTP10",
        MUST,
        "RFC 9110, 7.8",
        get(b"Connection: Upgrade", *_WEBSOCKET, b"Sec-WebSocket-Version: 13", version=b"HTTP/1.0"),
        _switched,
    ),
    # Methods
    _case("COMP-METHOD-CASE", SHOULD, "RFC 9110, 9.1", get(method=b"get"), answered((400, 405, 501), OK)),
    _case(
        "COMP-UNKNOWN-METHOD", SHOULD, "RFC 9110, 9.1", get(method=b"FOOBAR"), answered((400, 405, 501), OK)
    ),
    _case(
        "COMP-METHOD-CONNECT",
        SHOULD,
        "RFC 9110, 9.3.6",
        request(b"CONNECT example.com:443 HTTP/1.1", host=b"Host: example.com:443"),
        also(405, 501),
    ),
    _case(
        "COMP-METHOD-TRACE",
        SHOULD,
        "RFC 9110, 9.3.8",
        get(method=b"TRACE"),
        answered((405, 501), OK),
        scored=False,
    ),
    _case(
        "COMP-TRACE-WITH-BODY",
        SHOULD,
        "RFC 9110, 9.3.8",
        get(b"Content-Length: 5", method=b"TRACE") + b"hello",
        answered((400, 405, 501), OK),
        scored=False,
    ),
    _case(
        "COMP-TRACE-SENSITIVE",
        SHOULD,
        "RFC 9110, 9.3.8",
        get(b"Authorization: Bearer " + _SECRET, method=b"TRACE"),
        _keeps_secret,
        scored=False,
    ),
    _case(
        "COMP-405-ALLOW",
        MUST,
        "RFC 9110, 15.5.6",
        get(method=b"DELETE"),
        _has("allow", (405,), missing=FAIL, other=WARN),
    ),
    _case(
        "COMP-OPTIONS-ALLOW",
        SHOULD,
        "RFC 9110, 9.3.7",
        get(method=b"OPTIONS"),
        _has("allow", OK, missing=WARN, other=FAIL),
    ),
    _case("COMP-NO-CL-IN-204", MUST, "RFC 9110, 8.6", get(method=b"OPTIONS"), _no_length),
    _case("COMP-HEAD-NO-BODY", MUST, "RFC 9110, 9.3.2", get(method=b"HEAD"), _no_body),
    # Expectations and connections
    _case("COMP-EXPECT-UNKNOWN", MAY, "RFC 9110, 10.1.1", get(b"Expect: 200-ok"), answered((417,), OK)),
    _case(
        "COMP-NO-1XX-HTTP10",
        MUST,
        "RFC 9110, 15.2",
        post(b"Expect: 100-continue", b"Content-Length: 5", body=b"hello", version=b"HTTP/1.0"),
        _no_interim,
    ),
    _case("COMP-CONNECTION-CLOSE", MUST, "RFC 9112, 9.6", get(b"Connection: close"), _then_closed(FAIL)),
    # What answers say
    _case("COMP-DATE-HEADER", MUST, "RFC 9110, 6.6.1", get(), _has("date", OK, missing=FAIL, other=FAIL)),
    _case("COMP-DATE-FORMAT", SHOULD, "RFC 9110, 5.6.7", get(), _date, scored=False),
    _case(
        "COMP-CONTENT-TYPE",
        SHOULD,
        "RFC 9110, 8.3",
        get(),
        _has("content-type", OK, missing=WARN, other=FAIL),
    ),
    _case(
        "COMP-RANGE-POST",
        MUST,
        "RFC 9110, 14.2",
        post(b"Content-Length: 5", b"Range: bytes=0-10", body=b"hello"),
        answered(set(OK) - {206}, closed=FAIL),
    ),
    _case("COMP-RANGE-INVALID", MAY, "RFC 9110, 14.2", get(b"Range: bytes=abc-xyz"), _whole, scored=False),
    _case(
        "COMP-ACCEPT-NONSENSE",
        SHOULD,
        "RFC 9110, 12.5.1",
        get(b"Accept: application/x-nonsense"),
        answered((406,), OK, closed=WARN),
        scored=False,
    ),
    _case(
        "COMP-POST-UNSUPPORTED-CT",
        MAY,
        "RFC 9110, 15.5.16",
        post(b"Content-Length: 5", b"Content-Type: application/x-nonsense", body=b"hello"),
        answered((415, *OK), range(100, 600), closed=WARN),
        scored=False,
    ),
)
