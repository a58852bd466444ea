"""Service processes: `python -m serving`, requested over HTTP and stopped by SIGTERM."""

import contextlib
import http.client
import itertools
import json
import os
import random
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.settings import unix_path

ROOT = Path(__file__).parents[2]
START_SECONDS = 120.0
ANSWER_SECONDS = 60.0
PNG = "image/png"
PORTS = range(20_000, 32_000)
MAX_RESERVED = 100
"""Ports that a process reserves at a time: the last ones, far more than it has services that start."""
_PORTS = itertools.cycle(random.SystemRandom().sample(PORTS, len(PORTS)))
_RESERVED: list[int] = []
"""Descriptors of the UDP sockets by which `free_port` tells other processes which ports it has returned."""


class ServiceError(Exception):
    """A service did not start or stop as expected."""


@dataclass(frozen=True)
class Answer:
    """A complete response."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        """Return the body, parsed."""
        return json.loads(self.body)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: Path, tls: ssl.SSLContext | None = None) -> None:
        super().__init__("localhost", timeout=ANSWER_SECONDS)
        self._path, self._tls = path, tls

    def connect(self) -> None:
        """Connect to the socket's path."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_SECONDS)
        self.sock.connect(str(self._path))
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host)


@dataclass(frozen=True)
class Service:
    """A running service: its process, its address, and the file of its output."""

    process: subprocess.Popen[bytes]
    port: int
    output: Path
    tls: ssl.SSLContext | None = None
    """Trusts the service's certificate, if it uses TLS."""
    path: Path | None = None
    """Path of its UNIX socket, if it listens on one instead of the port."""

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection to the service."""
        if self.path is not None:
            return UnixConnection(self.path, self.tls)
        if self.tls is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS, context=self.tls)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        chunked: bool = False,
        **headers: str,
    ) -> Answer:
        """Send a request on a new connection."""
        with contextlib.closing(self.connect()) as connection:
            fields = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body=body, headers=fields, encode_chunked=chunked)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def post(self, body: Any, content_type: str | None = PNG, *, chunked: bool = False) -> Answer:
        """Post a body to `/predict`."""
        headers = {} if content_type is None else {"Content_Type": content_type}
        if chunked:
            headers["Transfer_Encoding"] = "chunked"
        return self.ask("POST", "/predict", body, chunked=chunked, **headers)

    def log(self) -> str:
        """Return the service's output so far, of both streams."""
        return self.output.read_text()


def free_port() -> int:
    """Return a free TCP port, a different one on each call and in each process.

    Ports are below the ephemeral range (ip_local_port_range), where a client could take one before the service binds
    it. A UDP socket of the same number, which the kernel closes with the process, reserves the port among concurrent
    processes: a service binds its port seconds later, and some ports are given to nobody.
    """
    for port in _PORTS:
        with (
            contextlib.suppress(OSError),
            socket.socket() as probe,
            socket.socket(type=socket.SOCK_DGRAM) as reservation,
        ):
            probe.bind(("127.0.0.1", port))
            reservation.bind(("127.0.0.1", port))
            _RESERVED.append(reservation.detach())
            if len(_RESERVED) > MAX_RESERVED:
                os.close(_RESERVED.pop(0))
            return port
    raise ServiceError("no port is free")


def environment(**settings: object) -> dict[str, str]:
    """Return this process's environment with the given settings instead of its own.

    The management port is off unless given: services run concurrently and would share its default.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GLYPH_")}
    settings = {"management_port": 0} | settings
    return kept | {f"GLYPH_{name.upper()}": str(value) for name, value in settings.items()}


def serving_command(*arguments: str) -> list[str]:
    """Return the command line of `python -m serving`."""
    return [sys.executable, "-m", "serving", *arguments]


@contextlib.contextmanager
def running(
    directory: Path,
    *,
    until: str | None = "/livez",
    tls: ssl.SSLContext | None = None,
    code: int = 0,
    command: Sequence[str] | None = None,
    pass_fds: Sequence[int] = (),
    **settings: object,
) -> Iterator[Service]:
    """Start a service, wait for status 200 of `until`; at the end SIGTERM must stop it with exit code `code`."""
    port = free_port()
    values = {"provider": "cpu", "workers": 1, "port": port} | settings
    output = directory / f"service-{port}.log"
    with output.open("wb") as file:
        process = subprocess.Popen(
            command or serving_command(),
            env=environment(**values),
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            pass_fds=pass_fds,
        )
    unix = unix_path(str(values.get("host", "")))
    service = Service(process, int(str(values["port"])), output, tls, None if pass_fds else unix)
    try:
        if until is not None:
            await_ok(service, until)
        yield service
        process.terminate()
        if (ended := process.wait(START_SECONDS)) != code:
            raise ServiceError(f"the service exited with {ended}:\n{service.log()}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def await_ok(service: Service, path: str) -> Answer:
    """Repeat a request until its status is 200, and return the response."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if service.process.poll() is not None:
            raise ServiceError(f"the service exited during startup:\n{service.log()}")
        with contextlib.suppress(OSError):
            if (answer := service.ask("GET", path)).status == 200:
                return answer
        time.sleep(0.05)
    raise ServiceError(f"{path} never had status 200:\n{service.log()}")


def group_lives(group: int) -> bool:
    """Return whether a process of a group is alive (proc_pid_stat(5): state is field 3, pgrp field 5)."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == group and fields[0] not in "ZX":
                    return True
    return False


@dataclass(frozen=True)
class Part:
    """One part of a form."""

    data: bytes
    name: str = "image"
    filename: str | None = "digit.png"
    content_type: str | None = PNG


def form(*parts: Part, boundary: str = "frontier") -> tuple[bytes, str]:
    """Return a multipart/form-data body as RFC 7578 writes it, and its content type."""
    body = b""
    for part in parts:
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{part.name}"'.encode()
        if part.filename is not None:
            body += f'; filename="{part.filename}"'.encode()
        if part.content_type is not None:
            body += f"\r\nContent-Type: {part.content_type}".encode()
        body += b"\r\n\r\n" + part.data + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"
