"""Decodes image files to `uint8[n, 28, 28]` with the service's decoder, in a pool of processes.

Decoding holds the global interpreter lock, so threads would not run in parallel. Each process has a socket to its
parent; memory that both share, for the pixels, took no less CPU time.

`concurrent.futures.ProcessPoolExecutor` is slower (`python -m bench decoders`): each of its processes imports the main
module again, and one thread handles the messages of all processes.
"""

import contextlib
import pickle
import queue
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, cast

from bundle.images import decoding
from bundle.images.contract import Polarity, Resize
from imagesets.errors import DataError
from imagesets.formats.files.listing import stat_fields
from imagesets.source import Reader
from serving.predict.bodies.image_warnings import warned
from serving.scoring.errors import DecoderError
from serving.scoring.fork_server import ForkServer
from serving.scoring.records import Decoded, Images

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

    def __init__(self, count: int, server: ForkServer) -> None:
        self.count = count
        self._server = server
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._workers: list[_Worker] = []
        self._listing = ThreadPoolExecutor(max(1, count - 1), thread_name_prefix="list")
        self._ready: Future[bytes] | None = None

    @property
    def started(self) -> bool:
        """Return whether the processes have been started."""
        return bool(self._workers)

    def start(self) -> None:
        """Start the processes once; they import their modules in the background.

        Raises:
            DecoderError: there can be no more processes.
        """
        for _ in range(0 if self._workers else self.count):
            try:
                worker = _Worker(self._server)
            except OSError as error:
                raise DecoderError(
                    f"no decoding process can be started: {error.strerror}; the same command resumes the run"
                ) from error
            self._workers.append(worker)
            self._idle.put(worker)
            self._ready = self._ready or self._listing.submit(self._call, (b"", ()))

    def stat_files(self, folder: bytes, names: Sequence[bytes]) -> Future[bytes] | None:
        """Have `listing.stat_fields` done in a process of the pool; None before one is ready, and for a single CPU."""
        if self.count == 1 or self._ready is None or not self._ready.done():
            return None
        return self._listing.submit(self._call, (folder, names))

    def decode(self, work: Reader | Files, polarity: Polarity, resize: Resize | None = None) -> Decoded:
        """Read (if `work` is a Reader) and decode files in a process of the pool, which must be started.

        Raises:
            DecoderError: the process died.
            DataError: the archive of the files cannot be read any more.
        """
        answer = self._call((work, polarity, resize))
        if isinstance(answer, Decoded):
            return answer
        raise DataError(f"the input cannot be read: {answer}; restore it and run again")

    def _call(self, request: Any) -> Any:
        worker = self._idle.get()
        try:
            return worker.call(request)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise DecoderError(
                "a decoding process died (out of memory?); the same command resumes the run, "
                "with fewer --workers if memory is short"
            ) from error
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Stop the processes."""
        for worker in self._workers:
            worker.shut_down()
        self._listing.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.close()


class _Worker:
    """The socket to a decoding process."""

    def __init__(self, server: ForkServer) -> None:
        self._connection = server.fork(f"{__name__}:serve", __name__)
        self._source = cast("IO[bytes]", self._connection.makefile("rb", buffering=BUFFER))

    def call(self, request: Any) -> Any:
        self._connection.sendall(pickle.dumps(request, pickle.HIGHEST_PROTOCOL))
        return pickle.load(self._source)  # noqa: S301  written by this program's own process

    def shut_down(self) -> None:
        """Wake a thread that waits for the process."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._source.close()
        self._connection.close()


def serve(connection: socket.socket, _: None) -> int:
    """Decode what the parent asks for until it closes the socket or exits."""
    with connection.makefile("rb", buffering=BUFFER) as source:
        while True:
            try:
                request = pickle.load(source)  # noqa: S301  the parent wrote it
                answer = stat_fields(*request) if len(request) == 2 else _decoded(*request)
                connection.sendall(pickle.dumps(answer, pickle.HIGHEST_PROTOCOL))
            except (EOFError, ConnectionError):
                return 0
            except MemoryError:  # the parent detects the exit and reports it
                return 1


def _decoded(work: Reader | Files, polarity: Polarity, resize: Resize | None = None) -> Decoded | str:
    """Return decoded files, or the reason why they cannot be read."""
    try:
        files = work if isinstance(work, Sequence) else work.read()
    except OSError as error:  # the archive was removed
        return str(error)
    return decode_files(files, polarity, resize)
