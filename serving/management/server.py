"""The management process: probes and metrics on a port of their own, which traffic cannot starve.

    GET /livez              200 while the service runs; 503 while its arbiter is stuck
    GET /readyz, /healthz   200 while some worker answers predictions; 503 says why none does
    GET /metrics            Prometheus's text format, or OpenMetrics where it is asked for

Started by the arbiter (`serving.process.management_process`), with a socket as its standard input that ends when the
arbiter does. It reads the workers' numbers from memory that they share and asks nobody anything,
so a worker that is busy or stuck delays no probe. The arbiter starts it again if it dies, or is silent.
"""

import contextlib
import ctypes
import logging
import os
import re
import shutil
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
    NotReadyError,
    ProblemError,
)
from serving.management.prometheus import WorkersCollector
from serving.management.workers import WorkerRegistry, report
from serving.predict.exchange import HOST, JSON
from serving.predict.load_shedding import LINGER_SECONDS
from serving.security.tokens import Access
from serving.settings import ServiceSettings, load_settings, management_port
from serving.system.addresses import bind_tcp
from serving.system.descriptors import EXHAUSTED
from serving.system.heartbeat import MAX_BEATS, beat
from serving.system.memory_directory import DIRECTORY_VARIABLE
from serving.telemetry import logs

log = logging.getLogger("glyph.management")

BACKLOG = 1024
CONNECTIONS = 64
"""Most at a time, a thread each; a new one takes the place of the one that has been waited for longest."""
REQUEST_SECONDS = 30.0
"""From the answer before, or the start of the connection, to the end of the next answer."""
MAX_DISCARDED_BYTES = 64 << 10
"""Most that is read of a body, so that the answer is not lost by a reset; nobody looks at it."""
RETRY_SECONDS = 0.25
TICK_SECONDS = 1.0
MAX_SILENT_TICKS = 20
"""For how long the arbiter may be silent, beside the time that it waits for workers when it ends the service."""
PR_SET_PDEATHSIG = 1
"""Of prctl(2), in linux/prctl.h."""

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2
_VALUE = re.compile(r"[\t -~\x80-\xff]*")  # RFC 9110, section 5.5; a folded one has its line ends still
_TARGET = re.compile(r"[!-~]+")  # RFC 3986, section 2


class Handler(BaseHTTPRequestHandler):
    """Answers one connection, in a thread of its own."""

    protocol_version = "HTTP/1.1"
    server_version = "glyph"
    sys_version = ""
    timeout = REQUEST_SECONDS
    disable_nagle_algorithm = True
    server: "Server"
    unread = False
    """Whether something has arrived, or may, that is not read as a request."""

    def handle_one_request(self) -> None:
        """Answer a request within its time, and be sure where the next begins."""
        self.server.restart_deadline(self.connection)
        super().handle_one_request()

    def parse_request(self) -> bool:
        """Read the head; a request with a body is the last of its connection."""
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
        """Read what a client still sends, for a moment, before its connection is closed."""
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
        """Answer a probe, or with the metrics."""
        try:
            status, media_type, body, headers = HTTPStatus.OK, *self._body(), {}
        except ProblemError as error:
            status, media_type, headers = error.status, PROBLEM_MEDIA_TYPE, dict(error.headers)
            body = orjson.dumps(error.document())
        self._send(status, media_type, body, headers)

    do_HEAD = do_GET  # noqa: N815

    def _body(self) -> tuple[str, bytes]:
        path = self.path.partition("?")[0]
        self.server.access.check_path("GET", path, self.headers.get("Authorization"))
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
            remedy="GET /livez, /readyz or /metrics; predictions are answered on the other port.",
        )

    def _not_allowed(self) -> None:
        problem = MethodNotAllowedError(
            f"the management port does not answer {self.command[:20]}", remedy="Use GET."
        )
        self.close_connection = self.unread = True  # a body may follow, which nobody reads
        self._send(
            problem.status, PROBLEM_MEDIA_TYPE, orjson.dumps(problem.document()), {"Allow": "GET, HEAD"}
        )

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _not_allowed  # noqa: N815

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what the library could not parse."""
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
        """Log nothing: probes and scrapes are no news."""


class ArbiterMonitor:
    """The arbiter, as this process knows it by the socket between them."""

    def __init__(self, peer: socket.socket, max_silent_ticks: int, directory: Path) -> None:
        """Begin.

        Args:
            peer: the socket.
            max_silent_ticks: after how many ticks without a sign of life it counts as stuck.
            directory: what is cleared away when it is gone.
        """
        self.peer = peer
        self._max_silent_ticks, self._directory = max_silent_ticks, directory
        self._silent_ticks = 0
        threading.Thread(target=self._receive_beats, daemon=True).start()

    def tick(self) -> None:
        """Count how long there has been no sign of life; to be called once a second."""
        self._silent_ticks += 1
        if self._silent_ticks == self._max_silent_ticks:
            log.error("the arbiter is silent: workers that end are not replaced, and /livez answers 503")

    def check(self) -> None:
        """Return if it is not known to be stuck.

        Raises:
            NotReadyError: it is.
        """
        if self._silent_ticks >= self._max_silent_ticks:
            raise NotReadyError(
                "the service's first process, the arbiter, is stopped or stuck: no worker would be replaced",
                remedy="Restart the service; if it was stopped on purpose (SIGSTOP), let it go on (SIGCONT).",
            )

    def _receive_beats(self) -> None:
        """Wait until it is gone, whatever else this process does, then clear the directory away and end."""
        with contextlib.suppress(OSError):
            while self.peer.recv(MAX_BEATS):
                self._silent_ticks = 0
        with contextlib.suppress(OSError):  # under another name nobody puts anything into it meanwhile
            shutil.rmtree(self._directory.rename(self._directory.with_suffix(".gone")), ignore_errors=True)
        os._exit(0)  # answers that are under way are of no use to anybody now


class Server(ThreadingHTTPServer):
    """Has a listening socket already."""

    daemon_threads = True

    def __init__(
        self,
        listener: socket.socket,
        registry: WorkerRegistry,
        collector: WorkersCollector,
        access: Access,
        arbiter: ArbiterMonitor,
    ) -> None:
        self.address_family = listener.family
        super().__init__(listener.getsockname(), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.registry, self.collector, self.access, self.arbiter = registry, collector, access, arbiter
        self._slots = threading.BoundedSemaphore(CONNECTIONS)
        self._deadlines: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        self._exhausted = False  # the last try to accept found no descriptor

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; without a descriptor for it, wait, because the next try would come at once."""
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
        """Answer a connection on a thread; beyond `CONNECTIONS` in the place of another."""
        if not self._slots.acquire(blocking=False):
            self.close_expired(inf, most=1)
            self._slots.acquire()  # its thread ends at once, or when its answer is made
        self.restart_deadline(request)
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread could be started
            self.close_request(request)
            raise

    def restart_deadline(self, connection: socket.socket) -> None:
        """Give a connection the time of a request from now on."""
        with self._lock:
            self._deadlines[connection] = time.monotonic() + REQUEST_SECONDS

    def close_expired(self, now: float, most: int = CONNECTIONS) -> None:
        """End the connections, the latest first, whose time was over before `now`, whatever they wait for."""
        with self._lock:
            late = sorted((deadline, id(each), each) for each, deadline in self._deadlines.items())[:most]
            for deadline, _, connection in late:
                if deadline < now:
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)  # its thread reads the end, and closes it

    def close_request(self, request: Any) -> None:
        """Close a connection, and give its place to another."""
        with self._lock:
            known = self._deadlines.pop(request, None)
        super().close_request(request)
        if known is not None:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log in a line what a client's broken connection raised."""
        log.debug("%s: %s", client_address, sys.exception() if hasattr(sys, "exception") else request)


