"""A process that imports modules once, and forks children that need them: decoding processes, and a model's proof.

`python -m serving.scoring.fork_server` is its program. It has one thread, so it may fork, which this process, with
threads of its own, must not. A child starts in milliseconds, with the modules that earlier ones have imported.

On macOS nothing that has loaded the system's frameworks may fork, so there each child is a process of its own, which
imports its modules itself.

Each child has a socket to this process, and ends when the socket is closed, which also happens when this process is
killed. `multiprocessing`'s fork server is none of this: each of its children imports the main module again.
"""

import contextlib
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import subprocess

MAX_MESSAGE = 1 << 16
"""Bytes of a request for a child: settings and paths."""


class ForkServer:
    """Starts the process with the first child; close it to end all of them."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._control: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """Return the process's id, None before the first child."""
        return self._processes[0].pid if self._processes else None

    def fork(self, target: str, preload: str, argument: Any = None) -> socket.socket:
        """Fork a child and return the socket to it.

        Args:
            target: `module:function` that the child calls with its socket and the argument.
            preload: a module that is imported before the fork, for later children too.
            argument: as JSON has it.

        Raises:
            OSError: the process cannot be started, or has died.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            child = {"target": target, "argument": argument}
            if sys.platform == "darwin":
                self._run(theirs, json.dumps(child))
            else:
                self._send(preload, [theirs.fileno()], **child)
        return ours

    def preload(self, module: str) -> None:
        """Import a module that children will need, while this process does something else.

        Raises:
            OSError: as `fork`.
        """
        if sys.platform != "darwin":
            self._send(module, [])

    def _send(self, preload: str, files: Sequence[int], **child: Any) -> None:
        if self._control is None:
            self._start()
        assert self._control is not None  # noqa: S101
        socket.send_fds(self._control, [json.dumps({"preload": preload} | child).encode()], files)

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._run(theirs)
        self._control = ours

    def _run(self, theirs: socket.socket, *words: str) -> None:
        """Run this module's program with a socket."""
        import subprocess  # not needed by the program of the process

        self._processes.append(
            subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno()), *words],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=_environment(),
            )
        )

    def close(self) -> None:
        """Wait until the children, whose sockets are closed, have ended; closed once more, do nothing."""
        if self._control is not None:
            self._control.close()
        for process in self._processes:
            process.wait()


def _environment() -> dict[str, str]:
    """Return the process's environment, with this package on its path."""
    from pathlib import Path

    import serving

    root = Path(serving.__file__).resolve().parent.parent
    path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}


def main(arguments: Sequence[str]) -> int:
    """Fork children until the parent closes the socket or exits, then wait for them; or be the child that is given."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal signals the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    number, *child = arguments
    if child:
        _be_child(json.loads(child[0]), int(number))
    with socket.socket(fileno=int(number)) as control:
        while True:
            try:
                message, files, _, _ = socket.recv_fds(control, MAX_MESSAGE, 1)
            except ConnectionError:
                break
            if not message:
                break
            request = json.loads(message)
            import_module(request["preload"])
            gc.freeze()  # imported modules live as long as the process
            if files and os.fork() == 0:
                control.close()
                _be_child(request, files[0])
            for file in files:
                os.close(file)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    return 0


def _be_child(request: dict[str, Any], file: int) -> NoReturn:
    """Call the target, and exit with its result and without the interpreter's finalization, which takes longer."""
    code = 1
    try:
        module, _, function = request["target"].partition(":")
        with socket.socket(fileno=file) as connection:
            code = getattr(import_module(module), function)(connection, request["argument"])
    except BaseException:  # noqa: BLE001
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # nothing is left to be written
