"""Gunicorn's thread worker with what a service on the open network needs: timeouts, a bounded queue, deadlines.

Ordinary predictions are answered together, on one thread: see `combiner.py`. For any other request a thread
reads it whole before it asks for one of the places in which requests are worked on, `threads` of them, so
that clients that are slow hold threads and nothing else. Like the inference worker, this module is imported
by the arbiter and must not import ONNX Runtime.
"""

import contextlib
import errno
import select
import selectors
import socket
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from gunicorn import util  # type: ignore[import-untyped]  # it ships no types
from gunicorn.http.errors import ParseException  # type: ignore[import-untyped]
from gunicorn.workers.base import Worker  # type: ignore[import-untyped]
from gunicorn.workers.gthread import _DEFER, ThreadWorker  # type: ignore[import-untyped]

from serving.errors import OverloadedError, ProblemError
from serving.handover import HandoverWorker
from serving.messages import Request, joined
from serving.metrics import MALFORMED
from serving.overload import FREE_BODY, THROTTLE_SECONDS, Gate, Throttle, hung_up, late_body
from serving.served import Kept, Served
from serving.settings import load_settings
from serving.timed import LINGER_SECONDS, LateError, Received, ReceivedBody, TimedConnection

if TYPE_CHECKING:
    from serving.pipeline import Pipeline

SPARE_THREADS = 16
"""Threads beyond those that may wait for a place, so that there is one to refuse what may not wait."""
STEP_BYTES = 1 << 16
_LATER = object()
"""What `handle` returns for a connection that is to wait until there is nothing else to do."""


