"""Scoring by a service: the local bits, kept connections, Retry-After, limits, tokens and TLS."""

import contextlib
import datetime as dt
import email.utils
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.support.processes import Service, free_port, running
from bundle.repository import Bundle
from serving.scoring.backends import remote
from serving.scoring.backends.local import LocalBackend, open_local
from serving.scoring.backends.remote import Client, RemoteBackend, open_remote, retry_after
from serving.scoring.errors import BackendError
from serving.scoring.settings import ScoreSettings
from serving.token import line_of, new_token
from tests.serving.certificates import write_certificate

IMAGES = np.random.default_rng(21).integers(0, 256, (600, 28, 28), dtype=np.uint8)


def scoring(url: str = "http://127.0.0.1:1", **more: Any) -> ScoreSettings:
    """Return settings that name a service."""
    return ScoreSettings(input=("none",), output=Path("none"), url=url, **more)


@pytest.fixture(scope="module")
def local(bundle: Bundle) -> LocalBackend:
    """Return the backend that scores in this process."""
    return open_local(
        ScoreSettings(input=("none",), output=Path("none"), model=bundle.path.parent, provider="cpu")
    )


Reply = tuple[int, dict[str, str], bytes] | None


@dataclass
class Script:
    """What a scripted service was asked, and what it answers: the replies in turn, the last one for ever."""

    replies: list[Reply]
    asked: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    connections: set[tuple[str, int]] = field(default_factory=set)
    port: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    clients: list[Client] = field(default_factory=list)


def close_all(clients: list[Client]) -> None:
    """Close the clients."""
    for made in clients:
        made.close()


@pytest.fixture
def scripted() -> Iterator[Callable[..., Script]]:
    """Return what starts a service that answers as it is told; None breaks the connection."""
    with contextlib.ExitStack() as stack:

        def start(*replies: Reply) -> Script:
            script = Script(list(replies))

            class Handler(BaseHTTPRequestHandler):
                protocol_version = "HTTP/1.1"
                wbufsize = -1  # an answer in one piece, or Nagle's algorithm holds half of it back

                def _answer(self) -> None:
                    body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                    fields = {name.lower(): value for name, value in self.headers.items()}
                    with script.lock:
                        script.asked.append((self.command, self.path, fields, body))
                        script.connections.add(self.client_address)
                        reply = script.replies[0] if len(script.replies) == 1 else script.replies.pop(0)
                    if reply is None:
                        self.close_connection = True
                        self.connection.shutdown(socket.SHUT_RDWR)
                        return
                    status, told, content = reply
                    self.send_response(status)
                    for name, value in told.items():
                        self.send_header(name, value)
                    if "Content-Length" not in told:
                        self.send_header("Content-Length", str(len(content)))
                    self.close_connection = len(content) < int(told.get("Content-Length", 0))
                    self.end_headers()
                    self.wfile.write(content)

                do_GET = do_POST = _answer  # noqa: N815  the base class's names

                def log_message(self, *_: object) -> None:
                    """Say nothing."""

            server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            server.daemon_threads = True
            script.port = server.server_address[1]
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            stack.callback(close_all, script.clients)
            return script

        yield start


def client(script: Script, path: str = "", **more: Any) -> Client:
    """Return a client of a scripted service; it is closed with the service."""
    made = Client(scoring(f"http://127.0.0.1:{script.port}{path}", **more))
    script.clients.append(made)
    return made


def test_a_service_returns_the_bits_of_a_local_backend(service: Service, local: LocalBackend) -> None:
    """Under both worker classes, whatever requests meet there, the answers are those of this process, bit for bit."""
    parts = [IMAGES[:256], IMAGES[256:512], IMAGES[512:], IMAGES[:1], IMAGES[100:144], IMAGES[:255]] * 4
    with contextlib.closing(open_remote(scoring(f"http://127.0.0.1:{service.port}"))) as backend:
        assert (backend.digest, backend.classes) == (local.digest, local.classes)
        assert (backend.batch, backend.polarity) == (local.batch, local.polarity)
        with ThreadPoolExecutor(backend.concurrency) as threads:
            answers = list(threads.map(backend.score, parts))
    for images, answered in zip(parts, answers, strict=True):
        assert answered.dtype == np.float32
        assert answered.tobytes() == local.score(images).tobytes()


