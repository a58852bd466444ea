"""Calls the Flask application on a thread, with Gunicorn's own WSGI server code.

Environment, framing of the response, HEAD, file wrapper, hooks and access log are thereby those of Gunicorn's other
workers. Only the socket differs: a `SocketAdapter` hands what is written to the event loop. The loop buffers it, so
that no thread waits for a slow client, and makes the thread wait once the client's output buffer is full.
"""

import contextlib
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

from gunicorn.http import wsgi
from gunicorn.http.errors import ConfigurationProblem

from serving.errors import NotFoundError, ProblemError
from serving.predict.exchange import Response
from serving.predict.pipeline import internal_error, problem
from serving.worker.http11.response import Dates, render, status_line

FLUSH_BYTES = 64 << 10
"""Bytes that are collected before they are handed to the loop, so that a small response is one packet."""


class ClientGoneError(OSError):
    """The connection was lost while a response was being written."""


class SocketAdapter:
    """What Gunicorn takes for a connection's socket. One thread uses it at a time."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        """Create an adapter that is writable.

        Args:
            write: writes to the connection; safe to call from any thread.
        """
        self._write = write
        self._pieces: list[bytes] = []
        self._size = 0
        self._writable = threading.Event()
        self._writable.set()
        self._lost = False

    def sendall(self, data: bytes) -> None:
        """Collect bytes of the response; beyond `FLUSH_BYTES` write them.

        Raises:
            ClientGoneError: the connection was lost.
        """
        self._pieces.append(bytes(data))
        self._size += len(data)
        if self._size >= FLUSH_BYTES:
            self.flush()

    send = sendall

    def flush(self) -> None:
        """Write what was collected, after the client has read enough of what was written before.

        Raises:
            ClientGoneError: the connection was lost.
        """
        self._writable.wait()  # the connection's write timeout ends this
        if self._lost:
            raise ClientGoneError("the client has gone")
        if self._pieces:
            data, self._pieces, self._size = b"".join(self._pieces), [], 0
            self._writable.clear()
            self._write(data)

    def resume_writing(self) -> None:
        """Let the thread write more; called on the loop."""
        self._writable.set()

    def connection_lost(self) -> None:
        """Let the thread's next `flush` raise `ClientGoneError`; called on the loop."""
        self._lost = True
        self._writable.set()

    def gettimeout(self) -> float:
        """Return 0, for a socket that does not block, which Gunicorn asks before it writes an error."""
        return 0.0


class _Response(wsgi.Response):
    """Gunicorn's response without sendfile(2), which needs a real socket."""

    def can_sendfile(self) -> bool:
        return False


def call(
    worker: Any,
    request: Any,
    body: Any,
    adapter: SocketAdapter,
    addresses: tuple[Any, Any],
    *,
    will_close: Callable[[], bool],
) -> bool:
    """Call the application and write its response; return whether the connection may be kept open.

    Args:
        worker: Gunicorn's worker.
        request: Gunicorn's request, as its parser returned it.
        body: a file of the whole body.
        adapter: where the response goes.
        addresses: the client's and the service's.
        will_close: returns whether the connection is closed after the response.
    """
    configuration, client, server = worker.cfg, *addresses
    request.body = body
    request._expected_100_continue = False  # noqa: SLF001  the connection has sent it already
    response: wsgi.Response | None = None
    environ: dict[str, Any] = {}
    started = datetime.now()  # noqa: DTZ005  Gunicorn's access log takes a difference
    try:
        configuration.pre_request(worker, request)
        response, environ = wsgi.create(
            request, adapter, client, server, configuration, response_class=_Response
        )
        environ["wsgi.multithread"] = True
        if will_close():
            response.force_close()
        pieces = worker.wsgi(environ, response.start_response)
        try:
            for piece in pieces:
                response.write(piece)
            response.close()
            adapter.flush()
        finally:
            worker.log.access(response, request, environ, datetime.now() - started)  # noqa: DTZ005
            if hasattr(pieces, "close"):
                pieces.close()
    except ClientGoneError:
        return False
    except Exception as error:
        if response is not None and response.headers_sent:
            worker.log.exception("Error handling request")  # the status is sent, and cannot become 500
        else:
            _write_error(worker, request, adapter, error)
        return False
    finally:
        _run_post_request(worker, request, environ, response)
    return not response.should_close()


def _write_error(worker: Any, request: Any, adapter: SocketAdapter, error: Exception) -> None:
    """Write an error response for what failed before the application had begun with one."""
    # The path is not below the SCRIPT_NAME that a proxy or the environment has set.
    if isinstance(error, ConfigurationProblem):
        refusal: ProblemError = NotFoundError(
            f"there is nothing at {request.path[:100]}: it is not below SCRIPT_NAME",
            remedy="Let the proxy send the path under the prefix that it names, or name none.",
        )
    else:
        worker.log.error("%s %s failed", request.method, request.path, exc_info=error)
        refusal = internal_error()
    worker.wsgi.extensions["glyph"].metrics.refusal(refusal.kind)
    adapter.sendall(render(problem(refusal), request.version, Dates().now(), keep_alive=False))
    with contextlib.suppress(ClientGoneError):
        adapter.flush()


def log_response(
    worker: Any, request: Any, addresses: tuple[Any, Any], response: Response, elapsed: timedelta
) -> None:
    """Do for a response that no application wrote what Gunicorn's workers do: access log and `post_request`.

    Args:
        worker: Gunicorn's worker.
        request: Gunicorn's request, as its parser returned it.
        addresses: the client's and the service's.
        response: what was sent.
        elapsed: time since the request was whole.
    """
    request._expected_100_continue = False  # noqa: SLF001  the connection has sent it already
    try:
        _, environ = wsgi.create(request, SocketAdapter(lambda _: None), *addresses, worker.cfg)
    except ConfigurationProblem:  # the path is not below SCRIPT_NAME
        return
    sent = SimpleNamespace(
        status=status_line(response.status),
        status_code=int(response.status),
        headers=[*response.headers.items(), ("Content-Type", response.media_type)],
        sent=len(response.body),
        response_length=len(response.body),
    )
    worker.log.access(sent, request, environ, elapsed)
    _run_post_request(worker, request, environ, sent)


def _run_post_request(worker: Any, request: Any, environ: Any, response: Any) -> None:
    try:
        worker.cfg.post_request(worker, request, environ, response)
    except Exception:
        worker.log.exception("Exception in post_request hook")
