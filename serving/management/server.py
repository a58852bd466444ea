"""The management process: probes and metrics on a port of their own, which traffic cannot starve.

    GET /livez              200 while the service runs; 503 while its arbiter is stuck
    GET /readyz, /healthz   200 while a worker is ready; 503 says why none is
    GET /metrics            Prometheus's text format, or OpenMetrics if the Accept field prefers it

The arbiter starts this process (`serving.process.management_process`), with one end of a socket pair as its standard
input, and restarts it if it dies or is silent. It reads the workers' counters from shared memory and waits for no other
process, so a worker that is busy or stuck delays no probe.
"""

import contextlib
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import inf
from pathlib import Path
from typing import Any, NoReturn

import orjson
from prometheus_client.exposition import choose_encoder

from serving.errors import (
    PROBLEM_MEDIA_TYPE,
    MalformedBodyError,
    MethodNotAllowedError,
    NotFoundError,
    ProblemError,
)
from serving.management.arbiter_monitor import MAX_SILENT_TICKS, ArbiterMonitor
from serving.management.prometheus import WorkersCollector
from serving.management.workers import WorkerRegistry, report
from serving.predict.exchange import HOST, JSON
from serving.predict.load_shedding import LINGER_SECONDS
from serving.security.tokens import Authenticator
from serving.settings import ServiceSettings, load_settings, management_port
from serving.system.addresses import bind_tcp
from serving.system.descriptors import EXHAUSTED
from serving.system.heartbeat import beat
from serving.system.memory_directory import DIRECTORY_VARIABLE
from serving.system.parent_death import continue_after_parent
from serving.telemetry import logs

log = logging.getLogger("glyph.management")

