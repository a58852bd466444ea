"""A process's dispatcher and its connections without sockets: bytes go in, and what is written is seen."""

import sys
from types import SimpleNamespace
from typing import Any

from gunicorn.config import Config

from bundle.repository import Bundle
from serving.settings import ServiceSettings
from serving.web.app import create_app
from serving.worker.connection import Connection
from serving.worker.connections import Connections
from serving.worker.dispatcher import Dispatcher


class Address(tuple[str, int]):
    """An address with a descriptor."""

    __slots__ = ()

    def fileno(self) -> int:
        """Return none."""
        return -1


class Transport:
    """A connection's other side, which takes what is written only when it is told to."""

    def __init__(self, address: str = "203.0.113.7") -> None:
        self.address = address
        self.written = b""
        self.waiting = 0
        self.protocol: Connection
        self.high = 1 << 30
        self.open = True

    def get_extra_info(self, _name: str) -> Any:
        """Return an address, which also passes for a socket."""
        return Address((self.address, 1))

    def set_write_buffer_limits(self, high: int) -> None:
        """Take the limit."""
        self.high = high

    def get_write_buffer_size(self) -> int:
        """Return what is not taken."""
        return self.waiting

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.written += data
        self.waiting += len(data)
        if self.waiting > self.high:
            self.protocol.pause_writing()

    def take(self) -> None:
        """Take all of it."""
        self.waiting = 0
        self.protocol.resume_writing()

    def can_write_eof(self) -> bool:
        """Say that it can."""
        return True

    def write_eof(self) -> None:
        """Do nothing."""

    def pause_reading(self) -> None:
        """Do nothing."""

    def resume_reading(self) -> None:
        """Do nothing."""

    def is_closing(self) -> bool:
        """Return whether it has ended."""
        return not self.open

    def close(self) -> None:
        """End."""
        if self.open:
            self.open = False
            self.protocol.connection_lost(None)

    abort = close


class Loop:
    """As much of an event loop as connections ask for."""

    def call_soon(self, *_: Any) -> None:
        """Do nothing: no request of these tests is computed."""

    call_soon_threadsafe = call_at = call_soon

    def time(self) -> float:
        """Return a time."""
        return 0.0

    def is_closed(self) -> bool:
        """Say no."""
        return False


def a_dispatcher(bundle: Bundle, **settings: Any) -> Dispatcher:
    """Return the dispatcher of a process; nothing is computed, and no thread runs."""
    worker = SimpleNamespace(
        wsgi=create_app(ServiceSettings(model=bundle.path.parent, provider="cpu", **settings)),
        cfg=Config(),
        log=SimpleNamespace(access_log_enabled=False, debug=print, access=lambda *_: None),
        nr=0,
        max_requests=sys.maxsize,
    )
    loop: Any = Loop()
    made = Dispatcher(worker, loop)
    future = SimpleNamespace(add_done_callback=lambda _: None)
    made.threads.submit = lambda *_, **__: future  # type: ignore[assignment,method-assign]
    return made


def connect(dispatcher: Dispatcher, address: str = "203.0.113.7") -> tuple[Connection, Transport]:
    """Return a connection and its other side."""
    connection, transport = Connections(dispatcher).connect(), Transport(address)
    transport.protocol = connection
    connection.connection_made(transport)
    return connection, transport
