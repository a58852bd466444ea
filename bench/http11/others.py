"""Families "normalization" (5 cases), "cookies" (12) and "capabilities" (9).

`/echo` answers with the fields that arrived, a line each, `/cookie` with the cookies that were understood.
"""

from collections.abc import Callable, Container

from bench.http11.case import (
    BAD,
    FAIL,
    OK,
    PASS,
    WARN,
    Answer,
    Case,
    Judge,
    Level,
    Outcome,
    Verdict,
    answered,
    family,
)
from bench.http11.requests import get, post

MUST, SHOULD, MAY, OPEN = Level


# A field of a name that looks like another's


def _kept_apart(known: str, sent: str, value: str, *, by_case: bool = False) -> Judge:
    """Judge a field whose name is nearly a known one's: refused or dropped passes, kept as it was sent warns.

    Args:
        known: the name that it must not become.
        sent: as it was sent.
        value: by which it is found again.
        by_case: the names differ in nothing but case.
    """

    def judge(outcome: Outcome) -> Verdict:
        answer = outcome.first
        if answer is None:
            return PASS if outcome.closed else FAIL
        if answer.status >= 400:
            return PASS
        if answer.status not in OK:
            return FAIL
        lines = [line.partition(":") for line in answer.body.decode("latin-1").splitlines()]
        names = {name for name, _, content in lines if content.strip().lower() == value}
        if by_case:
            return WARN if sent in names else FAIL if known.lower() in map(str.lower, names) else PASS
        lower = set(map(str.lower, names))
        return FAIL if known.lower() in lower else WARN if sent.lower() in lower else PASS

    return judge


def _normalized(
    name: str, level: Level, known: str, sent: str, value: str, *, by_case: bool = False, scored: bool = True
) -> Case:
    field = f"{sent}: {value}".encode()
    step = post(b"Content-Length: 11", field, body=b"hello world", target=b"/echo")
    judge = _kept_apart(known, sent, value, by_case=by_case)
    return family("normalization")(name, level, "RFC 9112, 5.1", step, judge, scored=scored)


# Cookies


def _holds(*parts: bytes, missing: Verdict, refusal: Verdict, unknown: Verdict = FAIL) -> Judge:
    """Judge that the answer's body has all parts; `refusal` for 400, `unknown` for 404."""

    def judge(outcome: Outcome) -> Verdict:
        answer = outcome.first
        if answer is None:
            return WARN if outcome.closed else FAIL
        if answer.status in OK:
            return PASS if all(part in answer.body for part in parts) else missing
        return {400: refusal, 404: unknown}.get(answer.status, FAIL)

    return judge


def _without(characters: bytes) -> Judge:
    """Judge that the cookie is refused, or has lost these characters."""

    def judge(outcome: Outcome) -> Verdict:
        answer = outcome.first
        if answer is not None and answer.status in OK:
            return FAIL if set(characters) & set(answer.body) else PASS
        return answered(BAD)(outcome)

    return judge


def _cookie(name: str, value: bytes, judge: Judge, *more: bytes, target: bytes = b"/echo") -> Case:
    fields = [b"Cookie: " + each for each in (value, *more)]
    return family("cookies")(name, OPEN, "RFC 6265, 4.2", get(*fields, target=target), judge, scored=False)


def _parsed(name: str, value: bytes, *parts: bytes, refusal: Verdict = WARN) -> Case:
    judge = _holds(*parts, missing=FAIL, refusal=refusal, unknown=WARN)
    return _cookie(name, value, judge, target=b"/cookie")


# Capabilities: conditional requests


def _second(
    passed: Container[int], warned: Container[int], *, needs: str | None = None, with_field: bool = False
) -> Judge:
    """Judge the second answer's status.

    Args:
        passed: statuses that pass.
        warned: statuses that warn.
        needs: the field of the first answer without which there is nothing to be seen, which warns.
        with_field: the second answer has that field too.
    """

    def judge(outcome: Outcome) -> Verdict:
        first, last = outcome.first, outcome.last
        if first is None or first.status not in OK:
            return FAIL
        if last is None or (needs is not None and needs not in first.fields):
            return WARN
        if last.status in passed:
            return PASS if not with_field or needs in last.fields else WARN
        return WARN if last.status in warned else FAIL

    return judge


def _if(name: str, make: Callable[[str], str], source: str, default: str) -> Callable[[Answer | None], bytes]:
    """Return a step: a request that is conditional on a field of the first answer."""

    def step(first: Answer | None) -> bytes:
        value = first.fields.get(source, default) if first else default
        return get(f"{name}: {make(value)}".encode())

    return step