class ServingThreadWorker(HandoverWorker, ThreadWorker):  # type: ignore[misc]
    """`gthread` with timeouts, a bounded queue and deadlines; not ready from SIGTERM on."""

    alive: bool

    def init_process(self) -> None:
        """Make the places, then what Gunicorn makes."""
        self.settings = load_settings()
        self.gate = Gate(self.settings.queue_limit + self.settings.threads, self.settings.queue_bytes)
        self._on_threads: set[Any] = set()
        self._places = threading.Semaphore(self.settings.threads)
        self._later: deque[Any] = deque()
        self._throttle = Throttle()
        self._resting: deque[tuple[float, Any]] = deque()
        """Refused connections, which are not read before their moment."""
        self.keepalived_conns = Kept()
        super().init_process()

    def get_thread_pool(self) -> ThreadPoolExecutor:
        """Return threads for all that may wait; they are started when they are needed."""
        settings = self.settings
        return ThreadPoolExecutor(settings.threads + settings.queue_limit + SPARE_THREADS)

    def accept(self, listener: Any) -> None:
        """Accept as Gunicorn does, into a connection with timeouts."""
        try:
            sock, address = listener.accept()
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise
            return
        self.nr_conns += 1
        conn = TimedConnection(self, self.cfg, sock, address, listener.getsockname())
        if self.alive and self._combines:
            # Until it says something: who is silent does not wait in the queue.
            self._rest(conn, time.monotonic())
        else:
            self.enqueue_req(conn)

    def run(self) -> None:
        """Serve; at the end of the grace period, leave nobody to wait for."""
        from serving.combiner import Combiner
        from serving.inference.head import ordinary_suffices

        self._combiner = Combiner(self)
        self._combines = not self.cfg.is_ssl and self.cfg.proxy_protocol == "off" and ordinary_suffices(self)
        super().run()
        self._cut()
        self._combiner.close()

    def enqueue_req(self, conn: Any) -> None:
        """Leave a connection to the combiner, which hands what is not ordinary on to a thread."""
        if self.alive and self._combines and not conn.unread():
            self._combiner.add(conn)
        else:
            self._on_thread(conn)

    def _on_thread(self, conn: Any) -> None:
        self._on_threads.add(conn)
        super().enqueue_req(conn)

    def after(self, served: Served) -> None:
        """Take connections back from the combiner."""
        now = time.monotonic()
        for conn in served.kept:
            self._rest(conn, now)
        for conn in served.refused:
            self._rest(conn, self._throttle.until(now))
        for conn in served.closed:
            self.nr_conns -= 1
            conn.close(graceful=True)
        for conn in served.extraordinary:
            self._on_thread(conn)
        self._later.extend(served.later)
        for conn, rest, keep in served.unwritten:
            self._on_threads.add(conn)
            future = self.tpool.submit(self._write, conn, rest)
            future.add_done_callback(partial(self.method_queue.defer, self._written, conn, keep))

    def _write(self, conn: Any, rest: bytes) -> None:
        """Write the rest of an answer, on a thread, in as much time as a client has to take it."""
        conn.sock.settimeout(self.settings.write_timeout_seconds)
        conn.sock.sendall(rest)

    def _written(self, conn: Any, keep: bool, future: Any) -> None:
        self._on_threads.discard(conn)
        one = [conn]
        self.after(Served(kept=one) if keep and future.exception() is None else Served(closed=one))

    def keeps(self) -> bool:
        """Tell whether a connection may be kept after its answer."""
        return bool(self.alive and len(self.keepalived_conns) < self.max_keepalived)

    def count(self) -> None:
        """Count a request, and end the process after the last that it may answer."""
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False

    def _rest(self, conn: Any, moment: float) -> None:
        """Leave a connection alone until then."""
        if moment > time.monotonic():
            self._resting.append((moment, conn))
            return
        conn.sock.setblocking(False)
        conn.set_timeout()
        if not self.alive:
            conn.timeout = min(conn.timeout, time.monotonic() + LINGER_SECONDS)
        self.keepalived_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_client_socket_readable, conn))

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait as Gunicorn does, but not beyond the moment at which a connection has rested."""
        if self._resting:
            timeout = min(timeout, max(0.0, self._resting[0][0] - time.monotonic()))
        super().wait_for_and_dispatch_events(timeout)

    def _cut(self) -> None:
        """Let no thread wait for a client any more: the interpreter would wait for the thread."""
        for conn in list(self._on_threads):
            with contextlib.suppress(OSError):
                conn.sock.shutdown(socket.SHUT_RDWR)

    def handle(self, conn: Any) -> Any:
        """Answer one request, unless others wait and this client has hung up: it goes behind them all.

        After a crowd of impatient clients most of those have gone, and nobody would read the answers.
        """
        if not conn.later and self._busy() and hung_up(conn.sock.fileno()):
            conn.later = True
            return _LATER
        return super().handle(conn)

    def _busy(self) -> bool:
        return self.gate.waiting >= self.settings.threads or len(self._combiner) > 0

    def murder_pending(self) -> None:
        """Look after what waits, as the main loop has it done in each of its turns."""
        super().murder_pending()
        now = time.monotonic()
        while self._resting and self._resting[0][0] <= now:
            self._rest(self._resting.popleft()[1], now)
        while self._later and not self._busy():
            self.enqueue_req(self._later.popleft())
            if len(self._on_threads) >= self.settings.threads:
                break
        self._combiner.go_on()

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Let a client that has connected just before the end still send its request; Gunicorn resets it."""
        self._on_threads.discard(conn)
        if fs.exception() is None and fs.result() is _LATER:
            self._later.append(conn)
        elif not self.alive and fs.exception() is None and fs.result() is _DEFER:
            conn.data_ready = True
            self.enqueue_req(conn)
        else:
            super().finish_request(conn, fs)

    def set_accept_enabled(self, enabled: bool) -> None:
        """Accept, before it stops to listen, what has connected already: it would be reset else."""
        if not enabled and not self.alive and self._accepting:
            while select.select(self.sockets, [], [], 0)[0]:
                for listener in self.sockets:
                    self.accept(listener)
        super().set_accept_enabled(enabled)

    def handle_request(self, req: Any, conn: Any) -> bool:
        """Read the body, wait for a place, and have the application answer."""
        pipeline: Pipeline = self.wsgi.extensions["glyph.pipeline"]
        # The PROXY protocol names the client once for all requests of a connection; Gunicorn's gthread forgets it.
        req.proxy_protocol_info = conn.proxied = req.proxy_protocol_info or conn.proxied
        body = self._receive(req, conn)
        try:
            if not pipeline.is_prediction(req.method, unquote(req.path)) or body.refusal is not None:
                return self._handle(req, conn)
            try:
                self.gate.enter()
            except OverloadedError as error:
                keep = self._handle(req, conn, error)
                time.sleep(THROTTLE_SECONDS)  # who asks again at once must not take the time of the others
                return keep
            try:
                with self._places:
                    if self._busy() and not conn.later and hung_up(conn.sock.fileno()):
                        return self._handle(
                            req, conn, self.gate.overloaded("others wait that have not hung up")
                        )
                    return self._handle(req, conn)
            finally:
                self.gate.leave()
        finally:
            self.gate.release(body.held)

    def _handle(self, req: Any, conn: Any, refusal: OverloadedError | None = None) -> bool:
        try:
            if refusal is not None:
                return self._refuse(req, conn, refusal)
            return bool(super().handle_request(req, conn))
        except TimeoutError as error:  # the client does not take its answer
            raise BrokenPipeError(errno.EPIPE, "the answer was not taken in time") from error
        finally:
            conn.parser.unreader.problem = None  # the request is answered, and cannot be a second time

    def _refuse(self, req: Any, conn: Any, error: OverloadedError) -> bool:
        """Answer for overload as the application would, without it: that takes a fraction of the time."""
        from serving.inference.response import Dates, render

        pipeline: Pipeline = self.wsgi.extensions["glyph.pipeline"]
        client = conn.client[0] if conn.client else ""
        request = Request(
            method=req.method,
            path=unquote(req.path),
            query=req.query,
            headers=joined(req.headers),
            client=(conn.proxied or {}).get("client_addr") or client,
        )
        exchange = pipeline.open(request, req.body.arrived)
        answer = pipeline.close(exchange, pipeline.refuse(exchange, error))
        keep = not req.should_close() and self.alive
        conn.sock.sendall(render(answer, req.version, Dates().now(), keep_alive=keep))
        return keep

    def _go_on(self, req: Any, conn: Any) -> None:
        """Send what a client that expects it waits for; Gunicorn would send it later, and the body would not come."""
        if req._expected_100_continue:  # noqa: SLF001
            req._expected_100_continue = False  # noqa: SLF001
            util.write(conn.sock, b"HTTP/1.1 100 Continue\r\n\r\n")

    def _receive(self, req: Any, conn: Any) -> ReceivedBody:
        """Read a request's body, as far as its limit, before anybody waits for it."""
        settings, unreader = self.settings, conn.parser.unreader
        unreader.until(settings.body_timeout_seconds, late_body(settings.body_timeout_seconds))
        limit, length = settings.max_body_bytes, getattr(req.body.reader, "length", 0)
        data, held = bytearray(), 0
        error: Exception | None = None
        refusal: ProblemError | None = None
        try:
            try:
                if FREE_BODY < length <= limit:
                    self.gate.hold(length)
                    held = length
            finally:  # also where it is refused: what follows on the connection is then known
                self._go_on(req, conn)
            while length <= limit and len(data) <= limit and (piece := req.body.read(STEP_BYTES)):
                data += piece
                if len(data) > max(held, FREE_BODY):
                    self.gate.hold(len(data) - held)
                    held = len(data)
        except OverloadedError as overloaded:
            refusal = overloaded
        except LateError as late:
            error, refusal = late, late.problem
        except Exception as broken:  # noqa: BLE001  the application answers it
            error = broken
        body = req.body = ReceivedBody(Received(bytes(data), req.body, error))
        body.arrived, body.refusal, body.held = time.perf_counter(), refusal, held
        return body

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """Answer what failed before the application was asked."""
        metrics = self.wsgi.extensions["glyph"].metrics
        if isinstance(exc, ParseException):
            metrics.refusal(MALFORMED)
        if not isinstance(exc, LateError):
            super().handle_error(req, client, addr, exc)
            return
        from serving.inference.response import Dates, render
        from serving.pipeline import problem

        metrics.refusal(exc.problem.kind)
        with contextlib.suppress(OSError):
            client.sendall(render(problem(exc.problem), (1, 1), Dates().now(), keep_alive=False))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End gracefully, and say so to whoever asks whether to send more."""
        if (app := getattr(self, "wsgi", None)) is not None:  # it is missing while the model is loaded
            app.extensions["glyph"].drain()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """End at once.

        Gunicorn's own handler (27.0) first shuts the thread pool down, which takes the pool's lock.
        A signal that lands while the main thread holds it, because it is handing a request to the
        pool or is in this very handler for an earlier signal, then waits for ever for itself, and the
        arbiter kills the worker only after the graceful timeout. Ending needs no such shutdown: the
        interpreter ends the pool's idle threads by itself, and those that wait for a client are cut off.
        """
        self._cut()
        Worker.handle_quit(self, sig, frame)
