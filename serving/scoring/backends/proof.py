"""Proves the model in a process that the fork server forks: it can be timed and killed, and starts with the run.

A graph that computes for hours would block this process, signals included; see `serving/model/prove.py`. The proof is
beside the listing of the input, and nothing is written before its result.
"""

import os
import select
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from serving.model.proof_table import load_seconds
from serving.model.prove import ProofResult, attempt, bounded, child_result, prepare_child, took_longer
from serving.scoring.fork_server import ForkServer

if TYPE_CHECKING:
    from bundle.repository import Bundle
    from serving.model.engine import Provider
    from serving.scoring.settings import ScoreSettings

NUMPY = "numpy"
"""What the proof and the decoding processes both import."""


class Proof:
    """The proof of a version, under way."""

    def __init__(
        self, bundle: "Bundle", provider: "Provider", settings: "ScoreSettings", server: ForkServer
    ) -> None:
        """Start the proof.

        Raises:
            OSError: the process cannot be started.
        """
        self.bundle = bundle
        self.provider: Provider = provider
        self._seconds = load_seconds(0)
        self._deadline = time.monotonic() + self._seconds
        task = {
            "path": str(bundle.path.absolute()),
            "provider": provider,
            "device_id": settings.device_id,
            "arithmetic": settings.arithmetic,
            "trusted": settings.trusted_keys and str(settings.trusted_keys),
        }
        self._connection = server.fork(f"{__name__}:supervise", NUMPY, task)

    def result(self) -> ProofResult:
        """Wait for the result; it is `unknown` if the process was told to end."""
        answer = b""
        try:
            while True:
                self._connection.settimeout(max(0.001, self._deadline - time.monotonic()))
                if not (data := self._connection.recv(1 << 16)):
                    break
                answer += data
        except TimeoutError:
            return took_longer(self._seconds)
        except ConnectionError:
            pass
        if not answer:
            return "unknown", ""
        code, output = orjson.loads(answer)
        return child_result(code, output.encode())

    def close(self) -> None:
        """Kill the process if it still runs."""
        self._connection.close()


def supervise(connection: socket.socket, task: dict[str, Any]) -> int:
    """Prove in a child of this process, which tells how it ended, and kills it if the socket is closed before."""
    parent = os.getpid()
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        _prove(writing, parent, task)
    os.close(writing)
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    poll.register(connection, 0)  # a closed socket is told in any case
    output = b""
    while True:
        ready = dict(poll.poll())
        if connection.fileno() in ready:
            os.kill(child, signal.SIGKILL)
            break
        if not (data := os.read(reading, 1 << 16)):
            break
        output += data
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with suppress(ConnectionError):  # nobody waits any more
        connection.sendall(orjson.dumps([code, output.decode()]))
    return 0


def _prove(writing: int, parent: int, task: dict[str, Any]) -> None:
    """Prove the version, write the result as a line, and exit."""
    code = 1
    try:
        os.setpgid(0, 0)  # Ctrl-C reaches only the scorer, which then ends this process
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        prepare_child(parent)
        provider, device_id, arithmetic = task["provider"], task["device_id"], task["arithmetic"]

        from serving.model.engine import choose_precision, open_engine

        def as_scored(bundle: "Bundle") -> Any:
            precision = choose_precision(arithmetic, bundle, provider)
            return bounded(provider, lambda: open_engine(bundle, provider, device_id, precision))

        trusted = task["trusted"] and Path(task["trusted"])
        result = attempt(Path(task["path"]), provider, device_id, trusted, as_scored)
        os.write(writing, orjson.dumps(result) + b"\n")
        code = 0
    finally:
        os._exit(code)
