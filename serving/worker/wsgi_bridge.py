"""The way to the Flask application: on a thread, by Gunicorn's own WSGI server code.

Environment, response framing, HEAD, file wrapper, hooks and access log are those of Gunicorn's other
workers; only the socket is another: what is written goes through the event loop, which waits for slow
clients in the thread's place for as long as the answer fits into memory, and makes it wait beyond.
"""

import contextlib
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

from gunicorn.http import wsgi  # type: ignore[import-untyped]  # it ships no types
from gunicorn.http.errors import ConfigurationProblem  # type: ignore[import-untyped]

from serving.errors import NotFoundError, ProblemError
from serving.predict.pipeline import problem, unforeseen
from serving.worker.http11.response import Dates, render

FLUSH_BYTES = 64 << 10
"""What is collected before it is handed to the loop, so that a small answer is one packet."""


class ClientGoneError(OSError):
    """The connection was lost while an answer was being written."""


class SocketAdapter:
    """What Gunicorn takes for the socket of a connection. Used by one thread at a time."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send  # safe to call from any thread
        self._pieces: list[bytes] = []
        self._size = 0
        self._writable = threading.Event()
        self._writable.set()
        self._lost = False

    def sendall(self, data: bytes) -> None:
        """Take bytes of the answer; wait while the client takes none.

        Raises:
            ClientGoneError: nobody reads them any more.
        """
        self._pieces.append(bytes(data))
        self._size += len(data)
        if self._size >= FLUSH_BYTES:
            self.flush()

    send = sendall

    def flush(self) -> None:
        """Hand over what was collected.

        Raises:
            ClientGoneError: nobody reads it any more.
        """
        self._writable.wait()  # the connection's write timeout ends this
        if self._lost:
            raise ClientGoneError("the client has gone")
        if self._pieces:
            data, self._pieces, self._size = b"".join(self._pieces), [], 0
            self._writable.clear()
            self._send(data)

    def resume_writing(self) -> None:
        """Let the thread hand over more; called on the loop, when the client has taken enough."""
        self._writable.set()

    def connection_lost(self) -> None:
        """Tell the thread that the client has gone."""
        self._lost = True
        self._writable.set()

    def gettimeout(self) -> float:
        """Say that it does not block, which is what Gunicorn wants to know before it writes an error."""
        return 0.0


class _Response(wsgi.Response):  # type: ignore[misc]
    """Gunicorn's, without the system call that needs a real socket."""

    def can_sendfile(self) -> bool:
        return False


def _write_error(worker: Any, request: Any, adapter: SocketAdapter, error: Exception) -> None:
    """Answer what failed before there was an answer."""
    if isinstance(
        error, ConfigurationProblem
    ):  # the path is not below the SCRIPT_NAME that a proxy or we have set
        refusal: ProblemError = NotFoundError(
            f"there is nothing at {request.path[:100]}: it is not below SCRIPT_NAME",
            remedy="Let the proxy send the path under the prefix that it names, or name none.",
        )
    else:
        worker.log.error("%s %s failed", request.method, request.path, exc_info=error)
        refusal = unforeseen()
    worker.wsgi.extensions["glyph"].metrics.refusal(refusal.kind)
    adapter.sendall(render(problem(refusal), request.version, Dates().now(), keep_alive=False))
    with contextlib.suppress(ClientGoneError):
        adapter.flush()


def call(
    worker: Any,
    request: Any,
    body: Any,
    adapter: SocketAdapter,
    addresses: tuple[Any, Any],
    *,
    will_close: Callable[[], bool],
) -> bool:
    """Answer a request by the application, and tell whether the connection may be kept.

    Args:
        worker: Gunicorn's.
        request: Gunicorn's, as its parser returned it.
        body: a file of the whole body.
        adapter: where the answer goes.
        addresses: the client's and the service's.
        will_close: tells whether the connection is to be closed after the answer.
    """
    configuration, client, server = worker.cfg, *addresses
    request.body = body
    request._expected_100_continue = False  # noqa: SLF001  the loop has sent it already
    response, environ = None, {}
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
            worker.log.exception("Error handling request")  # what is on its way cannot become a 500
        else:
            _write_error(worker, request, adapter, error)
        return False
    finally:
        try:
            configuration.post_request(worker, request, environ, response)
        except Exception:
            worker.log.exception("Exception in post_request hook")
    return not response.should_close()
