"""What the connections of one process share: where a request belongs, and who counts and logs it."""

import asyncio
import functools
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from gunicorn.http import wsgi  # type: ignore[import-untyped]  # it ships no types
from gunicorn.http.errors import ConfigurationProblem  # type: ignore[import-untyped]

from serving import oip
from serving.errors import OverloadedError, ProblemError
from serving.inference import bridge
from serving.inference.batcher import Batcher, Job
from serving.inference.bridge import Wire
from serving.inference.connection import Connection
from serving.inference.head import Head, Parser, has_hooks, ordinary_suffices
from serving.inference.input import MAX_HEAD
from serving.inference.response import Dates, status_line
from serving.messages import JSON, Answer, Exchange, Request, Target
from serving.metrics import CLIENT_GONE, OTHER
from serving.overload import Gate, Throttle
from serving.pipeline import Pipeline, request_id
from serving.predict import PIXELS
from serving.request_record import RequestRecord

LARGE_BODY = 32 << 10
"""Bodies beyond this size are decoded on a thread: their milliseconds would hold everybody else up.

At it, the slowest kind, a form of plain image files, takes 2.7 ms, half of what a turn of the loop may take; a thread
and back costs 0.09 ms (`python -m bench bodies`, on an idle Intel Xeon).
"""
FEW_FILES = 4
"""Image files in one request that are decoded in the loop: the worst of this size takes 1.4 ms (the same bench)."""
FEW_FILES_BYTES = 2 << 10
"""Below it no request has enough files to matter, and they are not counted: the worst have 685 bytes each."""
LARGE_PIXELS = 128 << 10
"""The same for bodies of nothing but pixels, which need no decoding: some 160 images, about 1 ms (the same bench)."""
WORD_SECONDS = 60.0
"""How often the log says that there is no place for more connections, at most."""


