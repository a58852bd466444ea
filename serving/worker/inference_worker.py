"""Gunicorn's worker class: a process that serves from one event loop.

The arbiter imports this module, so it must not import ONNX Runtime: a worker that is forked after that
can hang when it ends (seen with 1.31), and Gunicorn waits for it. What does import it comes in `run`.
"""

import asyncio
import functools
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import uvloop
from gunicorn import sock as gunicorn_sock  # type: ignore[import-untyped]  # it ships no types
from gunicorn.workers.base import Worker  # type: ignore[import-untyped]

from serving.system.descriptors import EXHAUSTED
from serving.worker.lifecycle import LifecycleMixin

if TYPE_CHECKING:
    from serving.worker.connection import Connection
    from serving.worker.connections import Connections
    from serving.worker.dispatcher import Dispatcher

TICK_SECONDS = 0.25
"""How often timeouts are looked at and the arbiter is told that the process is alive."""


class InferenceWorker(LifecycleMixin, Worker):  # type: ignore[misc]
    """Serves HTTP/1.1 on uvloop; see the package's own words."""

    alive: bool
    loop: asyncio.AbstractEventLoop
    dispatcher: "Dispatcher"
    connections: "Connections"

    def run(self) -> None:
        """Serve until a signal, `max_requests` or the arbiter's end says otherwise."""
        if not self.alive:
            return  # SIGTERM came while the model was being loaded
        from serving.worker.connections import Connections
        from serving.worker.dispatcher import Dispatcher

        self.loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.dispatcher = Dispatcher(self, self.loop)
        self.connections = Connections(self.dispatcher)
        self._ssl = gunicorn_sock.ssl_context(self.cfg) if self.cfg.is_ssl else None
        self._listeners: list[socket.socket] = [listener.sock for listener in self.sockets]
        self._accepting = False
        self._exhausted = False  # the last try to accept found no descriptor
        self._connecting: set[asyncio.Task[Any]] = set()
        self.loop.call_soon(self._begin)
        try:
            self.loop.run_forever()
        finally:
            self._stop_accepting()
            self.dispatcher.close()
            for listener in self.sockets:
                listener.close()

    def stop(self) -> None:
        """End gracefully: answer what has been asked, then leave."""
        if not self.dispatcher.alive:
            return
        self.alive = self.dispatcher.alive = False
        self.wsgi.extensions["glyph"].drain()
        self._accept_backlog()
        self._stop_accepting()
        self.connections.drain()
        self.loop.call_later(self.cfg.graceful_timeout, self.loop.stop)
        self.loop.call_soon(self._exit_if_drained)

    # Signals

    def _begin(self) -> None:
        """Take the signals over, and begin; what came before the loop ran has set `alive`."""
        self._handle_signals()
        if not self.alive:
            self.stop()
        self._tick()  # only now: a tick leaves when there is nothing to do, and `stop` takes the backlog

    def _handle_signals(self) -> None:
        """Let the loop handle those that end or change what it does; SIGABRT must work when the loop is stuck.

        Only from inside the running loop: uvloop loses a signal that comes between this and its start.
        """
        self.loop.add_signal_handler(signal.SIGTERM, self.stop)
        self.loop.add_signal_handler(signal.SIGINT, self._quit)
        self.loop.add_signal_handler(signal.SIGQUIT, self._quit)
        self.loop.add_signal_handler(signal.SIGUSR1, self.log.reopen_files)
        self.loop.add_signal_handler(signal.SIGWINCH, lambda: self.log.debug("worker: SIGWINCH ignored."))

    def _quit(self) -> None:
        """End at once."""
        self.alive = self.dispatcher.alive = False
        self.cfg.worker_int(self)
        self.loop.stop()

    # Time

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

    def _exit_if_drained(self) -> None:
        if not self.connections.open and not self._connecting:
            self.loop.stop()

    # Accepting

    def _start_accepting(self) -> None:
        """Accept one connection for each turn of the loop: a process that is busy takes fewer than an idle one."""
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
        """Accept a connection, in the place of an idle one if need be, and tell whether there was one."""
        oldest = None if self.connections.has_room else self.connections.longest_idle()
        if oldest is None and not self.connections.has_room:
            self._stop_accepting()  # the next tick tries again
            return False
        try:
            client, _ = listener.accept()
        except OSError as error:
            if error.errno in EXHAUSTED:
                self._stop_accepting()  # the next tick tries again
                if not self._exhausted:  # once, not at each try
                    self.log.error(  # noqa: TRY400  the sentence says all
                        "no connection can be accepted (%s): new ones wait until others are closed; a lower "
                        "GLYPH_CONNECTIONS or a higher limit of descriptors (ulimit -n) prevents this",
                        error.strerror,
                    )
                self._exhausted = True
            return False
        self._exhausted = False
        if oldest is not None:
            self.connections.evict(oldest)
        client.setblocking(False)
        if client.family in (socket.AF_INET, socket.AF_INET6):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        options: dict[str, Any] = {}
        if self._ssl is not None:
            options = {
                "ssl": self._ssl,
                "ssl_handshake_timeout": self.dispatcher.settings.header_timeout_seconds,
            }
        connection = self.connections.connect()
        made = self.loop.connect_accepted_socket(lambda: connection, client, **options)
        task = self.loop.create_task(made)
        self._connecting.add(task)
        task.add_done_callback(functools.partial(self._connected, connection))
        return True

    def _connected(self, connection: "Connection", task: asyncio.Task[Any]) -> None:
        self._connecting.discard(task)
        if not connection.established:
            self.connections.connecting -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            self.log.debug(
                "a connection failed before its first request: %s", error
            )  # a TLS handshake, mostly

    def _accept_backlog(self) -> None:
        """Accept what has connected already: whoever stops to listen would reset it."""
        for listener in self._listeners:
            listener.setblocking(False)
            while self.connections.has_room and self._accept(listener):
                pass
