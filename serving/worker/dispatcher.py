"""What the connections of one process share: where a request belongs, and who counts and logs it."""

import asyncio
import functools
import io
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, Protocol

from gunicorn.http import wsgi  # type: ignore[import-untyped]  # it ships no types
from gunicorn.http.errors import ConfigurationProblem  # type: ignore[import-untyped]

from serving.errors import MalformedBodyError, OverloadedError, ProblemError, RequestTimeoutError
from serving.predict import oip
from serving.predict.exchange import JSON, Exchange, Request, Response, Target
from serving.predict.load_shedding import AdmissionControl, Throttle
from serving.predict.native import PIXELS
from serving.predict.pipeline import Pipeline, problem, request_id
from serving.telemetry.metrics import CLIENT_GONE, OTHER
from serving.telemetry.request_record import RequestRecord
from serving.worker import wsgi_bridge
from serving.worker.batcher import Batcher, QueuedRequest
from serving.worker.http11.input_buffer import MAX_HEAD
from serving.worker.http11.request_head import Parser, RequestHead, fast_path_suffices, has_hooks
from serving.worker.http11.response import Dates, status_line
from serving.worker.wsgi_bridge import SocketAdapter

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


class ClientConnection(Protocol):
    """The connection that a request came on."""

    client: Any
    """The client's address, as the socket has it."""
    server: Any
    """The service's own."""
    half_closed: bool
    """Whether the client has sent all that it will; it may still want to read, or have gone."""

    @property
    def is_closed(self) -> bool:
        """Whether nobody reads an answer any more."""
        ...

    def socket_adapter(self) -> SocketAdapter:
        """Return what a thread may write the answer to; then comes `response_sent`."""
        ...

    def will_close(self) -> bool:
        """Tell whether the connection is to be closed after the answer."""
        ...

    def send_response(self, response: Response) -> None:
        """Write the answer."""
        ...

    def response_sent(self, *, keep_alive: bool) -> None:
        """Go on to the next request, or close: an answer is written, whoever wrote it."""
        ...

    def throttle(self, moment: float) -> None:
        """Read nothing until then, by the loop's time."""
        ...


