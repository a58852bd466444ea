"""Requests that are wrong, or look it, through both ways of serving: the same answers, byte for byte.

What Gunicorn's parser refuses is a problem document of the inference worker's, and counted; of gthread, whose parser
is Gunicorn's own business, it is Gunicorn's page.

The cases are those for which Gunicorn's parser has its own test cases (tests/requests in its
repository), written anew, and those of RFC 9112's sections 2, 3, 5, 6, 7 and 11.
"""

import pytest

from bench.support.processes import Service
from tests.serving.worker.wire import LAST, settled, statuses, talk

GET = b"GET /livez HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /nowhere HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
PREDICT = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n"

OK, LOST, BAD = [200, 200], [404, 200], [400]
"""Of a request and the one after it: both answered; the first not found; the first refused, and the end."""

CASES: dict[str, tuple[bytes, list[int]]] = {
    # The request line
    "plain": (GET + b"\r\n", OK),
    "one empty line before": (b"\r\n" + GET + b"\r\n", OK),
    "two empty lines before": (b"\r\n\r\n" + GET + b"\r\n", BAD),
    "absolute target": (b"GET http://example.org/livez HTTP/1.1\r\nHost: a\r\n\r\n", OK),
    "absolute target of https": (
        b"GET https://u:p@example.org:8080/livez?x=1 HTTP/1.1\r\nHost: a\r\n\r\n",
        OK,
    ),
    "absolute target of IPv6": (b"GET http://[::1]:80/livez HTTP/1.1\r\nHost: a\r\n\r\n", OK),
    "broken IPv6": (b"GET http://]/livez HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "two slashes": (b"GET //livez HTTP/1.1\r\nHost: a\r\n\r\n", OK),  # Werkzeug merges them
    "quotes in the target": (b'GET /livez?"a" HTTP/1.1\r\nHost: a\r\n\r\n', OK),
    "encoded path": (b"GET /%6Civez HTTP/1.1\r\nHost: a\r\n\r\n", OK),
    "asterisk": (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "relative target": (b"GET livez HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "authority without CONNECT": (b"GET example.org:443 HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "no target": (b"GET  HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "no version": (b"GET /livez\r\n\r\n", BAD),
    "one word": (b"livez\r\n\r\n", BAD),
    "four words": (b"GET /livez HTTP/1.1 x\r\n\r\n", BAD),
    "two spaces": (b"GET  /livez HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "tab for a space": (b"GET\t/livez HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "space before": (b" GET /livez HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "control in the target": (b"GET /li\x07vez HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "8-bit target": (b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "unknown method": (b"BREW /livez HTTP/1.1\r\nHost: a\r\n\r\n", [405, 200]),
    "method in lower case": (b"get /livez HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "method too short": (b"GO /livez HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "method too long": (b"GETGETGETGETGETGETGET /livez HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "8-bit method": (b"G\xcbT /livez HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "brackets in the method": (b"G(T /livez HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "version 2": (b"GET /livez HTTP/2.0\r\n\r\n", BAD),
    "version 0.9": (b"GET /livez HTTP/0.9\r\n\r\n", BAD),
    "version of two digits": (b"GET /livez HTTP/1.10\r\n\r\n", BAD),
    "version in lower case": (b"GET /livez http/1.1\r\n\r\n", BAD),
    "another protocol": (b"GET /livez RTSP/1.0\r\n\r\n", BAD),
    "long request line": (b"GET /" + b"a" * 8200 + b" HTTP/1.1\r\nHost: a\r\n\r\n", [414]),
    "longest request line": (b"GET /livez?" + b"a" * 8170 + b" HTTP/1.1\r\nHost: a\r\n\r\n", OK),
    "a TLS hello": (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\n", BAD),
    # Fields
    "bare LF": (b"GET /livez HTTP/1.1\nHost: a\n\n", BAD),
    "bare LF between fields": (GET + b"X: a\nY: b\r\n\r\n", BAD),
    "bare CR": (GET + b"X: a\rY: b\r\n\r\n", BAD),
    "folded field": (GET + b"X: a\r\n b\r\n\r\n", BAD),
    "folded first field": (b"GET /livez HTTP/1.1\r\n X: a\r\n\r\n", BAD),
    "no colon": (GET + b"X\r\n\r\n", BAD),
    "no name": (GET + b": a\r\n\r\n", BAD),
    "space before the colon": (GET + b"X : a\r\n\r\n", BAD),
    "space in a name": (GET + b"X Y: a\r\n\r\n", BAD),
    "8-bit name": (GET + b"\xdf: a\r\n\r\n", BAD),
    "NUL in a value": (GET + b"X: a\0b\r\n\r\n", BAD),
    "BEL in a value": (GET + b"X: a\x07b\r\n\r\n", BAD),
    "DEL in a value": (GET + b"X: a\x7fb\r\n\r\n", BAD),
    "8-bit value": (GET + b"X: \xe4\r\n\r\n", OK),
    "empty value": (GET + b"X:\r\n\r\n", OK),
    "tabs around a value": (GET + b"X:\t a \t\r\n\r\n", OK),
    "every character of a name": (GET + b"!#$%&'*+-.^`|~09aZ: a\r\n\r\n", OK),
    "underscore in a name": (GET + b"X_Y: a\r\n\r\n", OK),
    "two hosts": (GET + b"Host: b\r\n\r\n", BAD),
    "two content types": (POST + b"Content-Type: a/b\r\nContent-Type: a/b\r\n\r\n", BAD),
    "contradicting schemes": (GET + b"X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off\r\n\r\n", OK),
    "other contradicting schemes": (
        GET + b"X-Forwarded-Proto: http\r\nX-Forwarded-Protocol: ssl\r\n\r\n",
        OK,
    ),
    "prediction of contradicting schemes": (
        PREDICT + b"X-Forwarded-Proto: https\r\nX-Forwarded-Protocol: http\r\nX-Forwarded-Ssl: off\r\n\r\n",
        [400, 200],
    ),
    "64 fields": (GET + b"X: a\r\n" * 63 + b"\r\n", OK),
    "65 fields": (GET + b"X: a\r\n" * 64 + b"\r\n", [431]),
    "long field": (GET + b"X: " + b"a" * 8200 + b"\r\n\r\n", [431]),
    "longest field": (GET + b"X: " + b"a" * 8180 + b"\r\n\r\n", OK),
    "unknown expectation": (GET + b"Expect: 200-ok\r\n\r\n", [417]),
    "an upgrade that is not made": (GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n", OK),
    # Lengths
    "length 0": (POST + b"Content-Length: 0\r\n\r\n", LOST),
    "length": (POST + b"Content-Length: 5\r\n\r\nhello", LOST),
    "length with zeros": (POST + b"Content-Length: 005\r\n\r\nhello", LOST),
    "two lengths": (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", BAD),
    "the same length twice": (POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", BAD),
    "list of lengths": (POST + b"Content-Length: 5, 5\r\n\r\nhello", BAD),
    "negative length": (POST + b"Content-Length: -5\r\n\r\nhello", BAD),
    "length with a plus": (POST + b"Content-Length: +5\r\n\r\nhello", BAD),
    "hexadecimal length": (POST + b"Content-Length: 0x5\r\n\r\nhello", BAD),
    "length with an underscore": (POST + b"Content-Length: 1_0\r\n\r\nhellohello", BAD),
    "length of superscripts": (POST + b"Content-Length: \xb2\r\n\r\nhe", BAD),
    "empty length": (POST + b"Content-Length:\r\n\r\n", BAD),
    "length and chunks": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", BAD),
    "chunks and length": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", BAD),
    "length on GET": (GET + b"Content-Length: 5\r\n\r\nhello", OK),
    # Transfer codings
    "chunks": (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", LOST),
    "chunks, twice": (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", BAD),
    "chunks, in two fields": (
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        BAD,
    ),
    "chunks, then identity": (POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", BAD),
    "identity alone": (POST + b"Transfer-Encoding: identity\r\n\r\n", BAD),
    "unknown coding": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", [501]),
    "coding with a control": (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", BAD),
    "coding with a space before its colon": (POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", BAD),
    "coding with an underscore": (POST + b"Transfer_Encoding: chunked\r\n\r\n", LOST),
    "coding folded": (POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", BAD),
    "chunks in HTTP/1.0": (b"POST /nowhere HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", BAD),
    # Chunks
    "chunk extensions": (CHUNKED + b'5; a=b ;c="d;\\"e"\r\nhello\r\n0\r\n\r\n', LOST),
    "trailers": (CHUNKED + b"5\r\nhello\r\n0\r\nX: a\r\n\r\n", LOST),
    # Of a prediction, whose body is read
    "prediction of no image": (PREDICT + b"Content-Length: 4\r\n\r\nabcd", [415, 200]),
    "prediction with a bad chunk": (PREDICT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", BAD),
    "prediction with two lengths": (PREDICT + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde", BAD),
    "prediction with length and chunks": (
        PREDICT + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        BAD,
    ),
    "prediction with a bad timeout": (
        PREDICT + b"X-Request-Timeout-Ms: soon\r\nContent-Length: 4\r\n\r\nabcd",
        [400, 200],
    ),
    # Connections
    "close": (GET + b"Connection: close\r\n\r\n", [200]),
    "HTTP/1.0": (b"GET /livez HTTP/1.0\r\n\r\n", [200]),
    "HTTP/1.0 that stays": (b"GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", OK),
}

PROBLEM = b"urn:glyph:problem:malformed-request"


@pytest.mark.parametrize("name", CASES)
def test_both_ways_answer_the_same_bytes(both_services: tuple[Service, Service], name: str) -> None:
    """The case, then a request that closes: what is refused ends the connection, what is not does not."""
    data, expected = CASES[name]
    answers = [talk(dispatcher.port, data + LAST) for dispatcher in both_services]
    assert [statuses(answer) for answer in answers] == [expected, expected]
    if PROBLEM in answers[0]:
        assert b"Content-Type: application/problem+json" in answers[0]
        assert b"Content-Type: text/html" in answers[1]
        return
    if name == "prediction with a bad chunk":  # Gunicorn's threads say keep-alive, and close
        answers[1] = answers[1].replace(b"Connection: keep-alive", b"Connection: close")
    assert settled(answers[0]) == settled(answers[1])


@pytest.mark.parametrize(
    "name", ["plain", "bare LF", "two lengths", "chunks", "long field", "prediction of no image"]
)
def test_the_pieces_in_which_a_request_arrives_change_nothing(
    both_services: tuple[Service, Service], name: str
) -> None:
    """Each byte in a packet of its own gets the answer of the whole."""
    data, expected = CASES[name]
    pieces = [data[at : at + 1] for at in range(min(len(data), 200))] + [data[200:] + LAST]
    assert statuses(talk(both_services[0].port, *pieces)) == expected


BARE = b"GET /livez HTTP/1.1\r\n"
ONLY_HERE: dict[str, tuple[bytes, list[int], bytes]] = {
    "no host": (BARE + b"\r\n", BAD, PROBLEM),
    "prediction without a host": (PREDICT.replace(b"Host: a\r\n", b"") + b"\r\n", BAD, PROBLEM),
    "absolute target without a host": (b"GET http://a/livez HTTP/1.1\r\n\r\n", BAD, PROBLEM),
    "host with a path": (BARE + b"Host: a/b\r\n\r\n", BAD, PROBLEM),
    "host with a space": (BARE + b"Host: a b\r\n\r\n", BAD, PROBLEM),
    "host with a user": (PREDICT.replace(b"Host: a", b"Host: u@a") + b"\r\n", BAD, PROBLEM),
    "empty host": (BARE + b"Host:\r\n\r\n", BAD, PROBLEM),
    "port without a host": (BARE + b"Host: :80\r\n\r\n", BAD, PROBLEM),
    "prediction with an empty host": (PREDICT.replace(b"Host: a", b"Host:") + b"\r\n", BAD, PROBLEM),
    "HTTP/1.0 with an empty host": (b"GET /livez HTTP/1.0\r\nHost:\r\n\r\n", BAD, PROBLEM),
    "host of IPv6": (BARE + b"Host: [::1]:8080\r\n\r\n", OK, b""),
    "HTTP/1.0 without a host": (b"GET /livez HTTP/1.0\r\n\r\n", [200], b"HTTP/1.0 200 OK"),
    "close in a list": (GET + b"Connection: TE, close\r\n\r\n", [200], b"Connection: close"),
    "close in a second field": (GET + b"Connection: TE\r\nConnection: close\r\n\r\n", [200], b""),
    "prediction that closes in a list": (
        PREDICT + b"Connection: TE,Close\r\nContent-Length: 4\r\n\r\nabcd",
        [415],
        b"Connection: close",
    ),
    "prediction that closes in a second field": (
        PREDICT + b"Connection: keep-alive\r\nConnection: close\r\nContent-Length: 4\r\n\r\nabcd",
        [415],
        b"Connection: close",
    ),
    "a later version": (GET.replace(b"1.1", b"1.7") + b"\r\n", OK, b"HTTP/1.1 200 OK"),
    "prediction of a later version": (
        PREDICT.replace(b"1.1", b"1.2") + b"Content-Length: 4\r\n\r\nabcd",
        [415, 200],
        b"HTTP/1.1 415 ",
    ),
    "options of the server": (
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        OK,
        b"Allow: GET, HEAD, OPTIONS, POST",
    ),
    "a script name that is no prefix": (
        GET + b"SCRIPT_NAME: /x\r\n\r\n",
        [404],
        b"urn:glyph:problem:not-found",
    ),
    "prediction with a script name": (
        PREDICT + b"SCRIPT_NAME: /x\r\n\r\n",
        [404],
        b"urn:glyph:problem:not-found",
    ),
    "a script name that is one": (GET.replace(b"/l", b"/x/l") + b"SCRIPT_NAME: /x\r\n\r\n", OK, b""),
    "long request line": (b"GET /" + b"a" * 8200 + b" HTTP/1.1\r\n\r\n", [414], PROBLEM),
    "request line beyond any head": (b"GET /" + b"a" * 99999 + b" HTTP/1.1\r\n\r\n", [414], PROBLEM),
    "method beyond any head": (b"A" * 99999 + b" / HTTP/1.1\r\n\r\n", BAD, PROBLEM),
    "method beyond any request line": (b"A" * 9999 + b" / HTTP/1.1\r\nHost: a\r\n\r\n", BAD, PROBLEM),
    "fields beyond any head": (GET + b"X: " + b"a" * 99999 + b"\r\n\r\n", [431], PROBLEM),
    "fragment": (b"GET /livez?a=b#c HTTP/1.1\r\nHost: a\r\n\r\n", BAD, PROBLEM),
    "backslash": (b"GET /li\\vez HTTP/1.1\r\nHost: a\r\n\r\n", BAD, PROBLEM),
    "prediction with a backslash": (
        PREDICT.replace(b"/pre", b"/v2/models/a\\b/infer?") + b"\r\n",
        BAD,
        PROBLEM,
    ),
    "CONNECT": (b"CONNECT example.org:443 HTTP/1.1\r\nHost: a\r\n\r\n", BAD, PROBLEM),
    "CONNECT to a path": (b"CONNECT /livez HTTP/1.1\r\nHost: a\r\n\r\n", BAD, PROBLEM),
    "long field": (GET + b"X: " + b"a" * 8200 + b"\r\n\r\n", [431], b'"status":431'),
    "unknown expectation": (GET + b"Expect: 200-ok\r\n\r\n", [417], PROBLEM),
    "unknown coding": (POST + b"Transfer-Encoding: xchunked\r\n\r\n", [501], PROBLEM),
    "coding that is not undone": (
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        [501],
        PROBLEM,
    ),
    "identity, then chunks": (
        POST + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
        [501],
        PROBLEM,
    ),
    "length of 65 bits": (POST + b"Content-Length: 18446744073709551616\r\n\r\n", BAD, PROBLEM),
    "no coding": (POST + b"Transfer-Encoding:\r\n\r\n", BAD, PROBLEM),
    "no coding, then chunks": (POST + b"Transfer-Encoding: , chunked\r\n\r\n0\r\n\r\n", BAD, PROBLEM),
    "chunks with a parameter": (POST + b"Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n", BAD, PROBLEM),
}
"""What the inference worker answers otherwise than Gunicorn's workers, as RFC 9110 and 9112 want it."""
ONLY_HERE |= {
    name: (CHUNKED + data, BAD, b"urn:glyph:problem:malformed-body")
    for name, data in {
        "chunk size with a sign": b"+5\r\nhello\r\n0\r\n\r\n",
        "chunk size with 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
        "chunk size with an underscore": b"1_0\r\nhellohello\r\n0\r\n\r\n",
        "chunk size with spaces": b"5 \r\nhello\r\n0\r\n\r\n",
        "chunk with a bare LF": b"5\nhello\r\n0\r\n\r\n",
        "chunk longer than it says": b"4\r\nhello\r\n0\r\n\r\n",
        "chunk extension with a bare CR": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
        "trailer that changes the length": b"0\r\nContent-Length: 9\r\n\r\n",
        "trailer that changes the host": b"0\r\nHost: b\r\n\r\n",
    }.items()
}
"""Gunicorn's workers ask the application all the same, which need not read the body, and answers 404 here."""


@pytest.mark.parametrize("name", ONLY_HERE)
def test_the_inference_worker_is_stricter_and_refuses_in_json(
    both_services: tuple[Service, Service], name: str
) -> None:
    """No page of HTML, and a status line of a version that is spoken."""
    data, expected, words = ONLY_HERE[name]
    answer = talk(both_services[0].port, data + LAST)
    assert statuses(answer) == expected
    assert words in answer
    assert b"text/html" not in answer
    if expected[0] >= 400:
        assert b"application/problem+json" in answer