def test_a_service_behind_tokens_and_tls(bundle: Bundle, tmp_path: Path) -> None:
    """The token comes from a file, and the certificate is checked against the file of who signed it."""
    certificate, key = write_certificate(tmp_path)
    token, tokens = new_token(), tmp_path / "tokens"
    tokens.write_text(line_of("scorer", token) + "\n")
    (tmp_path / "token").write_text(token + "\n")
    (tmp_path / "other").write_text("another-token\n")
    with running(
        tmp_path,
        model=bundle.path.parent,
        until="/readyz",
        tls=ssl.create_default_context(cafile=str(certificate)),
        tls_certificate=certificate,
        tls_key=key,
        tokens_file=tokens,
    ) as service:
        url = f"https://127.0.0.1:{service.port}"
        known = {"ca_file": certificate, "patience_seconds": 0}
        with contextlib.closing(open_remote(scoring(url, token_file=tmp_path / "token", **known))) as backend:
            assert backend.digest == bundle.manifest.digest
            assert backend.score(IMAGES[:3]).shape == (3, 10)
        with pytest.raises(BackendError, match=r"401: the bearer token is not valid.*--token-file"):
            open_remote(scoring(url, token_file=tmp_path / "other", **known))
        with pytest.raises(BackendError, match=r"untrusted certificate.*--ca-file"):
            open_remote(scoring(url, token_file=tmp_path / "token"))


def test_a_request_follows_the_protocol(scripted: Callable[..., Script], local: LocalBackend) -> None:
    """A question is a full batch with its header's length, on the path of the version that was served first."""
    script = scripted((200, {}, b"{}"))
    backend = a_backend(client(script), local)
    with pytest.raises(BackendError, match="does not follow the Open Inference Protocol"):
        backend.score(IMAGES[:2])
    method, path, fields, body = script.asked[0]
    assert (method, path) == ("POST", "/v2/models/synthetic/versions/7/infer")
    length = int(fields["inference-header-content-length"])
    document = json.loads(body[:length])
    assert document["inputs"][0]["shape"] == [256, 28, 28]
    assert document["inputs"][0]["parameters"] == {"binary_data_size": 256 * 784}
    assert body[length:] == IMAGES[:2].tobytes() + bytes(254 * 784)
    assert fields["x-request-timeout-ms"] == "30000"
    assert "authorization" not in fields


def a_backend(asked: Client, local: LocalBackend) -> RemoteBackend:
    """Return a backend of version 7 of the synthetic model."""
    return RemoteBackend(
        client=asked,
        name="synthetic",
        version=7,
        digest=local.digest,
        classes=local.classes,
        polarity=local.polarity,
        provider="cpu",
        arithmetic="float32",
        concurrency=1,
    )


def a_response(version: str, probabilities: np.ndarray[Any, Any]) -> Reply:
    """Return an inference response with the probabilities as binary data."""
    output = {"name": "probabilities", "datatype": "FP32", "shape": probabilities.shape}
    header = json.dumps({"model_name": "m", "model_version": version, "outputs": [output]}).encode()
    return 200, {"Inference-Header-Content-Length": str(len(header))}, header + probabilities.tobytes()


def test_a_response_of_another_version_or_shape_is_rejected(
    scripted: Callable[..., Script], local: LocalBackend
) -> None:
    """What was not asked for is never written as an answer."""
    right = np.full((256, 10), 0.1, np.float32)
    for reply in (a_response("8", right), a_response("7", right[:, :9]), a_response("7", right[:255])):
        with pytest.raises(BackendError, match=r"did not ask for|does not follow"):
            a_backend(client(scripted(reply)), local).score(IMAGES[:2])
    assert (
        a_backend(client(scripted(a_response("7", right))), local).score(IMAGES[:2]).tolist()
        == right[:2].tolist()
    )


