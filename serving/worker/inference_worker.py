"""The inference worker: a Gunicorn worker class that serves HTTP/1.1 from one event loop (uvloop).

The arbiter imports this module, so it must not import ONNX Runtime: a worker that is forked after that import can hang
when it ends (seen with 1.31), and Gunicorn waits for it. `run` imports the modules that need it.
"""

import asyncio
import functools
import os
import signal
import socket
import ssl
from typing import TYPE_CHECKING, Any

import uvloop
from gunicorn import sock as gunicorn_sock
from gunicorn.workers.base import Worker

from serving.system.descriptors import EXHAUSTED
from serving.worker.lifecycle import LifecycleMixin

if TYPE_CHECKING:
    from serving.worker.connections import AnyConnection, Connections
    from serving.worker.dispatcher import Dispatcher

TICK_SECONDS = 0.25
"""Interval of the heartbeat to the arbiter, and of the check for timeouts."""


class InferenceWorker(LifecycleMixin, Worker):
    """Accepts connections on the event loop, which serves them; `serving.worker` says by which modules."""

    loop: asyncio.AbstractEventLoop
    dispatcher: "Dispatcher"
    connections: "Connections"

    def run(self) -> None:
        """Serve until a signal, `max_requests`, or the end of the arbiter."""
        if not self.alive:
            return  # SIGTERM came while the model was being loaded
        from serving.worker.connection import Connection
        from serving.worker.connections import Connections
        from serving.worker.dispatcher import Dispatcher

        self.loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.dispatcher = Dispatcher(self, self.loop)
        self.connections = Connections(self.dispatcher)
        ssl_context = gunicorn_sock.ssl_context(self.cfg) if self.cfg.is_ssl else None
        self._listeners: list[socket.socket] = [listener.sock for listener in self.sockets]
        self._kinds: dict[socket.socket, tuple[Any, ssl.SSLContext | None]] = dict.fromkeys(
            self._listeners, (Connection, ssl_context)
        )
        self._serve_grpc()
        self._accepting = False
        self._exhausted = False  # the last accept failed for lack of descriptors or memory
        self._connecting: set[asyncio.Task[Any]] = set()
        self.loop.call_soon(self._begin)
        try:
            self.loop.run_forever()
        finally:
            self._stop_accepting()
            self.dispatcher.close()
            for listener in self.sockets:
                listener.close()

    def _serve_grpc(self) -> None:
        """Let the listeners of `GLYPH_GRPC_PORT` speak gRPC; nothing of it is imported if there is no such port."""
        settings = self.dispatcher.settings
        if settings.grpc_port is not None:
            from serving.worker.rpc.connection import RpcConnection
            from serving.worker.rpc.tls import server_context

            context = server_context(settings)
            for listener in self._listeners:
                if listener.family != socket.AF_UNIX and listener.getsockname()[1] == settings.grpc_port:
                    self._kinds[listener] = RpcConnection, context

    def _begin(self) -> None:
        """Handle signals on the loop, and start to accept; a signal before the loop ran has cleared `alive`."""
        self._handle_signals()
        if not self.alive:
            self.stop()
        self._tick()  # after `stop`, which accepts the backlog: a tick ends a drained process

    def _handle_signals(self) -> None:
        """Let the loop handle signals, except SIGABRT, which must work when the loop is stuck.

        This runs inside the loop, because uvloop loses a signal that comes between here and its start.
        """
        self.loop.add_signal_handler(signal.SIGTERM, self.stop)
        self.loop.add_signal_handler(signal.SIGINT, self._quit)
        self.loop.add_signal_handler(signal.SIGQUIT, self._quit)
        self.loop.add_signal_handler(signal.SIGUSR1, self.log.reopen_files)
        self.loop.add_signal_handler(signal.SIGWINCH, lambda: self.log.debug("worker: SIGWINCH ignored."))

    # Accepting

    def _start_accepting(self) -> None:
        """Accept one connection in each turn of the loop, so that a busy process accepts fewer than an idle one."""
        if not self._accepting:
            self._accepting = True
            for listener in self._listeners:
                listener.setblocking(False)
                self.loop.add_reader(listener.fileno(), self._accept, listener)

    def _stop_accepting(self) -> None:
        if self._accepting:
            self._accepting = False
            for listener in self._listeners:
                self.loop.remove_reader(listener.fileno())

    def _accept(self, listener: socket.socket) -> bool:
        """Accept a connection, evicting an idle one at the limit; return whether one was accepted."""
        oldest = None if self.connections.has_room else self.connections.longest_idle()
        if oldest is None and not self.connections.has_room:
            self._stop_accepting()  # the next tick tries again
            return False
        try:
            client, _ = listener.accept()
        except OSError as error:
            if error.errno in EXHAUSTED:
                self._stop_accepting()  # the next tick tries again
                if not self._exhausted:  # once, and not every tick
                    self.log.error(  # noqa: TRY400  the message says all
                        "no connection can be accepted (%s): new ones wait until others are closed; a lower "
                        "GLYPH_CONNECTIONS or a higher limit of descriptors (ulimit -n) prevents this",
                        error.strerror,
                    )
                self._exhausted = True
            return False
        self._exhausted = False
        if oldest is not None:
            self.connections.evict(oldest)
        self._establish(client, *self._kinds[listener])
        return True

    def _establish(self, client: socket.socket, kind: Any, ssl_context: ssl.SSLContext | None) -> None:
        """Give an accepted socket to the loop, which begins with the TLS handshake if there is one."""
        client.setblocking(False)
        if client.family in (socket.AF_INET, socket.AF_INET6):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        options: dict[str, Any] = {}
        if ssl_context is not None:
            options = {
                "ssl": ssl_context,
                "ssl_handshake_timeout": self.dispatcher.settings.header_timeout_seconds,
            }
        connection = self.connections.connect(kind)
        made = self.loop.connect_accepted_socket(lambda: connection, client, **options)
        task = self.loop.create_task(made)
        self._connecting.add(task)
        task.add_done_callback(functools.partial(self._established, connection))

    def _established(self, connection: "AnyConnection", task: asyncio.Task[Any]) -> None:
        self._connecting.discard(task)
        if not connection.established:
            self.connections.connecting -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            # Most often in the TLS handshake.
            self.log.debug("a connection failed before its first request: %s", error)

    # Heartbeat and timeouts

    def _tick(self) -> None:
        self.notify()
        self.connections.tick()
        if self.alive:
            if self.ppid != os.getppid():
                self.log.info("Parent changed, shutting down: %s", self)
                self.stop()
            else:
                self._start_accepting()
        else:
            self._exit_if_drained()
        self.loop.call_later(TICK_SECONDS, self._tick)

    # Shutdown

    def stop(self) -> None:
        """Drain: accept what the backlog holds, answer the requests that were sent, then end."""
        if not self.booted:  # its GPU is lost while it waits for a model: there is no loop yet
            super().stop()
            return
        if not self.dispatcher.alive:
            return
        self.alive = self.dispatcher.alive = False
        self.wsgi.extensions["glyph"].drain()
        self._accept_backlog()
        self._stop_accepting()
        self.connections.drain()
        self.loop.call_later(self.cfg.graceful_timeout, self.loop.stop)
        self.loop.call_soon(self._exit_if_drained)

    def _accept_backlog(self) -> None:
        """Accept the connections of the backlog, which the kernel would reset when the listener closes."""
        for listener in self._listeners:
            listener.setblocking(False)
            while self.connections.has_room and self._accept(listener):
                pass

    def _exit_if_drained(self) -> None:
        if not self.connections.open and not self._connecting:
            self.loop.stop()

    def _quit(self) -> None:
        """End at once."""
        self.alive = self.dispatcher.alive = False
        self.cfg.worker_int(self)
        self.loop.stop()
