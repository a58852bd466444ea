"""Routes parsed requests: predictions to the batcher or to a thread, all others to the Flask application.

A connection calls `Dispatcher.dispatch` with each request, and `Dispatcher.admit` before that if the body has not
arrived yet or is not small. The methods follow in the order of a request: dispatching, predictions, and the requests of
the Flask application.
"""

import asyncio
import functools
import io
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from serving.errors import MalformedBodyError, OverloadedError, ProblemError, RequestTimeoutError
from serving.predict.exchange import Exchange, Request, Response
from serving.predict.load_shedding import AdmissionControl, Throttle
from serving.predict.pipeline import Pipeline, problem, request_id
from serving.telemetry.metrics import CLIENT_GONE, OTHER
from serving.telemetry.request_record import RequestRecord
from serving.worker import wsgi_bridge
from serving.worker.batcher import Batcher, QueuedRequest
from serving.worker.blocking import blocks_loop
from serving.worker.http11.input_buffer import MAX_HEAD
from serving.worker.http11.request_head import Parser, RequestHead, fast_path_suffices, has_hooks
from serving.worker.http11.response import Dates
from serving.worker.wsgi_bridge import SocketAdapter


class Caller(Protocol):
    """What the dispatcher uses of who sent a prediction: a connection, or a call over gRPC."""

    half_closed: bool
    """Whether the client has closed its sending side (RDHUP). It may still read, or be gone."""

    @property
    def is_closed(self) -> bool:
        """Whether the connection is closed, so that nobody reads a response."""
        ...

    def send_response(self, response: Response) -> None:
        """Write the response to the current request."""
        ...

    def throttle(self, moment: float) -> None:
        """Read nothing until `moment`, by the loop's clock."""
        ...


class ClientConnection(Caller, Protocol):
    """What the dispatcher uses of a connection."""

    client: Any
    """The client's address, as the socket has it."""
    server: Any
    """The service's own address."""

    def will_close(self) -> bool:
        """Return whether the connection is closed after the response."""
        ...

    def socket_adapter(self) -> SocketAdapter:
        """Return a socket's stand-in, to which a thread writes the response; `response_sent` follows."""
        ...

    def response_sent(self, *, keep_alive: bool) -> None:
        """Read the next request, or close, now that the response is written."""
        ...


