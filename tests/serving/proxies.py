"""Real proxies in front of a service: nginx and HAProxy, as docs/operations.md configures them."""

import contextlib
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.support.management import await_
from bench.support.processes import ANSWER_SECONDS, ROOT, START_SECONDS, free_port
from tests.serving.certificates import write_certificate
from tests.serving.worker.wire import statuses

DOCUMENT = ROOT / "docs" / "operations.md"
WAIT = "3s"
"""How long a proxy waits for the rest of a malformed request, in place of its default."""


def snippet(language: str, number: int = 0) -> str:
    """Return a block of the document by its language."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    return str(blocks[number])


def replaced(text: str, changes: dict[str, str]) -> str:
    """Return a configuration with other paths and ports; each has to be in it once."""
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


class Tap:
    """Stands between a proxy and a service, passes all bytes on, and records what the service answers."""

    def __init__(self, service: tuple[str, int]) -> None:
        self._service = service
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.asked: list[bytearray] = []
        self.answered: list[bytearray] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                proxy, _ = self._listener.accept()
            except OSError:
                return
            service = socket.create_connection(self._service)
            asked, answered = bytearray(), bytearray()
            self.asked.append(asked)
            self.answered.append(answered)
            threading.Thread(target=_between, args=(proxy, service, asked, answered), daemon=True).start()

    def answers(self) -> int:
        """Return how many requests the service has answered, those of HAProxy's check aside."""
        return sum(
            sum(status >= 200 for status in statuses(bytes(answered)))
            for asked, answered in zip(self.asked, self.answered, strict=False)
            if not asked.startswith(b"GET /readyz")
        )

    def close(self) -> None:
        """Accept no more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _between(proxy: socket.socket, service: socket.socket, asked: bytearray, answered: bytearray) -> None:
    with proxy, service:
        there = threading.Thread(target=_pass_on, args=(proxy, service, asked), daemon=True)
        there.start()
        _pass_on(service, proxy, answered)
        there.join()


def _pass_on(source: socket.socket, target: socket.socket, record: bytearray) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            record += data
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@dataclass(frozen=True)
class Proxy:
    """A running proxy."""

    port: int
    log: Path
    trust: ssl.SSLContext

    @contextlib.contextmanager
    def connected(self) -> Iterator[ssl.SSLSocket]:
        """Connect over TLS."""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=ANSWER_SECONDS) as plain,
            self.trust.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            yield secure

    def talk(self, data: bytes) -> bytes:
        """Send bytes on one connection, and return all that comes back until the proxy closes."""
        received = b""
        with self.connected() as connection, contextlib.suppress(ConnectionError, ssl.SSLError):
            connection.sendall(data)
            while piece := connection.recv(1 << 16):
                received += piece
        return received

    def forwarded(self) -> int:
        """Return how many requests it says that it has passed on to the service."""
        return len(re.findall(r"^glyph forwarded$", self.log.read_text(), re.MULTILINE))


@contextlib.contextmanager
def _running(command: list[str], port: int, log: Path, trust: ssl.SSLContext) -> Iterator[Proxy]:
    output = log.with_suffix(".output")
    with output.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=log.parent)
    try:
        await_(lambda: process.poll() is not None or _accepts(port), output.read_text)
        assert process.poll() is None, output.read_text()
        yield Proxy(port, log, trust)
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS).close()
    except OSError:
        return False
    return True


def _certificate(directory: Path) -> tuple[Path, Path, ssl.SSLContext]:
    certificate, key = write_certificate(directory)
    both = directory / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    return certificate, key, ssl.create_default_context(cafile=certificate)


@contextlib.contextmanager
def nginx(directory: Path, upstream: str) -> Iterator[Proxy]:
    """Run nginx with the document's configuration in front of an address."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed (make proxies)")
    certificate, key, trust = _certificate(directory)
    port, log = free_port(), directory / "nginx.log"
    server = replaced(
        snippet("nginx"),
        {
            "server 127.0.0.1:8080;": f"server {upstream};",
            "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            "/etc/glyph/tls/fullchain.pem": str(certificate),
            "/etc/glyph/tls/privkey.pem": str(key),
        },
    )
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {directory}/{kind};\n" for kind in kinds)
    configuration = directory / "nginx.conf"
    configuration.write_text(
        f"daemon off;\npid {directory}/nginx.pid;\nerror_log stderr error;\nworker_processes 1;\n"
        + ("user root;\n" if os.geteuid() == 0 else "")  # as whom it may read what is only for this user
        + "events { }\nhttp {\n"
        + places
        + f"client_header_timeout {WAIT};\nclient_body_timeout {WAIT};\n"
        + 'map $upstream_addr $passed { "" refused; default forwarded; }\n'
        + f"log_format passed 'glyph $passed';\naccess_log {log} passed;\n{server}}}\n"
    )
    log.touch()
    with _running([program, "-c", str(configuration), "-p", str(directory)], port, log, trust) as proxy:
        yield proxy


@contextlib.contextmanager
def haproxy(directory: Path, upstream: str) -> Iterator[Proxy]:
    """Run HAProxy with the document's configuration in front of an address."""
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if program is None:
        pytest.skip("HAProxy is not installed (make proxies)")
    *_, trust = _certificate(directory)
    port, log = free_port(), directory / "haproxy.output"
    rest = replaced(
        snippet("haproxy"),
        {
            "server one 127.0.0.1:8080 check": f"server one {upstream.replace('unix:', 'unix@')} check",
            "bind :443 ssl crt /etc/glyph/tls/both.pem": f"bind 127.0.0.1:{port} ssl crt {directory}/both.pem",
            "timeout client 75s": f"timeout client {WAIT}",
            "timeout http-request 10s": f"timeout http-request {WAIT}",
            "mode http\n": 'mode http\n    log global\n    log-format "glyph %[srv_id,iif(forwarded,refused)]"\n',
        },
    )
    configuration = directory / "haproxy.cfg"
    configuration.write_text(f"global\n    log stdout format raw local0 info\n    nbthread 1\n\n{rest}")
    with _running([program, "-db", "-f", str(configuration)], port, log, trust) as proxy:
        yield proxy


PROXIES: dict[str, Callable[[Path, str], contextlib.AbstractContextManager[Proxy]]] = {
    "nginx": nginx,
    "haproxy": haproxy,
}
