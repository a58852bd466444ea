"""Gunicorn's thread worker with what a service on the open network needs: timeouts, a bounded queue, deadlines.

A thread reads a request whole before it asks for one of the places in which requests are worked on,
`threads` of them, so that clients that are slow hold threads and nothing else. Like the inference
worker, this module is imported by the arbiter and must not import ONNX Runtime.
"""

import contextlib
import errno
import io
import select
import socket
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any, cast
from urllib.parse import unquote

from gunicorn import util  # type: ignore[import-untyped]  # it ships no types
from gunicorn.http import get_parser  # type: ignore[import-untyped]
from gunicorn.http.body import Body  # type: ignore[import-untyped]
from gunicorn.http.errors import ParseException  # type: ignore[import-untyped]
from gunicorn.http.unreader import SocketUnreader  # type: ignore[import-untyped]
from gunicorn.sock import ssl_wrap_socket  # type: ignore[import-untyped]
from gunicorn.workers.base import Worker  # type: ignore[import-untyped]
from gunicorn.workers.gthread import _DEFER, TConn, ThreadWorker  # type: ignore[import-untyped]

from serving.errors import OverloadedError, ProblemError
from serving.handover import HandoverWorker
from serving.messages import Request, joined
from serving.metrics import MALFORMED
from serving.overload import FREE_BODY, Gate, late_body, late_head
from serving.settings import load_settings

SPARE_THREADS = 16
"""Threads beyond those that may wait for a place, so that there is one to refuse what may not wait."""
STEP_BYTES = 1 << 16
SILENT_SECONDS = 0.05
THROTTLE_SECONDS = 0.1
"""How long a spare thread rests after a refusal for overload, and does not read that connection."""
LINGER_SECONDS = 2.0


_LATER = object()
"""What `handle` returns for a connection that is to wait until there is nothing else to do."""


def hung_up(sock: socket.socket) -> bool:
    """Tell whether the client will send nothing more; it may still want to read, or has gone."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


class LateError(Exception):
    """The client did not send what it announced in its time; the problem says what."""

    def __init__(self, problem: ProblemError) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class TimedUnreader(SocketUnreader):  # type: ignore[misc]
    """Reads from a socket until a moment, not for a time: a client that trickles gains nothing by it."""

    def __init__(self, sock: Any, write_timeout: float) -> None:
        super().__init__(sock)
        self._write_timeout = write_timeout
        self.problem: ProblemError | None = None
        self.moment = 0.0

    def until(self, seconds: float, problem: ProblemError | None) -> None:
        """Begin a phase that takes so many seconds at most, and say what is answered else, if anything."""
        self.moment, self.problem = time.monotonic() + seconds, problem

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return what has arrived.

        Raises:
            LateError: the moment has passed, and there is something to answer.
            TimeoutError: the moment has passed.
        """
        left = self.moment - time.monotonic()
        try:
            self.sock.settimeout(max(left, 0.001))
            return cast("bytes", super().chunk(size_hint))
        except TimeoutError:
            if self.problem is None:
                raise
            raise LateError(self.problem) from None
        finally:
            with contextlib.suppress(OSError):
                self.sock.settimeout(self._write_timeout)


