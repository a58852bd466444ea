"""Decode: from rows as they were read to `uint8[n, 28, 28]`, by the service's own functions.

`python -m serving.scoring.inputs.decoding` is processes that do it for another one: decoding holds Python's
lock, so threads would take turns. Each has a socket to its parent, and ends when that is closed,
which it is when the parent is killed, too.

They are not `concurrent.futures.ProcessPoolExecutor`: a whole run over 20,000 PNG files of MNIST takes 0.87 of its time
with `forkserver`, over a zip of them 0.88 (AMD EPYC, two cores; `python -m bench decoders`). Each of its processes
loads the program's main module once more, and one thread hands out and takes in all that goes to them and comes back.
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

import numpy as np

import serving
from bundle.images import decoding
from bundle.images.contract import BLACK_ON_WHITE, IMAGE_SIZE, PAPER, Polarity
from serving.predict.bodies.image_files import SCALED_WARNING, warnings_of
from serving.scoring.errors import DecoderError, InputError
from serving.scoring.inputs.listing import Reader
from serving.scoring.records import Decoded, Images

ROOT = Path(serving.__file__).resolve().parent.parent
BUFFER = 1 << 20

_BORDER = 4 * IMAGE_SIZE - 4
_TOP_AND_BOTTOM = np.r_[0 : IMAGE_SIZE // 4, -IMAGE_SIZE // 4 : 0]
"""Of an image's 32-bit words, those of its first and its last row."""
_PAPER = {polarity: np.uint32(paper * 0x01010101) for polarity, paper in PAPER.items()}
"""Four pixels of it."""
_ABOVE_ONE = np.uint64(0xFEFEFEFEFEFEFEFE)

Files = Sequence[bytes | str]


def decode_files(files: Files, polarity: Polarity) -> Decoded:
    """Decode image files as `/predict` does; a text in place of one, or what is no image, is an error."""
    pixels, refused = decoding.decode_all([b"" if isinstance(data, str) else data for data in files])
    errors = {at: error.detail for at, error in refused.items()}
    errors |= {at: data for at, data in enumerate(files) if isinstance(data, str)}
    return Decoded(pixels, errors, _warnings(pixels, errors, polarity, numbers=False))


def from_pixels(pixels: Images, errors: Mapping[int, str], polarity: Polarity) -> Decoded:
    """Take images that came as numbers; `errors` are those that did not."""
    return Decoded(pixels, errors, _warnings(pixels, errors, polarity, numbers=True))


def _warnings(
    pixels: Images, errors: Mapping[int, str], polarity: Polarity, *, numbers: bool
) -> dict[int, str]:
    """Return what `/predict` would warn of, by row.

    Whether a row can be warned of at all, its border and its largest pixel tell, which costs a tenth. An image
    whose first and last row are nothing but paper has at least half a border of it: it is not asked further.
    """
    flat = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
    suspect = (flat.view(np.uint32)[:, _TOP_AND_BOTTOM] != _PAPER[polarity]).any(axis=1)
    framed = pixels[suspect]
    sides = (framed[:, 0], framed[:, -1], framed[:, 1:-1, 0], framed[:, 1:-1, -1])
    border = sum(side.sum(axis=1, dtype=np.uint32) for side in sides)
    half = 127.5 * _BORDER
    suspect[suspect] = border < half if polarity == BLACK_ON_WHITE else border > half
    if numbers:  # of a file's pixels /predict does not say that they are scaled
        suspect |= (np.bitwise_or.reduce(flat.view(np.uint64), axis=1) & _ABOVE_ONE) == 0
    places = [at for at in np.flatnonzero(suspect).tolist() if at not in errors]
    if not places:
        return {}
    found = {}
    for at, sentences in zip(places, warnings_of(pixels[places], polarity), strict=True):
        said = [text for text in sentences if numbers or text not in SCALED_WARNING]
        if said:
            found[at] = "; ".join(said)
    return found


class DecoderPool:
    """Processes that read and decode; `decode` may be called by as many threads as there are."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._workers: list[_Worker] = []
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def started(self) -> bool:
        """Tell whether there are processes."""
        return self._process is not None

    def start(self) -> None:
        """Start the processes, unless they are: they load their modules while this one goes on."""
        if self._process is not None:
            return
        pairs = [socket.socketpair() for _ in range(self.count)]
        self._workers = [_Worker(ours) for ours, _ in pairs]
        # One program that loads its modules once and forks; not a fork of this process, which has threads.
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "serving.scoring.inputs.decoding",
                *(str(theirs.fileno()) for _, theirs in pairs),
            ],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno() for _, theirs in pairs],
            env=_environment(),
        )
        for (_, theirs), worker in zip(pairs, self._workers, strict=True):
            theirs.close()
            self._idle.put(worker)

    def decode(self, work: Reader | Files, polarity: Polarity) -> Decoded:
        """Have files read, if they are not, and decoded; the processes are started.

        Raises:
            DecoderError: the process is gone.
            InputError: the archive is gone that the files are in.
        """
        worker = self._idle.get()
        try:
            answer = worker.call((work, polarity))
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise DecoderError(
                "a decoding process is gone (did the system run out of memory?); the same command goes on "
                "where this one stopped, --workers takes fewer"
            ) from error
        finally:
            self._idle.put(worker)
        if isinstance(answer, Decoded):
            return answer
        raise InputError(f"the input cannot be read: {answer}; restore it and run again")

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.close()
        if self._process is not None:
            self._process.wait()


class _Worker:
    """A socket to one process."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._source = cast("IO[bytes]", connection.makefile("rb", buffering=BUFFER))

    def call(self, request: Any) -> Any:
        self._connection.sendall(pickle.dumps(request, pickle.HIGHEST_PROTOCOL))
        return pickle.load(self._source)  # noqa: S301  our own process wrote it

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._source.close()
        self._connection.close()


def _environment() -> dict[str, str]:
    """Return an environment in which the child finds this code wherever it was started."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}


def main(arguments: Sequence[str]) -> int:
    """Decode for the parent, in a process for each of its sockets, until it closes them or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    gc.freeze()  # what was imported lives as long as the process: no collection need look at it
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
    """Close the others' sockets: held here, they would stay open when those processes are killed."""
    for connection in connections:
        if connection is not own:
            connection.close()
    return own


def _serve(connection: socket.socket) -> int:
    with connection.makefile("rb", buffering=BUFFER) as source:
        while True:
            try:
                work, polarity = pickle.load(source)  # noqa: S301  the parent wrote it
                answer: Decoded | str
                try:
                    files = work if isinstance(work, list) else work.read()
                    answer = decode_files(files, polarity)
                except OSError as error:  # of an archive that is gone
                    answer = str(error)
                connection.sendall(pickle.dumps(answer, pickle.HIGHEST_PROTOCOL))
            except (EOFError, ConnectionError):
                return 0
            except MemoryError:  # no file's fault; the parent sees that this process is gone, and says so
                return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
