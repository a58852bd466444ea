"""A connection of Gunicorn's thread worker with a time for each phase, and a body that was read before.

Like the worker, this module is imported by the arbiter and must not import ONNX Runtime.
"""

import contextlib
import errno
import io
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

from gunicorn import util  # type: ignore[import-untyped]  # it ships no types
from gunicorn.http import get_parser  # type: ignore[import-untyped]
from gunicorn.http.body import Body  # type: ignore[import-untyped]
from gunicorn.http.unreader import SocketUnreader  # type: ignore[import-untyped]
from gunicorn.sock import ssl_wrap_socket  # type: ignore[import-untyped]
from gunicorn.workers.gthread import TConn  # type: ignore[import-untyped]

from serving.errors import ProblemError
from serving.overload import late_head

if TYPE_CHECKING:
    from serving.worker import ServingThreadWorker

SILENT_SECONDS = 0.05
LINGER_SECONDS = 2.0


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

    def unread(self) -> bool:
        """Tell whether bytes of a later request have been read with those of the last."""
        return self.parser is not None and bool(self.parser.unreader.buf.getvalue())

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
