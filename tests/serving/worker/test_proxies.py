"""A proxy in front of the service: where requests begin and end, what it says of its clients, and what is refused."""

import contextlib
import gzip
import itertools
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from bench.support.management import await_
from bench.support.pictures import a_digit, png
from bench.support.processes import (
    ROOT,
    START_SECONDS,
    Service,
    environment,
    free_port,
    running,
    serving_command,
)
from bundle.repository import Bundle
from tests.serving.proxies import PROXIES, Proxy, Tap
from tests.serving.worker.http11.test_malformed import CASES, CHUNKED, GET, ONLY_HERE, POST
from tests.serving.worker.wire import post, read_answer, statuses

HIDDEN = b"GET /v2 HTTP/1.1\r\nHost: a\r\nX-Request-ID: hidden\r\n\r\n"
"""A request that lies where one reader sees a body and another the next request."""
LAST_CHUNK = b"0\r\n\r\n"


def in_two_ways(*fields: bytes) -> bytes:
    """Return a request whose body is HIDDEN by its length, and ends before it if any field asks for chunks."""
    body = LAST_CHUNK + HIDDEN
    return (
        POST
        + b"".join(each + b"\r\n" for each in (*fields, b"Content-Length: %d" % len(body)))
        + b"\r\n"
        + body
    )