class Dispatcher:
    """One process's way in. All its methods are called on the loop."""

    def __init__(self, worker: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.worker = worker
        self.loop = loop
        self.alive = True
        self.log = worker.log
        self.pipeline: Pipeline = worker.wsgi.extensions["glyph.pipeline"]
        self.settings, self.metrics = self.pipeline.settings, self.pipeline.store.metrics
        share = max(self.settings.queue_bytes // 2, self.settings.max_body_bytes + MAX_HEAD)
        self.admission = AdmissionControl(self.settings.queue_limit, self.settings.queue_bytes, share)
        self._application_admission = AdmissionControl(self.settings.threads + self.settings.queue_limit, 0)
        """Of requests for the Flask application, apart from predictions, so that neither takes the other's places."""
        self.batcher = Batcher(loop, self.pipeline)
        self.threads = ThreadPoolExecutor(self.settings.threads, thread_name_prefix="application")
        self.dates = Dates()
        self._throttle = Throttle()
        configuration = worker.cfg
        self.runs_hooks = has_hooks(configuration)
        self.parser = Parser(configuration, fast_path_suffices(worker))

    # Requests

    def dispatch(
        self,
        connection: ClientConnection,
        head: RequestHead,
        body: bytes | None,
        arrived: float,
        error: ProblemError | None,
    ) -> None:
        """Have a request answered.

        Args:
            connection: where it came from.
            head: of the request.
            body: whole; None if it is broken.
            arrived: `time.perf_counter()` when it was whole.
            error: why the request is refused; its body is empty then.
        """
        self._count_request()
        if head.target is not None:
            self.predict(connection, head, body or b"", arrived, error)
        elif head.method == "OPTIONS" and head.path == "*" and error is None:
            connection.send_response(self._options(head))
        else:
            self._call_application(connection, head, body or b"", error)

    def _count_request(self) -> None:
        """Count a request, and end the process after the last that it may answer."""
        worker = self.worker
        worker.nr += 1
        if worker.nr >= worker.max_requests and self.alive:
            worker.log.info("Autorestarting worker after current request.")
            worker.stop()

    def admit(self, head: RequestHead, length: int, client: str) -> None:
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
        self.admission.check(length, client)

    def predict(
        self,
        connection: ClientConnection,
        head: RequestHead,
        body: bytes,
        arrived: float,
        error: ProblemError | None,
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
        if self.runs_hooks:
            self.worker.cfg.pre_request(self.worker, head.original)
        if error is None:
            error = self._enter_queue()
        if error is not None:
            if isinstance(error, OverloadedError):
                connection.throttle(self._throttle.until(self.loop.time()))
            connection.send_response(pipeline.close(exchange, pipeline.refuse(exchange, error)))
            return
        if takes_long(request, exchange.target):
            future = self.threads.submit(self._answer_on_thread, connection, exchange)
            future.add_done_callback(functools.partial(self._thread_done, connection, exchange))
            return
        self.batcher.put(
            QueuedRequest(
                exchange,
                functools.partial(self._respond, connection),
                lambda: connection.is_closed,
                lambda: connection.half_closed,
            )
        )

    def _enter_queue(self) -> OverloadedError | None:
        """Take a place in the queue; return the refusal if there is none."""
        try:
            self.admission.enter()
        except OverloadedError as overloaded:
            if not self.batcher.shed_half_closed(overloaded):
                return overloaded
            self.admission.enter()
        return None

    def _answer_on_thread(self, connection: ClientConnection, exchange: Exchange) -> Response:
        """Answer a large request on a thread, if there is still somebody to read it."""
        if not connection.is_closed:
            return self.pipeline.answer(exchange)
        exchange.refusal = CLIENT_GONE
        return self.pipeline.close(exchange, Response(body=b""))

    def _thread_done(
        self, connection: ClientConnection, exchange: Exchange, future: Future[Response]
    ) -> None:
        """Take an answer from a thread to the loop."""
        try:
            response = future.result()
        except BaseException as error:  # noqa: BLE001  else the client would wait for ever
            response = self.pipeline.refuse(exchange, Exception(f"the thread failed: {error!r}"))
        self._call_on_loop(self._respond, connection, response)

    def _respond(self, connection: ClientConnection, response: Response) -> None:
        self.admission.leave()
        connection.send_response(response)

    def _options(self, head: RequestHead) -> Response:
        """Return what `OPTIONS *` is answered: what the service as a whole can do (RFC 9110, section 9.3.7)."""
        identifier = request_id(head.headers)
        record = RequestRecord(id=identifier, method=head.method, path=head.path, route=OTHER, status=200)
        self.metrics.request(record)
        fields = {"Allow": "GET, HEAD, OPTIONS, POST", "X-Request-ID": identifier}
        return Response(body=b"", headers=fields | self.pipeline.headers.of(head.headers))

    def _call_application(
        self, connection: ClientConnection, head: RequestHead, body: bytes, error: ProblemError | None
    ) -> None:
        """Have a request answered by the Flask application, on a thread; the others wait, as far as there is room.

        What is wrong with a request by the application's own rules it finds out itself.
        """
        refusal = (
            error if isinstance(error, MalformedBodyError | OverloadedError | RequestTimeoutError) else None
        )
        if refusal is None:
            try:
                self._application_admission.enter()
            except OverloadedError as overloaded:
                connection.throttle(self._throttle.until(self.loop.time()))
                refusal = overloaded
        if refusal is not None:
            self.metrics.refusal(refusal.kind)
            connection.send_response(problem(refusal, head.path))
            return

        def done(future: Future[bool]) -> None:
            self._application_admission.leave()
            keep = future.exception() is None and future.result()
            self._call_on_loop(lambda: connection.response_sent(keep_alive=keep))

        adapter, addresses = connection.socket_adapter(), (connection.client, connection.server)
        self.threads.submit(
            wsgi_bridge.call,
            self.worker,
            head.original,
            io.BytesIO(body),
            adapter,
            addresses,
            will_close=connection.will_close,
        ).add_done_callback(done)

    def _call_on_loop(self, function: Any, *arguments: Any) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(function, *arguments)

    def log_access(
        self, connection: ClientConnection, head: RequestHead, response: Response, elapsed: timedelta
    ) -> None:
        """Write the access log's line of a prediction, and run the hooks, as Gunicorn's workers do."""
        worker, request = self.worker, head.original
        if not (worker.log.access_log_enabled or self.runs_hooks):
            return
        request._expected_100_continue = False  # noqa: SLF001  the connection has sent it
        adapter = SocketAdapter(lambda _: None)
        try:
            _, environ = wsgi.create(request, adapter, connection.client, connection.server, worker.cfg)
        except ConfigurationProblem:  # its SCRIPT_NAME is no part of its path
            return
        headers = [*response.headers.items(), ("Content-Type", response.media_type)]
        shown = SimpleNamespace(
            status=status_line(response.status),
            status_code=int(response.status),
            headers=headers,
            sent=len(response.body),
            response_length=len(response.body),
        )
        worker.log.access(shown, request, environ, elapsed)
        if self.runs_hooks:
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