def _capability(name: str, section: str, step: object, judge: Judge) -> Case:
    first = get(b"Connection: keep-alive")
    return family("capabilities")(name, SHOULD, section, first, judge, step, scored=False)


_NO_TAG = '"none"'
_NOT_MODIFIED = (304,)
_OLD = b"If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT"
_same = _if("If-None-Match", lambda tag: tag, "etag", _NO_TAG)
_weak = _if("If-None-Match", lambda tag: "W/" + tag.removeprefix("W/"), "etag", _NO_TAG)
_bare = _if("If-None-Match", lambda tag: tag.removeprefix("W/").strip('"'), "etag", "none")
_dated = _if("If-Modified-Since", lambda date: date, "last-modified", "Thu, 01 Jan 2099 00:00:00 GMT")


def _same_and_old(first: Answer | None) -> bytes:
    return _same(first).removesuffix(b"\r\n") + _OLD + b"\r\n\r\n"


CASES: tuple[Case, ...] = (
    _normalized("NORM-UNDERSCORE-CL", OPEN, "Content-Length", "Content_Length", "99"),
    _normalized("NORM-SP-BEFORE-COLON-CL", MUST, "Content-Length", "Content-Length ", "5"),
    _normalized("NORM-TAB-IN-NAME", MUST, "Content-Length", "Content\tLength", "99"),
    _normalized(
        "NORM-CASE-TE", OPEN, "Transfer-Encoding", "TRANSFER-ENCODING", "chunked", by_case=True, scored=False
    ),
    _normalized("NORM-UNDERSCORE-TE", OPEN, "Transfer-Encoding", "Transfer_Encoding", "chunked"),
    _cookie("COOK-ECHO", b"foo=bar", _holds(b"foo=bar", missing=FAIL, refusal=FAIL)),
    _cookie("COOK-OVERSIZED", b"big=" + b"A" * 65536, answered((400, 431, *OK))),
    _cookie("COOK-EMPTY", b"", answered((400, *OK))),
    _cookie("COOK-NUL", b"foo=\0bar", _without(b"\0")),
    _cookie("COOK-CONTROL-CHARS", b"foo=\x01\x02\x03", _without(b"\x01\x02\x03")),
    _cookie(
        "COOK-MANY-PAIRS", b"; ".join(b"k%d=v%d" % (n, n) for n in range(1000)), answered((400, 431, *OK))
    ),
    _cookie("COOK-MALFORMED", b"===;;;", answered((400, *OK))),
    _cookie("COOK-MULTI-HEADER", b"a=1", _holds(b"a=1", b"b=2", missing=WARN, refusal=WARN), b"b=2"),
    _parsed("COOK-PARSED-BASIC", b"foo=bar", b"foo=bar"),
    _parsed("COOK-PARSED-MULTI", b"a=1; b=2; c=3", b"a=1", b"b=2", b"c=3"),
    _parsed("COOK-PARSED-EMPTY-VAL", b"foo=", refusal=PASS),
    _parsed("COOK-PARSED-SPECIAL", b"a=hello world; b=x=y", refusal=PASS),
    _capability("CAP-ETAG-304", "RFC 9110, 13.1.2", _same, _second(_NOT_MODIFIED, OK, needs="etag")),
    _capability(
        "CAP-LAST-MODIFIED-304", "RFC 9110, 13.1.3", _dated, _second(_NOT_MODIFIED, OK, needs="last-modified")
    ),
    _capability(
        "CAP-ETAG-IN-304",
        "RFC 9110, 15.4.5",
        _same,
        _second(_NOT_MODIFIED, range(100, 600), needs="etag", with_field=True),
    ),
    _capability(
        "CAP-INM-PRECEDENCE", "RFC 9110, 13.1.2", _same_and_old, _second(_NOT_MODIFIED, OK, needs="etag")
    ),
    _capability("CAP-INM-WILDCARD", "RFC 9110, 13.1.2", get(b"If-None-Match: *"), _second(_NOT_MODIFIED, OK)),
    _capability(
        "CAP-IMS-FUTURE",
        "RFC 9110, 13.1.3",
        get(b"If-Modified-Since: Thu, 01 Jan 2099 00:00:00 GMT"),
        _second(OK, _NOT_MODIFIED),
    ),
    _capability(
        "CAP-IMS-INVALID",
        "RFC 9110, 13.1.3",
        get(b"If-Modified-Since: not-a-date"),
        _second(OK, _NOT_MODIFIED),
    ),
    _capability("CAP-INM-UNQUOTED", "RFC 9110, 8.8.3", _bare, _second(OK, _NOT_MODIFIED, needs="etag")),
    _capability("CAP-ETAG-WEAK", "RFC 9110, 13.1.2", _weak, _second(_NOT_MODIFIED, OK, needs="etag")),
)