class TimedConnection(TConn):  # type: ignore[misc]
    """Gunicorn's connection, with a time for each phase."""

    initialized: bool
    sock: Any

    def __init__(self, worker: "ServingThreadWorker", *arguments: Any) -> None:
        super().__init__(*arguments)
        self._worker = worker
        self.settings = worker.settings
        self.later = False
        """Whether the client had hung up when others were waiting too."""
        self.proxied: dict[str, Any] | None = None
        self._threads: ThreadPoolExecutor = worker.tpool

    def wait_for_data(self, timeout: float) -> bool:
        """Leave a client that has connected and says nothing to the poller; Gunicorn gives it a thread for 5 s."""
        return bool(super().wait_for_data(min(timeout, SILENT_SECONDS)))

    def close(self, graceful: bool = False) -> None:
        """Close; what lingers to let the client read its answer does so on a thread, not in the main loop.

        A worker that ends lingers on idle connections too, on which a request may be on its way.
        """
        if graceful or not self._worker.alive:
            with contextlib.suppress(RuntimeError):  # the pool is gone: the process ends
                self.sock.settimeout(LINGER_SECONDS)
                self._threads.submit(util.close_graceful, self.sock)
                return
        super().close()

    def init(self) -> None:
        """Begin to read a request, and at first with the connection."""
        seconds = self.settings.header_timeout_seconds
        if not self.initialized:
            self.initialized = True
            self.sock.settimeout(seconds)
            if self.cfg.is_ssl:
                self._shake_hands()
            self.parser = get_parser(self.cfg, self.sock, self.client)
            self.parser.unreader = TimedUnreader(self.sock, self.settings.write_timeout_seconds)
        self.parser.unreader.until(seconds, late_head(seconds))

    def _shake_hands(self) -> None:
        try:
            self.sock = ssl_wrap_socket(self.sock, self.cfg)
            self.sock.do_handshake()
        except TimeoutError as error:
            raise ConnectionResetError(errno.ECONNRESET, "no TLS handshake in time") from error


class Received:
    """What has been read of a body, then the rest of it, then what reading it failed with."""

    def __init__(self, data: bytes, rest: Any, error: Exception | None) -> None:
        self._data = io.BytesIO(data)
        self._rest = rest
        self._error = error

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes."""
        if data := self._data.read(size):
            return data
        if self._error is not None:
            raise self._error
        return cast("bytes", self._rest.read(size))


class ReceivedBody(Body):  # type: ignore[misc]
    """`wsgi.input` of a request that was read before the application was asked."""

    arrived = 0.0
    """`time.perf_counter()` when it was whole."""
    refusal: ProblemError | None = None
    """Why a prediction of it is refused; `serving.bodies` raises it."""
    held = 0
    """Bytes that the gate holds for it."""


class ServingThreadWorker(HandoverWorker, ThreadWorker):  # type: ignore[misc]
    """`gthread` with timeouts, a bounded queue and deadlines; not ready from SIGTERM on."""

    def init_process(self) -> None:
        """Make the places, then what Gunicorn makes."""
        self.settings = load_settings()
        self.gate = Gate(self.settings.queue_limit + self.settings.threads, self.settings.queue_bytes)
        self._on_threads: set[Any] = set()
        self._places = threading.Semaphore(self.settings.threads)
        self._later: deque[Any] = deque()
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
        self.enqueue_req(TimedConnection(self, self.cfg, sock, address, listener.getsockname()))

    def run(self) -> None:
        """Serve; at the end of the grace period, leave nobody to wait for."""
        super().run()
        self._cut()

    def enqueue_req(self, conn: Any) -> None:
        """Hand a connection to a thread, and remember it."""
        self._on_threads.add(conn)
        super().enqueue_req(conn)

    def _cut(self) -> None:
        """Let no thread wait for a client any more: the interpreter would wait for the thread."""
        for conn in list(self._on_threads):
            with contextlib.suppress(OSError):
                conn.sock.shutdown(socket.SHUT_RDWR)

    def handle(self, conn: Any) -> Any:
        """Answer one request, unless others wait and this client has hung up: it goes behind them all.

        After a crowd of impatient clients most of those have gone, and nobody would read the answers.
        """
        if not conn.later and self._busy() and hung_up(conn.sock):
            conn.later = True
            return _LATER
        return super().handle(conn)

    def _busy(self) -> bool:
        return self.gate.waiting >= self.settings.threads

    def murder_pending(self) -> None:
        """Look after what waits, as the main loop has it done in each of its turns."""
        super().murder_pending()
        while self._later and not self._busy():
            self.enqueue_req(self._later.popleft())
            if len(self._on_threads) >= self.settings.threads:
                break

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
        from serving.pipeline import Pipeline

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
                    if self._busy() and not conn.later and hung_up(conn.sock):
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

        pipeline = self.wsgi.extensions["glyph.pipeline"]
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
        keep = self.alive and not req.should_close()
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