BACKLOG = 1024
CONNECTIONS = 64
"""Most connections at a time, each with a thread; a new one replaces the one with the earliest deadline."""
REQUEST_SECONDS = 30.0
"""Time from the last response, or the start of the connection, to the end of the next response."""
MAX_DISCARDED_BYTES = 64 << 10
"""Most bytes of a body that are discarded, because a reset would take the response from the client."""
RETRY_SECONDS = 0.25
"""Pause after a failed accept or bind."""
TICK_SECONDS = 1.0

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2
_VALUE = re.compile(r"[\t -~\x80-\xff]*")  # RFC 9110, section 5.5; a folded value still has its line ends
_TARGET = re.compile(r"[!-~]+")  # RFC 3986, section 2


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection, on a thread of its own."""

    protocol_version = "HTTP/1.1"
    server_version = "glyph"
    sys_version = ""
    timeout = REQUEST_SECONDS
    disable_nagle_algorithm = True
    server: "Server"
    unread = False
    """Whether bytes that are not read as a request have arrived, or may arrive."""

    def handle_one_request(self) -> None:
        """Answer a request within `REQUEST_SECONDS`."""
        self.server.restart_deadline(self.connection)
        super().handle_one_request()

    def parse_request(self) -> bool:
        """Parse a head more strictly than the library; a request with a body is the last of its connection."""
        if not super().parse_request():
            return False
        fields = self.headers
        lines = (map(_NAME.fullmatch, fields.keys()), map(_VALUE.fullmatch, fields.values()))
        if fields.defects or fields.get_payload() or not all(map(all, lines)):
            self.send_error(HTTPStatus.BAD_REQUEST, "a line of its head is no field")
            return False
        hosts = fields.get_all("Host", ["a"] if self.request_version == "HTTP/1.0" else [])
        if len(hosts) != 1 or not HOST.fullmatch(hosts[0]) or not _TARGET.fullmatch(self.path):
            self.send_error(HTTPStatus.BAD_REQUEST, "it has no target, or not one Host field")
            return False
        lengths = fields.get_all("Content-Length", ["0"])
        if "Transfer-Encoding" in fields or lengths != ["0"]:
            self.close_connection = self.unread = True
        return True

    def finish(self) -> None:
        """Close for writing, and discard what the client still sends for a moment (RFC 9112, section 9.6)."""
        super().finish()
        if not self.unread:
            return
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(LINGER_SECONDS)
            left = MAX_DISCARDED_BYTES
            while left > 0 and (data := self.connection.recv(left)):
                left -= len(data)

    def do_GET(self) -> None:
        """Answer a probe or a scrape."""
        try:
            status, media_type, body, headers = HTTPStatus.OK, *self._body(), {}
        except ProblemError as error:
            status, media_type, headers = error.status, PROBLEM_MEDIA_TYPE, dict(error.headers)
            body = orjson.dumps(error.document())
        self._send(status, media_type, body, headers)

    do_HEAD = do_GET  # noqa: N815

    def _body(self) -> tuple[str, bytes]:
        path = self.path.partition("?")[0]
        self.server.authenticator.check_path("GET", path, self.headers.get("Authorization"))
        match path:
            case "/livez":
                self.server.arbiter.check()
                return JSON, orjson.dumps({"live": True})
            case "/readyz" | "/healthz":
                return JSON, orjson.dumps(report(self.server.registry.scan()[0]))
            case "/metrics":
                encode, media_type = choose_encoder(self.headers.get("Accept", ""))
                return media_type, encode(self.server.collector)
        raise NotFoundError(
            f"there is nothing at {path[:100]} on the management port",
            remedy="GET /livez, /readyz or /metrics; the other port answers predictions.",
        )

    def _not_allowed(self) -> None:
        problem = MethodNotAllowedError(
            f"the management port does not answer {self.command[:20]}", remedy="Use GET."
        )
        self.close_connection = self.unread = True  # a body may follow, which is not read
        self._send(
            problem.status, PROBLEM_MEDIA_TYPE, orjson.dumps(problem.document()), {"Allow": "GET, HEAD"}
        )

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _not_allowed  # noqa: N815

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Respond to a request that the library cannot parse."""
        del explain
        problem = MalformedBodyError(
            f"the request cannot be understood: {message or HTTPStatus(code).phrase}",
            remedy="Send plain HTTP/1.1.",
        )
        self.close_connection = self.unread = True
        self._send(
            HTTPStatus(code), PROBLEM_MEDIA_TYPE, orjson.dumps(problem.document() | {"status": code}), {}
        )

    def _send(self, status: HTTPStatus, media_type: str, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        fields = {"Content-Type": media_type, "Content-Length": str(len(body)), "Cache-Control": "no-store"}
        for name, value in (fields | headers).items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  the library's name
        """Log no request: there are many probes and scrapes."""


class Server(ThreadingHTTPServer):
    """Serves the connections of a socket that listens already."""

    daemon_threads = True

    def __init__(
        self,
        listener: socket.socket,
        registry: WorkerRegistry,
        collector: WorkersCollector,
        authenticator: Authenticator,
        arbiter: ArbiterMonitor,
    ) -> None:
        self.address_family = listener.family
        super().__init__(listener.getsockname(), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.registry, self.collector = registry, collector
        self.authenticator, self.arbiter = authenticator, arbiter
        self._slots = threading.BoundedSemaphore(CONNECTIONS)
        self._deadlines: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        self._exhausted = False  # the last accept failed for lack of descriptors or memory

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; pause if there is no descriptor for it, as the server would retry at once."""
        try:
            accepted = self.socket.accept()
        except OSError as error:
            if error.errno in EXHAUSTED:
                if not self._exhausted:
                    log.error("no connection to the management port can be accepted: %s", error.strerror)  # noqa: TRY400
                self._exhausted = True
                time.sleep(RETRY_SECONDS)
            raise
        self._exhausted = False
        return accepted

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection on a thread; beyond `CONNECTIONS`, close another one for it."""
        if not self._slots.acquire(blocking=False):
            self.close_expired(inf, most=1)
            self._slots.acquire()  # its thread ends at once, or after its response
        self.restart_deadline(request)
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread could be started
            self.close_request(request)
            raise

    def restart_deadline(self, connection: socket.socket) -> None:
        """Set the deadline of a connection to `REQUEST_SECONDS` from now."""
        with self._lock:
            self._deadlines[connection] = time.monotonic() + REQUEST_SECONDS

    def close_expired(self, now: float, most: int = CONNECTIONS) -> None:
        """Shut down at most `most` connections whose deadline was before `now`, the earliest deadline first."""
        with self._lock:
            late = sorted((deadline, id(each), each) for each, deadline in self._deadlines.items())[:most]
            for deadline, _, connection in late:
                if deadline < now:
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)  # its thread reads EOF, and closes it

    def close_request(self, request: Any) -> None:
        """Close a connection, and free its slot."""
        with self._lock:
            known = self._deadlines.pop(request, None)
        super().close_request(request)
        if known is not None:
            self._slots.release()

    def handle_error(self, _request: Any, client_address: Any) -> None:
        """Log the exception of a broken connection, without a traceback."""
        log.debug("%s: %s", client_address, sys.exception())


def listen(settings: ServiceSettings, arbiter: ArbiterMonitor) -> socket.socket:
    """Listen on the management port; retry while a service that ends still has it."""
    logged = False
    while True:
        try:
            return bind_tcp(settings.management_host, management_port(settings), BACKLOG)
        except OSError as error:
            if not logged:
                log.error("the management port cannot be listened on yet: %s", error.strerror)  # noqa: TRY400
            logged = True
            beat(arbiter.peer)
            time.sleep(RETRY_SECONDS)


def serve(
    settings: ServiceSettings, listener: socket.socket, directory: Path, arbiter: ArbiterMonitor
) -> NoReturn:
    """Serve on a thread, and once a second tick and send the arbiter a heartbeat."""
    registry, authenticator = WorkerRegistry(directory), Authenticator(settings)
    other_processes: dict[str, tuple[int, ...]] = {"arbiter": (os.getppid(),), "management": (os.getpid(),)}
    collector = WorkersCollector(
        registry, settings.drift_window_seconds, other_processes, authenticator.tokens
    )
    server = Server(listener, registry, collector, authenticator, arbiter)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    while True:
        try:
            server.close_expired(time.monotonic())
            registry.tick()
            collector.tick()
            logs.flush()
        except Exception:
            log.exception("the workers' counters could not be read; the next try is in a second")
        arbiter.tick()
        if serving.is_alive():
            beat(arbiter.peer)
        time.sleep(TICK_SECONDS)


def main() -> NoReturn:
    """Serve until the arbiter has ended."""
    # Terminals and some service managers signal whole process groups; this process ends with the arbiter.
    for name in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGQUIT,
        signal.SIGHUP,
        signal.SIGUSR1,
        signal.SIGUSR2,
    ):
        signal.signal(name, signal.SIG_IGN)
    continue_after_parent()  # so that it notices the arbiter's end
    settings, directory = load_settings(), Path(os.environ[DIRECTORY_VARIABLE])
    logs.configure(settings)
    # While the arbiter waits for the workers at the end of the service, it sends no heartbeat.
    max_silent_ticks = MAX_SILENT_TICKS + settings.graceful_timeout_seconds
    arbiter = ArbiterMonitor(socket.socket(fileno=0), max_silent_ticks, directory)
    serve(settings, listen(settings, arbiter), directory, arbiter)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
