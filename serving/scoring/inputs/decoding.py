"""Decodes image files to `uint8[n, 28, 28]` with the service's decoder, in a pool of processes.

`python -m serving.scoring.inputs.decoding` is the program of those processes: decoding holds the global interpreter
lock, so threads would not run in parallel. Each process has a socket to its parent and exits when the socket is
closed, which also happens when the parent is killed.

`concurrent.futures.ProcessPoolExecutor` is slower: with this pool a run over 20,000 PNG files of MNIST takes 0.87 of
its time with `forkserver`, over a zip of them 0.88 (AMD EPYC, two cores; `python -m bench decoders`). Each of the
executor's processes imports the main module again, and one thread handles the messages of all processes.
"""

import contextlib
import gc
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import serving
from bundle.images import decoding
from bundle.images.contract import Polarity, Resize
from imagesets.errors import DataError
from imagesets.source import Reader
from serving.predict.bodies.image_warnings import warned
from serving.scoring.errors import DecoderError
from serving.scoring.records import Decoded, Images

ROOT = Path(serving.__file__).resolve().parent.parent
BUFFER = 1 << 20

Files = Sequence[bytes | str]


def decode_files(files: Files, polarity: Polarity, resize: Resize | None = None) -> Decoded:
    """Decode image files as `/predict` does; a string instead of a file, or an invalid file, is an error."""
    read = [b"" if isinstance(data, str) else data for data in files]
    pixels, refused = decoding.decode_all(read, resize, polarity)
    errors = {at: error.detail for at, error in refused.items()}
    errors |= {at: data for at, data in enumerate(files) if isinstance(data, str)}
    return Decoded(pixels, errors, _warnings(pixels, errors, polarity, files))


def from_pixels(pixels: Images, errors: Mapping[int, str], polarity: Polarity) -> Decoded:
    """Return images that are arrays already, with the warnings of `/predict`; `errors` are the invalid rows."""
    return Decoded(pixels, errors, _warnings(pixels, errors, polarity, None))


def _warnings(
    pixels: Images, errors: Mapping[int, str], polarity: Polarity, files: Files | None
) -> dict[int, str]:
    """Return the warnings of `/predict`, by row."""
    return {at: "; ".join(said) for at, said in warned(pixels, polarity, files, errors).items()}


class DecoderPool:
    """A pool of decoding processes; up to `count` threads may call `decode` at once."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._workers: list[_Worker] = []
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def started(self) -> bool:
        """Return whether the processes have been started."""
        return bool(self._processes)

    def start(self) -> None:
        """Start the processes once; they import their modules in the background."""
        if self.started:
            return
        pairs = [socket.socketpair() for _ in range(self.count)]
        self._workers = [_Worker(ours) for ours, _ in pairs]
        descriptors = [theirs.fileno() for _, theirs in pairs]
        # One process imports the modules and forks the others; this process has threads, so it must not fork. On macOS
        # nothing that has loaded the system's frameworks may, so there each process imports them.
        groups = [[one] for one in descriptors] if sys.platform == "darwin" else [descriptors]
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "serving.scoring.inputs.decoding", *map(str, group)],
                stdin=subprocess.DEVNULL,
                pass_fds=group,
                env=_environment(),
            )
            for group in groups
        ]
        for (_, theirs), worker in zip(pairs, self._workers, strict=True):
            theirs.close()
            self._idle.put(worker)

    def decode(self, work: Reader | Files, polarity: Polarity, resize: Resize | None = None) -> Decoded:
        """Read (if `work` is a Reader) and decode files in a process of the pool, which must be started.

        Raises:
            DecoderError: the process died.
            DataError: the archive of the files cannot be read any more.
        """
        worker = self._idle.get()
        try:
            answer = worker.call((work, polarity, resize))
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise DecoderError(
                "a decoding process died (out of memory?); the same command resumes the run, "
                "with fewer --workers if memory is short"
            ) from error
        finally:
            self._idle.put(worker)
        if isinstance(answer, Decoded):
            return answer
        raise DataError(f"the input cannot be read: {answer}; restore it and run again")

    def close(self) -> None:
        """Stop the processes."""
        for worker in self._workers:
            worker.close()
        for process in self._processes:
            process.wait()


class _Worker:
    """The socket to a decoding process."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._source = cast("IO[bytes]", connection.makefile("rb", buffering=BUFFER))

    def call(self, request: Any) -> Any:
        self._connection.sendall(pickle.dumps(request, pickle.HIGHEST_PROTOCOL))
        return pickle.load(self._source)  # noqa: S301  written by this program's own process

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._source.close()
        self._connection.close()


def _environment() -> dict[str, str]:
    """Return the child's environment, with this package on its path."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}


def main(arguments: Sequence[str]) -> int:
    """Serve each socket in a process of its own until the parent closes it or exits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal signals the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    gc.freeze()  # imported modules live as long as the process
    connections = [socket.socket(fileno=int(number)) for number in arguments]
    children = []
    for connection in connections[1:]:
        if (child := os.fork()) == 0:
            return _serve(_close_others(connection, connections))
        children.append(child)
    code = _serve(_close_others(connections[0], connections))
    for child in children:
        os.waitpid(child, 0)
    return code


def _close_others(own: socket.socket, connections: Sequence[socket.socket]) -> socket.socket:
    """Close the other processes' sockets: inherited copies would keep them open when those processes die."""
    for connection in connections:
        if connection is not own:
            connection.close()
    return own


def _serve(connection: socket.socket) -> int:
    with connection.makefile("rb", buffering=BUFFER) as source:
        while True:
            try:
                work, polarity, resize = pickle.load(source)  # noqa: S301  the parent wrote it
                answer: Decoded | str
                try:
                    files = work if isinstance(work, list) else work.read()
                    answer = decode_files(files, polarity, resize)
                except OSError as error:  # the archive was removed
                    answer = str(error)
                connection.sendall(pickle.dumps(answer, pickle.HIGHEST_PROTOCOL))
            except (EOFError, ConnectionError):
                return 0
            except MemoryError:  # the parent detects the exit and reports it
                return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