class Door:
    """One process's way in. All its methods are called on the loop."""

    def __init__(self, worker: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.worker = worker
        self.loop = loop
        self.alive = True
        self.pipeline: Pipeline = worker.wsgi.extensions["glyph.pipeline"]
        self.settings = self.pipeline.settings
        share = max(self.settings.queue_bytes // 2, self.settings.max_body_bytes + MAX_HEAD)
        self.gate = Gate(self.settings.queue_limit, self.settings.queue_bytes, share)
        self._application = Gate(self.settings.threads + self.settings.queue_limit, 0)
        """Of requests for the Flask application, apart from predictions, so that neither takes the other's places."""
        self.batcher = Batcher(loop, self.pipeline)
        self.threads = ThreadPoolExecutor(self.settings.threads, thread_name_prefix="application")
        self.dates = Dates()
        self._throttle = Throttle()
        self.connections: set[Connection] = set()
        self.connecting = 0
        self._number = 0
        self._idle: list[tuple[float, int, Connection]] = []  # those of late, the longest idle last
        self._sorted = False
        self._next_word = 0.0
        configuration = worker.cfg
        self.hooked = has_hooks(configuration)
        self.parser = Parser(configuration, ordinary_suffices(worker))

    # Connections

    def connect(self) -> Connection:
        """Return the protocol of a new connection, which takes a place from now on."""
        self.connecting += 1
        self._number += 1
        return Connection(self, self._number)

    def opened(self, connection: Connection) -> None:
        """Note a connection whose protocol has its transport, after the TLS handshake if there is one."""
        self.connecting -= 1
        self.connections.add(connection)

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self.connections.discard(connection)

    def longest_idle(self) -> Connection | None:
        """Return the connection that has been idle for longest, for a new one that waits; None if none is idle."""
        if self.loop.time() >= self._next_word:
            self._next_word = self.loop.time() + WORD_SECONDS
            self.worker.log.warning(
                "all %d connections of this process are open (GLYPH_CONNECTIONS): the longest idle are closed for "
                "new ones, which wait while none is idle",
                self.settings.connections,
            )
        if not self._idle and not self._sorted:
            # Once for each tick: to sort all for each newcomer would cost more than to serve it.
            self._sorted = True
            found = [(each.deadline, each.number, each) for each in self.connections if each.idle]
            self._idle = sorted(found, reverse=True)
        while self._idle:
            deadline, _, connection = self._idle[-1]
            if connection.deadline == deadline and connection.idle and not connection.readable:
                return connection
            self._idle.pop()
        return None

    def evict(self, connection: Connection) -> None:
        """Close an idle connection for a new one."""
        connection.drop()
        self.connections.discard(connection)
        self.pipeline.state.metrics.evicted()

    def tick(self) -> None:
        """Close the connections that have taken too long."""
        now = self.loop.time()
        self._idle, self._sorted = [], False
        self.pipeline.state.metrics.connections(len(self.connections))
        for connection in list(self.connections):
            connection.tick(now)

    # Requests

    def count(self) -> None:
        """Count a request, and end the process after the last that it may answer."""
        worker = self.worker
        worker.nr += 1
        if worker.nr >= worker.max_requests and self.alive:
            worker.log.info("Autorestarting worker after current request.")
            worker.stop()

    def admit(self, head: Head, length: int, client: str) -> None:
        """Look at a request before its body is kept: whether its client may ask, and whether there is room.

        Args:
            head: the request's.
            length: bytes of the body that are announced and not here yet.
            client: the address.

        Raises:
            ProblemError: it is refused.
        """
        access, authorization = self.pipeline.access, head.headers.get("authorization")
        if access.tokens is not None and head.target is not None:
            access.check(authorization)
        else:
            access.check_path(head.method, head.path, authorization)
        self.gate.check(length, client)

    def predict(
        self, connection: Connection, head: Head, body: bytes, arrived: float, error: ProblemError | None
    ) -> None:
        """Answer a request of a prediction route: refuse it, or let it run with what else has arrived."""
        pipeline = self.pipeline
        request = Request(
            method=head.method,
            path=head.path,
            query=head.query,
            headers=head.headers,
            body=body,
            client=connection.client[0] if connection.client else "",
        )
        exchange = pipeline.open(request, arrived, head.target)
        if self.hooked:
            self.worker.cfg.pre_request(self.worker, head.original)
        if error is None:
            error = self._enter()
        if error is not None:
            if isinstance(error, OverloadedError):
                connection.throttle(self._throttle.until(self.loop.time()))
            connection.answered(pipeline.close(exchange, pipeline.refuse(exchange, error)))
            return
        if takes_long(request, exchange.target):
            future = self.threads.submit(self._answer, connection, exchange)
            future.add_done_callback(functools.partial(self._hand_over, connection, exchange))
            return
        self.batcher.put(
            Job(
                exchange,
                functools.partial(self._predicted, connection),
                lambda: connection.phase == "closed",
                lambda: connection.hung_up,
            )
        )

    def _enter(self) -> OverloadedError | None:
        """Take a place in the queue; return the refusal if there is none."""
        try:
            self.gate.enter()
        except OverloadedError as overloaded:
            if not self.batcher.make_room(overloaded):
                return overloaded
            self.gate.enter()
        return None

    def _answer(self, connection: Connection, exchange: Exchange) -> Answer:
        """Answer a large request on a thread, if there is still somebody to read it."""
        if connection.phase != "closed":
            return self.pipeline.answer(exchange)
        exchange.refusal = CLIENT_GONE
        return self.pipeline.close(exchange, Answer(body=b""))

    def _hand_over(self, connection: Connection, exchange: Exchange, future: Future[Answer]) -> None:
        """Take an answer from a thread to the loop."""
        try:
            answer = future.result()
        except BaseException as error:  # noqa: BLE001  else the client would wait for ever
            answer = self.pipeline.refuse(exchange, Exception(f"the thread failed: {error!r}"))
        self._on_loop(self._predicted, connection, answer)

    def _predicted(self, connection: Connection, answer: Answer) -> None:
        self.gate.leave()
        connection.answered(answer)

    def options(self, head: Head) -> Answer:
        """Return what `OPTIONS *` is answered: what the service as a whole can do (RFC 9110, section 9.3.7)."""
        identifier = request_id(head.headers)
        record = RequestRecord(id=identifier, method=head.method, path=head.path, route=OTHER, status=200)
        self.pipeline.state.metrics.request(record)
        fields = {"Allow": "GET, HEAD, OPTIONS, POST", "X-Request-ID": identifier}
        return Answer(body=b"", headers=fields | self.pipeline.headers.of(head.headers))

    def call(self, connection: Connection, head: Head, body: Any, wire: Wire) -> None:
        """Have a request answered by the Flask application, on a thread; the others wait, as far as there is room.

        Raises:
            OverloadedError: as many wait as may.
        """
        try:
            self._application.enter()
        except OverloadedError:
            connection.throttle(self._throttle.until(self.loop.time()))
            raise

        def answered(future: Future[bool]) -> None:
            self._application.leave()
            keep = future.exception() is None and future.result()
            self._on_loop(lambda: connection.finished(keep=keep))

        addresses = connection.client, connection.server
        self.threads.submit(
            bridge.call, self.worker, head.original, body, wire, addresses, closing=connection.closing
        ).add_done_callback(answered)

    def _on_loop(self, function: Any, *arguments: Any) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(function, *arguments)

    def log_access(self, connection: Connection, head: Head, answer: Answer, elapsed: timedelta) -> None:
        """Write the access log's line of a prediction, and run the hooks, as Gunicorn's workers do."""
        worker, request = self.worker, head.original
        if not (worker.log.access_log_enabled or self.hooked):
            return
        request._expected_100_continue = False  # noqa: SLF001  the connection has sent it
        wire = Wire(lambda _: None)
        try:
            _, environ = wsgi.create(request, wire, connection.client, connection.server, worker.cfg)
        except ConfigurationProblem:  # its SCRIPT_NAME is no part of its path
            return
        headers = [*answer.headers.items(), ("Content-Type", answer.media_type)]
        shown = SimpleNamespace(
            status=status_line(answer.status),
            status_code=int(answer.status),
            headers=headers,
            sent=len(answer.body),
            response_length=len(answer.body),
        )
        worker.log.access(shown, request, environ, elapsed)
        if self.hooked:
            try:
                worker.cfg.post_request(worker, request, environ, shown)
            except Exception:
                worker.log.exception("Exception in post_request hook")

    def close(self) -> None:
        """Free the threads."""
        self.batcher.close()
        self.threads.shutdown(wait=False)


def takes_long(request: Request, target: Target) -> bool:
    """Tell whether to decode a request would hold the loop up."""
    size, headers = len(request.body), request.headers
    if size <= FEW_FILES_BYTES or "content-encoding" in headers:
        return "content-encoding" in headers
    if size <= LARGE_BODY:
        return most_files(request, target) > FEW_FILES
    if size > LARGE_PIXELS or headers.get("content-type") not in PIXELS:
        return True
    if target.model is None:
        return False
    # So many bytes before the tensors are JSON; where it is not said, all are.
    length = headers.get(oip.HEADER_LENGTH.lower(), "")
    return not (length.isascii() and length.isdigit() and len(length) < 9) or int(length) > LARGE_BODY


def most_files(request: Request, target: Target) -> int:
    """Return how many image files a request can have at most, without reading it."""
    body, media_type = request.body, request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        return body.count(b"\n--") + body.count(b"\r--")  # a boundary's line follows each, however lines end
    if media_type == JSON and target.model is None:
        return body.count(b'"') // 2 - 1  # each is a string, and "instances" is none
    return 1