def test_connections_are_reused(scripted: Callable[..., Script]) -> None:
    """One thread asks a hundred times on one connection."""
    script = scripted((200, {}, b"x"))
    asking = client(script)
    for _ in range(100):
        assert asking.request("GET", "/").body == b"x"
    assert len(script.asked) == 100
    assert len(script.connections) == 1


def test_a_connection_that_was_closed_while_idle_is_reopened(scripted: Callable[..., Script]) -> None:
    """Even without patience a connection that the service has closed meanwhile is no failure."""
    script = scripted((200, {}, b"1"), None, (200, {}, b"2"))
    asking = client(script, patience_seconds=0)
    assert [asking.request("GET", "/").body, asking.request("GET", "/").body] == [b"1", b"2"]
    assert len(script.connections) == 2


def test_a_truncated_response_is_retried(scripted: Callable[..., Script]) -> None:
    """A connection that ends in the middle of an answer is no answer, though its first bytes are there."""
    script = scripted((200, {"Content-Length": "100"}, b"the first part"), (200, {}, b"whole"))
    assert client(script).request("GET", "/").body == b"whole"
    assert len(script.asked) == 2


def test_a_response_has_a_size_limit(
    scripted: Callable[..., Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more is held of an answer than one may have."""
    monkeypatch.setattr(remote, "MAX_RESPONSE_BYTES", 1000)
    script = scripted((200, {}, bytes(1000)), (200, {}, bytes(1001)))
    asking = client(script, patience_seconds=0)
    assert asking.request("GET", "/").body == bytes(1000)
    with pytest.raises(BackendError, match="more than 1000 bytes"):
        asking.request("GET", "/")


def test_redirects_are_not_followed(scripted: Callable[..., Script], tmp_path: Path) -> None:
    """A service that points to another one is told apart, and the other one is not asked."""
    (tmp_path / "token").write_text("secret\n")
    other = scripted((200, {}, b"x"))
    first = scripted((307, {"Location": f"http://127.0.0.1:{other.port}/"}, b""))
    with pytest.raises(BackendError, match="answered 307"):
        client(first, token_file=tmp_path / "token").request("GET", "/")
    assert first.asked[0][2]["authorization"] == "Bearer secret"
    assert not other.asked


def test_retry_after_is_honoured(scripted: Callable[..., Script], monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy service is asked again when it says, not before, and then answers."""
    script = scripted(
        (503, {"Retry-After": "100"}, b"{}"), (429, {"Retry-After": "2"}, b"{}"), (200, {}, b"x")
    )
    asking = client(script)
    waited: list[float] = []
    monkeypatch.setattr(asking, "_wait", waited.append)
    assert asking.request("GET", "/").body == b"x"
    assert [wait for wait in waited if wait in (100.0, 2.0)] == [100.0, 2.0]
    assert len(script.asked) == 3
    other: list[float] = []
    monkeypatch.setattr(asking, "_wait", other.append)
    asking.request("GET", "/")
    assert other[0] > 2  # what one thread was told holds for all


def test_without_patience_there_is_no_retry(scripted: Callable[..., Script]) -> None:
    """The error says what the service said, and that the same command resumes."""
    script = scripted((503, {"Retry-After": "5"}, b'{"error": "queue full. Ask later"}'))
    with pytest.raises(BackendError, match=r"503: queue full\. Ask later; retried for 0 s.*resumes"):
        client(script, patience_seconds=0).request("GET", "/")
    assert len(script.asked) == 1


def test_retries_end_with_patience(scripted: Callable[..., Script], monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that stays away is asked with growing pauses until the patience ends."""
    script = scripted((502, {}, b""))
    asking = client(script, patience_seconds=20)
    now = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def passing(seconds: float) -> None:
        now[0] += max(0.0, seconds)

    monkeypatch.setattr(asking, "_wait", passing)
    begun = now[0]
    with pytest.raises(BackendError, match="502"):
        asking.request("GET", "/")
    assert 5 < len(script.asked) < 20
    assert now[0] - begun <= 20


@pytest.mark.parametrize("status", [400, 401, 404, 413, 500, 301])
def test_permanent_errors_are_not_retried(status: int, scripted: Callable[..., Script]) -> None:
    """A fault of the request's own ends the run at once, with what the service says of it."""
    script = scripted((status, {}, b'{"detail": "no", "remedy": "do so."}'))
    with pytest.raises(BackendError, match=f"answered {status}: no. do so."):
        client(script).request("GET", "/")
    assert len(script.asked) == 1


def test_closing_wakes_threads_that_wait_for_a_retry(scripted: Callable[..., Script]) -> None:
    """A thread that waits for a busy service does not hold up the end."""
    script = scripted((503, {"Retry-After": "250"}, b"{}"))
    asking = client(script)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(asking.request, "GET", "/")
        while not script.asked:
            time.sleep(0.01)
        asking.close()
        with pytest.raises(BackendError, match="the run was stopped"):
            asked.result(120)


def test_a_service_that_is_not_there() -> None:
    """Nobody listens: the sentence says so."""
    with pytest.raises(BackendError, match=r"cannot be reached: .*refused"):
        Client(scoring(f"http://127.0.0.1:{free_port()}", patience_seconds=0)).request("GET", "/")


def test_another_server_is_not_a_service(scripted: Callable[..., Script]) -> None:
    """A server that is no Glyph service is told apart at the start."""
    script = scripted((200, {}, b"<html></html>"))
    with pytest.raises(BackendError, match="is not the response of a Glyph service"):
        open_remote(scoring(f"http://127.0.0.1:{script.port}"))


def test_a_path_before_the_services_paths_is_kept(scripted: Callable[..., Script]) -> None:
    """A service behind a proxy may have a path of its own."""
    script = scripted((200, {}, b"x"))
    client(script, "/glyph/").request("GET", "/metadata")
    assert script.asked[0][1] == "/glyph/metadata"


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8080", "ftp://host", "http://", "http://host:port", "http://a:b@host", "http://host/?x=1"],
)
def test_an_invalid_url_is_an_error(url: str) -> None:
    """The sentence shows what an address looks like, or what is wrong with the port."""
    with pytest.raises(BackendError, match=r"is not (a|the) URL"):
        Client(scoring(url))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A token or a certificate that is not there, or is none, is named; the token itself never is."""
    (tmp_path / "two").write_text("secret one\n")
    (tmp_path / "ca").write_text("no certificate")
    for more, sentence in (
        ({"token_file": tmp_path / "none"}, "--token-file .*none cannot be read: No such file"),
        ({"token_file": tmp_path / "two"}, "--token-file .*two has no token"),
        ({"ca_file": tmp_path / "none"}, "--ca-file .*none cannot be read"),
        ({"ca_file": tmp_path / "ca"}, "--ca-file .*ca cannot be read"),
    ):
        with pytest.raises(BackendError, match=sentence) as raised:
            Client(scoring("https://127.0.0.1:1", **more))
        assert "secret" not in str(raised.value)


def test_retry_after_dates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A date is waited for; what is neither date nor seconds, or is long past, is not."""
    now = 1_700_000_000
    date = email.utils.format_datetime(dt.datetime.fromtimestamp(now + 30, dt.UTC), usegmt=True)
    monkeypatch.setattr(time, "time", lambda: now)
    assert retry_after(date) == 30
    assert retry_after("120") == 120
    assert retry_after("9" * 9999) is None  # more digits than Python reads
    assert retry_after("99999") == remote.LONGEST_RETRY_AFTER_SECONDS
    assert [retry_after(None), retry_after("soon"), retry_after("-5")] == [None, None, None]
    monkeypatch.setattr(time, "time", lambda: now + 60)
    assert retry_after(date) == 0


@given(st.text(max_size=40))
def test_any_retry_after_is_a_time_or_nothing(value: str) -> None:
    """Whatever a service sends, the wait is bounded."""
    seconds = retry_after(value)
    assert seconds is None or 0 <= seconds <= remote.LONGEST_RETRY_AFTER_SECONDS