SMUGGLED: dict[str, bytes] = {
    "a request in a body": POST + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "a request in a body of GET": GET + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "a request in a chunk": CHUNKED + b"%x\r\n" % len(HIDDEN) + HIDDEN + b"\r\n" + LAST_CHUNK,
    "a request in a trailer": CHUNKED + b"0\r\n" + HIDDEN,
    "a request behind a length that is short": POST + b"Content-Length: 4\r\n\r\n" + LAST_CHUNK[:4] + HIDDEN,
    "a request that waits for 100": POST
    + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN)
    + HIDDEN,
    "a request behind an upgrade": GET
    + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
    + HIDDEN,
    "a request in a body of HTTP/1.0": b"POST /nowhere HTTP/1.0\r\nConnection: keep-alive\r\n"
    + b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n" % len(LAST_CHUNK + HIDDEN)
    + LAST_CHUNK
    + HIDDEN,
    "a length that the connection takes": in_two_ways(b"Connection: content-length"),
    "chunks that the connection takes": in_two_ways(
        b"Connection: transfer-encoding", b"Transfer-Encoding: chunked"
    ),
    "a size that ends in LF": CHUNKED + b"1\nx\r\n0\n\n" + HIDDEN,
    "an extension that ends in LF": CHUNKED + b"2;\nxx\r\n" + LAST_CHUNK + HIDDEN,
    "a chunk without its end": CHUNKED + b"2\r\nxx" + LAST_CHUNK + HIDDEN,
    "a size beyond 64 bits": CHUNKED + b"10000000000000000\r\n" + LAST_CHUNK + HIDDEN,
    "a second length with an underscore": POST
    + b"Content_Length: 0\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN)
    + HIDDEN,
    "lengths in two notations": POST + b"Content-Length: 0\r\nContent-Length: 00\r\n\r\n" + HIDDEN,
    **{
        f"a length and {name}": in_two_ways(coding)
        for name, coding in (
            ("chunks", b"Transfer-Encoding: chunked"),
            ("chunks in capitals", b"TRANSFER-ENCODING: CHUNKED"),
            ("an unknown coding", b"Transfer-Encoding: xchunked"),
            ("chunks in quotes", b'Transfer-Encoding: "chunked"'),
            ("chunks behind a tab", b"Transfer-Encoding:\tchunked"),
            ("chunks behind a control", b"Transfer-Encoding: \x0bchunked"),
            ("chunks before a space", b"Transfer-Encoding : chunked"),
            ("chunks before a tab", b"Transfer-Encoding\t: chunked"),
            ("chunks with an underscore", b"Transfer_Encoding: chunked"),
            ("folded chunks", b"Transfer-Encoding:\r\n chunked"),
            ("chunks in a fold", b"X: a\r\n Transfer-Encoding: chunked"),
            ("chunks behind LF", b"X: a\nTransfer-Encoding: chunked"),
            ("chunks behind CR", b"X: a\rTransfer-Encoding: chunked"),
            ("chunks behind NUL", b"Transfer-Encoding: \0chunked"),
            ("chunks twice", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
            ("chunks and identity", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
            ("a list with a gap", b"Transfer-Encoding: , chunked"),
            ("a parameter", b"Transfer-Encoding: chunked;q=1"),
        )
    },
}
"""Made to be read in two ways (CWE-444)."""
ALL = {
    **{name: case[0] for name, case in CASES.items()},
    **{f"{name}, without a host" if name in CASES else name: case[0] for name, case in ONLY_HERE.items()},
    **SMUGGLED,
}


@dataclass
class Way:
    """A proxy, what is between it and the service, and markers that are never the same twice."""

    proxy: Proxy
    tap: Tap
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def marker(self, close: bool) -> tuple[str, bytes]:
        """Return an id and a request that is answered with it."""
        name = f"marker-{next(self.numbers)}"
        end = "Connection: close\r\n" if close else ""
        return name, f"GET /livez HTTP/1.1\r\nHost: last\r\nX-Request-ID: {name}\r\n{end}\r\n".encode()

    def counts(self) -> tuple[int, int]:
        """Return how many requests the proxy has passed on, and how many the service has answered."""
        return self.proxy.forwarded(), self.tap.answers()

    def agrees(self) -> bool:
        """Tell whether it is as many."""
        forwarded, answered = self.counts()
        return forwarded == answered

    def assert_in_order(self) -> None:
        """Ask four times on one connection: the later ones go to the service on connections of other requests."""
        with self.proxy.connected() as connection, connection.makefile("rb") as stream:
            for close in (False, False, False, True):
                name, request = self.marker(close)
                connection.sendall(request)
                status, headers, _ = read_answer(stream)
                assert (status, headers["x-request-id"]) == (200, name)


@pytest.fixture(scope="module", params=PROXIES)
def between(
    both_services: tuple[Service, Service],
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[list[Way]]:
    """Return the ways through one kind of proxy to the inference worker and to Gunicorn's threads."""
    with contextlib.ExitStack() as stack:
        ways = []
        for service in both_services:
            tap = Tap(("127.0.0.1", service.port))
            stack.callback(tap.close)
            directory = tmp_path_factory.mktemp(request.param)
            proxy = stack.enter_context(PROXIES[request.param](directory, f"127.0.0.1:{tap.port}"))
            ways.append(Way(proxy, tap))
        yield ways


@pytest.mark.parametrize("name", ALL)
def test_a_proxy_and_the_service_agree_where_requests_end(between: list[Way], name: str) -> None:
    """As many are answered as the proxy has passed on, and whoever asks next gets the answer to what was asked."""
    for way in between:
        last, request = way.marker(close=True)
        answer = way.proxy.talk(ALL[name] + request)
        ids = re.findall(rb"(?im)^x-request-id: (marker-[^\r]+)", answer)
        assert ids in ([], [last.encode()])  # of no earlier or other request
        way.assert_in_order()
        await_(way.agrees, way.counts)


@pytest.mark.parametrize("kind", PROXIES)
def test_a_proxy_that_asks_on_a_unix_socket_gets_predictions(
    bundle: Bundle, tmp_path: Path, kind: str
) -> None:
    """With the document's configuration and its own line for that."""
    path = tmp_path / "http.sock"
    settings: dict[str, Any] = {"model": bundle.path.parent, "host": f"unix:{path}"}
    with (
        running(tmp_path, until="/readyz", **settings),
        PROXIES[kind](tmp_path, f"unix:{path}") as proxy,
        proxy.connected() as connection,
        connection.makefile("rb") as stream,
    ):
        for _ in range(3):
            connection.sendall(post(png(a_digit())))
            status, _, body = read_answer(stream)
            assert status == 200
            assert b'"predictions"' in body


def test_a_proxy_compresses_the_predictions_of_many_images(between: list[Way]) -> None:
    """With the document's configuration, for a client that accepts gzip; the service itself does not."""
    pixels = bytes(784 * 40)
    request = (
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/octet-stream\r\n"
        b"Content-Length: %d\r\nAccept-Encoding: %b\r\nConnection: close\r\n\r\n%b"
    )
    for way in between:
        answers = {}
        for coding in (b"identity", b"gzip"):
            with way.proxy.connected() as connection, HTTPResponse(connection, method="POST") as response:
                connection.sendall(request % (len(pixels), coding, pixels))
                response.begin()
                assert (response.status, response.headers.get("Content-Encoding", "identity").encode()) == (
                    200,
                    coding,
                )
                answers[coding] = response.read()
        assert gzip.decompress(answers[b"gzip"]) == answers[b"identity"]
        assert not any(b"content-encoding" in bytes(answered).lower() for answered in way.tap.answered)


def test_a_proxy_forwards_who_asked_and_how(between: list[Way]) -> None:
    """The client cannot say so itself: the proxy replaces the scheme, and puts the address at the end."""
    way = between[0]
    name, _ = way.marker(close=True)
    fields = (
        f"X-Request-ID: {name}\r\nX-Forwarded-Proto: http\r\nX-Forwarded-For: 192.0.2.1\r\nConnection: close"
    )
    assert statuses(way.proxy.talk(GET + fields.encode() + b"\r\n\r\n")) == [200]
    heads = b"".join(map(bytes, way.tap.asked)).split(b"\r\n\r\n")
    (head,) = [head.lower() for head in heads if name.encode() in head]
    assert re.findall(rb"x-forwarded-proto: ([^\r]*)", head) == [b"https"]
    assert re.findall(rb"x-forwarded-for: ([^\r]*)", head)[-1].endswith(b"127.0.0.1")


@pytest.mark.parametrize("worker", ["inference", "gthread"])
def test_the_proxy_protocol_is_refused_at_the_start(bundle: Bundle, worker: str) -> None:
    """With the exit code of a wrong setting and a sentence, not by taking the proxy for the client.

    Gunicorn's gthread takes the client from it for the first request of a connection only.
    """
    variables = environment(model=bundle.path.parent, port=free_port(), worker=worker)
    ended = subprocess.run(
        serving_command(),
        env=variables | {"GUNICORN_CMD_ARGS": "--proxy-protocol auto"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    for word in ("error: ", "PROXY protocol", "plain HTTP"):
        assert word in ended.stderr