def listen(settings: ServiceSettings, arbiter: ArbiterMonitor) -> socket.socket:
    """Listen on the management address; wait for it where the service before this one still has it."""
    said = False
    while True:
        try:
            return bind_tcp(settings.management_host, management_port(settings), BACKLOG)
        except OSError as error:
            if not said:
                log.error("the management port cannot be listened on yet: %s", error.strerror)  # noqa: TRY400
            said = True
            beat(arbiter.peer)
            time.sleep(RETRY_SECONDS)


def serve(
    settings: ServiceSettings, listener: socket.socket, directory: Path, arbiter: ArbiterMonitor
) -> NoReturn:
    """Answer, and tell the arbiter once a second that this works."""
    registry, access = WorkerRegistry(directory), Access(settings)
    other_processes: dict[str, tuple[int, ...]] = {"arbiter": (os.getppid(),), "management": (os.getpid(),)}
    collector = WorkersCollector(registry, settings.drift_window_seconds, other_processes, access.tokens)
    server = Server(listener, registry, collector, access, arbiter)
    answering = threading.Thread(target=server.serve_forever, daemon=True)
    answering.start()
    while True:
        try:
            server.close_expired(time.monotonic())
            registry.tick()
            collector.tick()
            logs.flush()
        except Exception:
            log.exception("the workers' numbers could not be read; the next try is in a second")
        arbiter.tick()
        if answering.is_alive():
            beat(arbiter.peer)
        time.sleep(TICK_SECONDS)


def main() -> NoReturn:
    """Listen, and answer until the arbiter is gone."""
    # The terminal and some service managers signal whole groups; this process ends with the arbiter.
    for name in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGQUIT,
        signal.SIGHUP,
        signal.SIGUSR1,
        signal.SIGUSR2,
    ):
        signal.signal(name, signal.SIG_IGN)
    # So that it ends with the arbiter even while it is stopped itself.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGCONT)
    settings, directory = load_settings(), Path(os.environ[DIRECTORY_VARIABLE])
    logs.configure(settings)
    # When it ends the service it waits for the workers, and gives no sign.
    max_silent_ticks = MAX_SILENT_TICKS + settings.graceful_timeout_seconds
    arbiter = ArbiterMonitor(socket.socket(fileno=0), max_silent_ticks, directory)
    serve(settings, listen(settings, arbiter), directory, arbiter)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
