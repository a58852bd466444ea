"""A request's head: what the fast way takes, Gunicorn's own parser reads in the same way."""

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import ParseException
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.fuzzing.pieces import HEAD_PIECES, ORDINARY_HEAD, PEER
from serving.predict.exchange import Target
from serving.worker.http11.request_head import RequestHead, read_fast, read_full

CONFIGURATION = Config()


def by_gunicorn(data: bytes) -> RequestHead | None:
    """Read a head by Gunicorn's parser; None if it refuses it."""
    try:
        return read_full([data], CONFIGURATION, PEER)
    except ParseException:
        return None


def said(head: RequestHead) -> tuple[object, ...]:
    """Return what a head says, without who read it."""
    framing = head.version, head.length, head.keep_alive
    return head.method, head.path, head.query, dict(head.headers), head.target, *framing


def test_an_ordinary_head_is_read_fast() -> None:
    """Path, query, fields by lower-case name, length, and that the connection stays."""
    head = read_fast(ORDINARY_HEAD)
    assert head is not None
    assert head.original is None
    assert said(head) == (
        *("POST", "/predict", "top=3"),
        {"host": "a", "content-type": "image/png", "content-length": "12"},
        Target("/predict"),
        *((1, 1), 12, True),
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"POST", b"GET"),  # not a prediction
        (b"/predict", b"//predict"),  # looks like an authority
        (b"/predict", b"/predict#a"),
        (b"/predict", b"http://a/predict"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"\r\nHost", b"\nHost"),
        (b"Host: a", b"Host: a\r\nhost: b"),
        (b"Host: a", b"Host: a\r\n b"),
        (b"Host: a", b"Ho_st: a"),
        (b"Host: a", b"Host : a"),
        (b"Host: a", b"Host: a\x0bb"),
        (b"Content-Length: 12", b"Content-Length: 12\r\nTransfer-Encoding: chunked"),
        (b"Content-Length: 12", b"Content-Length: 12\r\nContent-Length: 12"),
        (b"Content-Length: 12", b"Content-Length: 1_2"),
        (b"Content-Length: 12", b"Content-Length: 12, 12"),
        (b"Content-Length: 12", b"Expect: 100-continue"),
        (b"Content-Length: 12", b"Connection: upgrade\r\nUpgrade: h2c"),
        (b"Host: a", b"X: " + b"a" * 4000),
        (b"Host: a", b"\r\n".join(b"X%d: a" % n for n in range(40))),
    ],
)
def test_what_is_not_ordinary_is_left_to_gunicorn(old: bytes, new: bytes) -> None:
    """Anything that two servers could read differently, and anything that needs more than reading."""
    assert read_fast(ORDINARY_HEAD.replace(old, new)) is None


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.sampled_from(HEAD_PIECES), max_size=14).map(b"".join))
def test_whatever_is_read_fast_says_the_same_to_gunicorn(middle: bytes) -> None:
    """Made of pieces at random; what the fast way takes, Gunicorn takes, and reads the same."""
    data = b"POST /predict HTTP/1.1\r\n" + middle + b"\r\n\r\n"
    if data.find(b"\r\n\r\n") != len(data) - 4:
        data = data[: data.find(b"\r\n\r\n") + 4]
    head = read_fast(data)
    if head is not None:
        theirs = by_gunicorn(data)
        assert theirs is not None
        assert said(head) == said(theirs)


@settings(max_examples=1000, deadline=None)
@given(st.binary(max_size=12), st.integers(0, len(ORDINARY_HEAD)), st.integers(0, 12))
def test_any_bytes_in_an_ordinary_head(garbage: bytes, place: int, replaced: int) -> None:
    """Bytes are put in, or in the place of others: the fast way never takes what Gunicorn would not."""
    data = ORDINARY_HEAD[:place] + garbage + ORDINARY_HEAD[place + replaced :]
    data = data[: data.find(b"\r\n\r\n") + 4]
    head = read_fast(data)
    if head is not None:
        theirs = by_gunicorn(data)
        assert theirs is not None
        assert said(head) == said(theirs)


@pytest.mark.parametrize(
    ("line", "target"),
    [
        (b"POST /predict", Target("/predict")),
        (b"POST /v2/models/m%20n/infer", Target("/v2/models/{model}/infer", "m n")),
        (
            b"POST /v2/models/m/versions/03/infer",
            Target("/v2/models/{model}/versions/{version}/infer", "m", "03"),
        ),
        (b"POST /v1/models/m%20n:predict", Target("/v1/models/{model}:predict", "m n")),
        (
            b"POST /v1/models/m/versions/03:predict",
            Target("/v1/models/{model}/versions/{version}:predict", "m", "03"),
        ),
        (b"POST /invocations", Target("/invocations")),
        (b"POST /v1/models/m", None),
        (b"POST /v1/models/m:n:predict", None),
        (b"POST /v2/models/m:n/infer", None),
        (b"POST /v2/models/m/n/infer", None),
        (b"POST /predict/", None),
        (b"GET /predict", None),
    ],
)
def test_a_head_says_what_its_path_names(
    line: bytes, target: Target | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a prediction; whatever is below a prefix that a proxy names, the Flask application has to find out."""
    data = ORDINARY_HEAD.replace(b"POST /predict?top=3", line)
    heads = [by_gunicorn(data), *([] if target is None else [read_fast(data)])]
    assert [head and head.target for head in heads] == [target] * len(heads)
    monkeypatch.setenv("SCRIPT_NAME", "/a")
    data = ORDINARY_HEAD.replace(b"POST /predict?top=3", line.replace(b" /", b" /a/"))
    below = by_gunicorn(data)
    assert below is not None
    assert below.target is None


def test_half_a_head_is_not_a_head() -> None:
    """Every beginning of a good head is neither refused nor taken."""
    for end in range(len(ORDINARY_HEAD)):
        assert read_full([ORDINARY_HEAD[:end]], CONFIGURATION, PEER) is None


def test_a_repeated_field_is_one_list() -> None:
    """As RFC 9110, section 5.3, joins them."""
    head = by_gunicorn(ORDINARY_HEAD.replace(b"Host: a", b"Host: a\r\nAccept: x\r\naccept: y"))
    assert head is not None
    assert head.headers["accept"] == "x, y"
