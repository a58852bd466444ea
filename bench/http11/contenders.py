"""The servers that are tested, with their default settings."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from bench.comparison.environments import UnavailableError, install, python_of, version_of
from bench.load.processes import free_ports, start

PEERS = Path(__file__).parent / "peers"
ROOT = Path(__file__).parents[2]
START_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """One server."""

    title: str
    command: Callable[[int, Path], list[str]]
    """From the port and an empty directory."""
    version: Callable[[], str]
    lock: str | None = None
    """Its lock (`bench.comparison.environments`); None is this process's environment."""


def _glyph(_port: int, _directory: Path) -> list[str]:
    return [sys.executable, "-m", "gunicorn", "-c", "python:bench.http11.peers.glyph"]


def _gunicorn(port: int, _directory: Path) -> list[str]:
    command = [str(python_of("flask")), "-m", "gunicorn", "--bind", f"127.0.0.1:{port}"]
    return [*command, "--worker-class", "gthread", "--threads", "16", "wsgi_echo:app"]


def _uvicorn(port: int, _directory: Path) -> list[str]:
    return [str(python_of("fastapi")), "-m", "uvicorn", "--port", str(port), "asgi_echo:app"]


def _nginx(port: int, directory: Path) -> list[str]:
    text = (PEERS / "nginx.conf").read_text()
    modules = re.search(r"--modules-path=(\S+)", _nginx_says("-V"))
    values = {
        "PORT": str(port),
        "SCRIPT": str(PEERS / "nginx_echo.js"),
        "MODULES": modules[1] if modules else "modules",
    }
    for name, value in values.items():
        text = text.replace(name, value)
    (directory / "nginx.conf").write_text(text)
    return [_nginx_program(), "-p", str(directory), "-c", "nginx.conf", "-e", "stderr"]


def _nginx_program() -> str:
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise UnavailableError("nginx is not installed: apt-get install nginx libnginx-mod-http-js")
    return found


def _nginx_says(option: str) -> str:
    return subprocess.run([_nginx_program(), option], capture_output=True, text=True, check=True).stderr


CONTENDERS = (
    Contender(
        title="Glyph, inference worker", command=_glyph, version=lambda: f"on Gunicorn {version('gunicorn')}"
    ),
    Contender(
        title="Gunicorn, gthread",
        command=_gunicorn,
        version=lambda: version_of("flask", "gunicorn"),
        lock="flask",
    ),
    Contender(
        title="Uvicorn, httptools",
        command=_uvicorn,
        version=lambda: version_of("fastapi", "uvicorn"),
        lock="fastapi",
    ),
    Contender(title="nginx", command=_nginx, version=lambda: _nginx_says("-v").strip().rpartition("/")[2]),
)


@contextlib.contextmanager
def serving(contender: Contender) -> Iterator[tuple[str, int]]:
    """Run a server during the block, and yield its address.

    Raises:
        UnavailableError: the server cannot be installed or started.
    """
    if contender.lock:
        install(contender.lock)
    (port,) = free_ports(1)
    settings = {"PORT": port, "WORKER": "inference", "PROVIDER": "cpu", "WORKERS": 1, "MANAGEMENT_PORT": 0}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        environment = {
            "PYTHONPATH": str(PEERS if contender.lock else ROOT),
            "GLYPH_MODEL": name,  # an empty folder: no case predicts
            **{f"GLYPH_{key}": str(value) for key, value in settings.items()},
        }
        command = contender.command(port, directory)
        family = start(
            command, cpus=sorted(os.sched_getaffinity(0)), directory=directory, environment=environment
        )
        try:
            _await(port, family.process)
            yield "127.0.0.1", port
        except UnavailableError as error:
            raise UnavailableError(f"{error}: {family.last_lines()}") from error
        finally:
            family.end()


def _await(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until the server responds.

    Raises:
        UnavailableError: it does not respond in time, or the process exited.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), timeout=1) as connection,
        ):
            connection.settimeout(START_SECONDS)
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            if connection.recv(1):
                return
        time.sleep(0.05)  # between attempts
    raise UnavailableError("it does not respond")