class Dispatcher:
    """Routes the requests of all connections of one process. All its methods are called on the event loop."""

    def __init__(self, worker: Any, loop: asyncio.AbstractEventLoop) -> None:
        """Set up admission control, batcher and threads.

        Args:
            worker: Gunicorn's worker, with its application loaded.
            loop: the event loop of the process.
        """
        self.worker = worker
        self.loop = loop
        self.alive = True
        """Whether connections are kept open; False when the process drains."""
        self.log = worker.log
        self.pipeline: Pipeline = worker.wsgi.extensions["glyph.pipeline"]
        self.settings, self.metrics = self.pipeline.settings, self.pipeline.store.metrics
        share = max(self.settings.queue_bytes // 2, self.settings.max_body_bytes + MAX_HEAD)
        self.admission = AdmissionControl(self.settings.queue_limit, self.settings.queue_bytes, share)
        """Of predictions, and of the bytes of all requests."""
        self._application_admission = AdmissionControl(self.settings.threads + self.settings.queue_limit, 0)
        """Of requests for the Flask application, so that neither kind fills the other's queue."""
        self._throttle = Throttle()
        self.batcher = Batcher(loop, self.pipeline)
        self.threads = ThreadPoolExecutor(self.settings.threads, thread_name_prefix="application")
        self.dates = Dates()
        self._runs_hooks = has_hooks(worker.cfg)
        self.logs_responses: bool = worker.log.access_log_enabled or self._runs_hooks
        """Whether Gunicorn's access log or its hooks see predictions, too."""
        self.parser = Parser(worker.cfg, fast_path_suffices(worker), self.settings.predict_route)

    # Dispatching

    def admit(self, head: RequestHead, length: int, client: str) -> None:
        """Check a request before its body is buffered: its token, and the memory for its body.

        Args:
            head: the request's head.
            length: bytes of the body that are announced and have not arrived.
            client: the client's host.

        Raises:
            ProblemError: the request is rejected.
        """
        authenticator, authorization = self.pipeline.authenticator, head.headers.get("authorization")
        if authenticator.tokens is not None and head.target is not None:
            authenticator.authenticate(authorization)
        else:
            authenticator.check_path(head.method, head.path, authorization)
        self.admission.check(length, client)

    def dispatch(
        self,
        connection: ClientConnection,
        head: RequestHead,
        body: bytes | None,
        arrived: float,
        error: ProblemError | None,
    ) -> None:
        """Route a request by its path.

        Args:
            connection: where the request came from, and the response goes.
            head: the request's head.
            body: the whole body; None if it cannot be read.
            arrived: `time.perf_counter()` when the request was whole.
            error: why the request is rejected; its body is empty then.
        """
        self.count_request()
        if head.target is not None:
            self.predict(connection, head, body or b"", arrived, error)
        elif head.method == "OPTIONS" and head.path == "*" and error is None:
            connection.send_response(self._options(head))
        else:
            self._call_application(connection, head, body or b"", error)

    def count_request(self) -> None:
        """Count a request, and let the process drain after `max_requests`."""
        worker = self.worker
        worker.nr += 1
        if worker.nr >= worker.max_requests and self.alive:
            worker.log.info("Autorestarting worker after current request.")
            worker.stop()

    def _options(self, head: RequestHead) -> Response:
        """Return the response to `OPTIONS *`: what the whole service allows (RFC 9110, section 9.3.7)."""
        identifier = request_id(head.headers)
        record = RequestRecord(id=identifier, method=head.method, path=head.path, route=OTHER, status=200)
        self.metrics.request(record)
        fields = {"Allow": "GET, HEAD, OPTIONS, POST", "X-Request-ID": identifier}
        return Response(body=b"", headers=fields | self.pipeline.headers.of(head.headers))

    # Predictions

    def predict(
        self,
        connection: ClientConnection,
        head: RequestHead,
        body: bytes,
        arrived: float,
        error: ProblemError | None,
    ) -> None:
        """Open an exchange for a prediction, and reject or queue it."""
        request = Request(
            method=head.method,
            path=head.path,
            query=head.query,
            headers=head.headers,
            body=body,
            client=connection.client[0] if connection.client else "",
        )
        exchange = self.pipeline.open(request, arrived, head.target)
        if self._runs_hooks:
            self.worker.cfg.pre_request(self.worker, head.original)
        self.enqueue(connection, exchange, error)

    def enqueue(self, caller: Caller, exchange: Exchange, error: ProblemError | None) -> None:
        """Reject a prediction, or queue it: on a thread if it would block the loop, else in the batcher."""
        pipeline = self.pipeline
        if error is None:
            error = self._enter_queue()
        if error is not None:
            if isinstance(error, OverloadedError):
                caller.throttle(self._throttle.until(self.loop.time()))
            caller.send_response(pipeline.close(exchange, pipeline.error_response(exchange, error)))
            return
        if blocks_loop(exchange.request, exchange.target):
            future = self.threads.submit(self._predict_on_thread, caller, exchange)
            future.add_done_callback(functools.partial(self._thread_done, caller, exchange))
            return
        self.batcher.put(QueuedRequest(exchange, caller, self._respond))

    def _enter_queue(self) -> OverloadedError | None:
        """Take a queue slot, if need be from a half-closed peer; return the error if there is none."""
        try:
            self.admission.enter()
        except OverloadedError as overloaded:
            if not self.batcher.shed_half_closed(overloaded):
                return overloaded
            self.admission.enter()
        return None

    def _predict_on_thread(self, caller: Caller, exchange: Exchange) -> Response:
        """Return the response to a large request, unless the client has gone."""
        if not caller.is_closed:
            return self.pipeline.answer(exchange)
        exchange.refusal = CLIENT_GONE
        return self.pipeline.close(exchange, Response(body=b""))

    def _thread_done(self, caller: Caller, exchange: Exchange, future: Future[Response]) -> None:
        """Hand a thread's response to the loop."""
        try:
            response = future.result()
        except BaseException as error:  # noqa: BLE001  else the client would wait for ever
            response = self.pipeline.error_response(exchange, Exception(f"the thread failed: {error!r}"))
        self._call_on_loop(self._respond, caller, response)

    def _respond(self, caller: Caller, response: Response) -> None:
        """Free the queue slot of a prediction, and send its response."""
        self.admission.leave()
        caller.send_response(response)

    # Requests of the Flask application

    def _call_application(
        self, connection: ClientConnection, head: RequestHead, body: bytes, error: ProblemError | None
    ) -> None:
        """Call the Flask application on a thread, if its queue has a slot.

        The application rejects a request by its own rules. Only what it cannot see is rejected here: a body that
        cannot be read or did not arrive in time, and overload.
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
        future = self.threads.submit(
            wsgi_bridge.call,
            self.worker,
            head.original,
            io.BytesIO(body),
            connection.socket_adapter(),
            (connection.client, connection.server),
            will_close=connection.will_close,
        )
        future.add_done_callback(functools.partial(self._application_done, connection))

    def _application_done(self, connection: ClientConnection, future: Future[bool]) -> None:
        """Free the queue slot of a request, and let the loop go on with its connection."""
        self._application_admission.leave()
        keep_alive = future.exception() is None and future.result()
        self._call_on_loop(functools.partial(connection.response_sent, keep_alive=keep_alive))

    def _call_on_loop(self, function: Any, *arguments: Any) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(function, *arguments)

    def close(self) -> None:
        """Shut the threads down, without waiting for them."""
        self.batcher.close()
        self.threads.shutdown(wait=False)
