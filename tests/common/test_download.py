"""Downloads from servers on loopback, honest, slow and malicious: what is followed, for how long, and what is told."""

import base64
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bundle.fetch import FetchError, fetch
from common import download as downloads
from common.download import DownloadError, below, download, shown_url, without_secrets
from tests.serving.certificates import write_certificate

PATIENCE = 60.0
SECRETS = ("hunter2", "s3cret", "alice")
Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def answering(answer: Answer, certificate: tuple[Path, Path] | None = None) -> Iterator[str]:
    """Answer every GET by `answer` while the block runs, and give `HOST:PORT`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_arguments: object) -> None:
            """Be silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def got(url: str, seconds: float = PATIENCE, limit: int = 1 << 20) -> bytes:
    """Return what a URL has."""
    return b"".join(download(url, limit=limit, deadline=time.monotonic() + seconds).chunks)


def hello(handler: BaseHTTPRequestHandler) -> None:
    """Answer with five bytes."""
    handler.send_response(200)
    handler.send_header("Content-Length", "5")
    handler.end_headers()
    handler.wfile.write(b"hello")


def redirecting(target: str, code: int = 302) -> Answer:
    """Return what redirects everything but /hello."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path.startswith("/hello"):
            return hello(handler)
        handler.send_response(code)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        return handler.end_headers()

    return answer


def test_what_is_there_arrives_with_its_length() -> None:
    """A redirect within the scheme is followed."""
    with answering(redirecting("/hello")) as host:
        found = download(f"http://{host}/elsewhere", limit=5, deadline=time.monotonic() + PATIENCE)
        assert (found.length, b"".join(found.chunks)) == (5, b"hello")


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "ftp://127.0.0.1/x?s3cret", "https://alice:s3cret@127.0.0.1/x", "HTTPS://x/"],
)
def test_a_redirect_to_another_scheme_is_not_followed(target: str, code: int) -> None:
    """Neither up nor down, nor to a file of this machine; the message has where it led, without secrets."""
    with (
        answering(redirecting(target, code)) as host,
        pytest.raises(DownloadError, match=r"redirects to \w+://.*another scheme is not followed") as raised,
    ):
        got(f"http://{host}/x?hunter2")
    assert not any(secret in str(raised.value) for secret in SECRETS)


def test_https_does_not_become_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is trusted by its certificate cannot send its client to one that is not."""
    certificate = write_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with answering(hello) as plain, answering(redirecting(f"http://{plain}/hello"), certificate) as host:
        assert got(f"https://{host}/hello") == b"hello"
        with pytest.raises(DownloadError, match=f"redirects to http://{plain}/hello"):
            got(f"https://{host}/x")


def dribbling(*before: bytes) -> tuple[Answer, threading.Event]:
    """Return what sends a byte now and then after `before`, until the event is set, and the event."""
    over = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        try:
            for part in before:
                handler.wfile.write(part)
            while not over.wait(0.02):
                handler.wfile.write(b"x")
        except OSError:
            return

    return answer, over


@pytest.mark.parametrize(
    "before",
    [
        (),
        (b"HTTP/1.1 200 OK\r\nX: ",),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: ",),
    ],
    ids=["status line", "head", "body", "trailer"],
)
def test_a_server_that_never_ends_does_not_hold_for_ever(before: tuple[bytes, ...]) -> None:
    """However little it sends, and wherever: no read of it times out, and the whole does."""
    answer, over = dribbling(*before)
    with answering(answer) as host:
        with pytest.raises(DownloadError, match="did not arrive in time"):
            got(f"http://{host}/3", seconds=0.5)
        over.set()


def test_what_comes_too_late_is_not_taken() -> None:
    """Though it is there: a fast server of something endless would go on."""
    with answering(hello) as host:
        found = download(f"http://{host}/", limit=5, deadline=time.monotonic() + PATIENCE)
        assert b"".join(found.chunks) == b"hello"
        with pytest.raises(DownloadError, match="did not arrive in time"):
            got(f"http://{host}/", seconds=0)


def test_a_body_above_the_limit_and_one_that_ends_early_are_errors() -> None:
    """And the connection is closed."""

    def short(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nhello")

    with answering(hello) as host, pytest.raises(DownloadError, match="has more than 4 bytes"):
        got(f"http://{host}/", limit=4)
    with answering(short) as host, pytest.raises(DownloadError, match="ended after 5 of 9 bytes"):
        got(f"http://{host}/")


def test_user_name_and_password_are_sent_to_their_server_alone() -> None:
    """As basic authentication, percent-decoded; not to where it redirects."""
    seen: list[str | None] = []

    def noting(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers["Authorization"])
        hello(handler)

    with answering(noting) as other, answering(redirecting(f"http://{other}/x")) as host:
        assert got(f"http://alice:p%40ss@{host}/hello") == b"hello"
        assert got(f"http://alice:p%40ss@{host}/x") == b"hello"
        assert got(f"http://alice:p%40ss@{other}/") == b"hello"
    assert seen == [None, "Basic " + base64.b64encode(b"alice:p@ss").decode()]


def test_a_file_below_keeps_the_query() -> None:
    """Where signed URLs have their token."""
    assert below("https://host/a/3?sig=s3cret", "m.json") == "https://host/a/3/m.json?sig=s3cret"
    assert below("https://host/a/3/", "m.json") == "https://host/a/3/m.json"


def refusing(handler: BaseHTTPRequestHandler) -> None:
    """Answer 403 and repeat the request."""
    handler.send_response(403, f"not {handler.path}")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


@pytest.mark.parametrize(
    "url",
    [
        "http://alice:hunter2@{host}/m/3?sig=s3cret",
        "http://alice:hunter2@127.0.0.1:9/m/3?sig=s3cret",
        "http://alice:hun/ter2hunter2@{host}/m/3",
        "http://alice:h?hunter2@{host}/m/3",
        "http://alice:hunter2@{host}/m/3?sig=a s3cret",
        "http://alice:hunter2@{host}/m/3?sig=\ns3cret",
        "http://alice:hunter2@{host}/m/\xe9/3?s3cret",
        "ftp://alice:hunter2@{host}/m/3?s3cret",
        "http://alice:hunter2@[::1/3?s3cret",
    ],
)
def test_no_message_has_a_secret_of_the_url(tmp_path: Path, url: str) -> None:
    """Whatever is wrong, with the URL, the connection or the answer."""
    with answering(refusing) as host, pytest.raises(FetchError) as raised:
        fetch(url.replace("{host}", host), "ab" * 32, tmp_path)
    assert not any(secret in str(raised.value) for secret in (*SECRETS, "ter2", "hun"))


def test_secrets_are_taken_out_of_urls_in_texts() -> None:
    """What stays names the server and the file."""
    assert shown_url("https://a:b@host:1/x/3?token#y") == "https://host:1/x/3"
    said = without_secrets("no route to 'https://a:b@host/x?token=y' and 'ftp://u@h/' today")
    assert said == "no route to 'https://host/x' and 'ftp://h/' today"


def test_an_error_of_another_kind_is_raised_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a fault, and not the server's."""

    def fault(*_: object) -> Iterator[int]:
        raise KeyError("fault")

    monkeypatch.setattr(downloads, "_receive", fault)
    with pytest.raises(KeyError, match="fault"):
        got("http://127.0.0.1/")
