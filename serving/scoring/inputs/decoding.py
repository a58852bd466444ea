"""Decodes image files to `uint8[n, 28, 28]` with the service's decoder, in a pool of processes.

Decoding holds the global interpreter lock, so threads would not run in parallel. Each process has a socket to its
parent, for requests and errors, and memory that it shares with it, for the pixels: 800 KB of 1024 images through the
socket would cost more than a tenth of decoding them.

`concurrent.futures.ProcessPoolExecutor` is slower (`python -m bench decoders`): each of its processes imports the main
module again, and one thread handles the messages of all processes.
"""

import contextlib
import mmap
import os
import pickle
import queue
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, cast

import numpy as np

from bundle.images import decoding
from bundle.images.contract import IMAGE_SIZE, Polarity, Resize
from imagesets.errors import DataError
from imagesets.formats.files.listing import stat_fields
from imagesets.source import Reader
from serving.predict.bodies.image_warnings import warned
from serving.scoring.errors import DecoderError
from serving.scoring.fork_server import ForkServer
from serving.scoring.records import Decoded, Images

BUFFER = 1 << 18
IMAGE_BYTES = IMAGE_SIZE * IMAGE_SIZE

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


class _SharedImages:
    """Memory of images that two processes share; it grows with the largest number that was asked for."""

    def __init__(self, file: int) -> None:
        self.file = file
        self._images: Images = np.empty((0, IMAGE_SIZE, IMAGE_SIZE), np.uint8)

    def first(self, count: int) -> Images:
        """Return the first `uint8[count, 28, 28]` of the memory."""
        if count > len(self._images):
            try:
                os.posix_fallocate(
                    self.file, 0, count * IMAGE_BYTES
                )  # without it SIGBUS tells that there is none
            except OSError as error:
                raise MemoryError(str(error)) from error
            memory = np.frombuffer(mmap.mmap(self.file, count * IMAGE_BYTES), np.uint8)
            self._images = memory.reshape(-1, IMAGE_SIZE, IMAGE_SIZE)
        return self._images[:count]


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
    """The socket to a decoding process, and the memory of its images."""

    def __init__(self, server: ForkServer) -> None:
        self._shared = _SharedImages(os.memfd_create("glyph-images"))
        self._connection = server.fork(f"{__name__}:serve", __name__, files=[self._shared.file])
        self._source = cast("IO[bytes]", self._connection.makefile("rb", buffering=BUFFER))

    def call(self, request: Any) -> Any:
        self._connection.sendall(pickle.dumps(request, pickle.HIGHEST_PROTOCOL))
        answer = pickle.load(self._source)  # noqa: S301  written by this program's own process
        if isinstance(answer, str | bytes):
            return answer
        count, errors, warnings = answer
        return Decoded(self._shared.first(count).copy(), errors, warnings)

    def shut_down(self) -> None:
        """Wake a thread that waits for the process."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._source.close()
        self._connection.close()
        os.close(self._shared.file)


def serve(connection: socket.socket, _: None, files: Sequence[int]) -> int:
    """Decode what the parent asks for until it closes the socket or exits."""
    shared = _SharedImages(files[0])
    with connection.makefile("rb", buffering=BUFFER) as source:
        while True:
            try:
                request = pickle.load(source)  # noqa: S301  the parent wrote it
                answer = stat_fields(*request) if len(request) == 2 else _decoded(shared, *request)
                connection.sendall(pickle.dumps(answer, pickle.HIGHEST_PROTOCOL))
            except (EOFError, ConnectionError):
                return 0
            except MemoryError:  # the parent detects the exit and reports it
                return 1


def _decoded(
    shared: _SharedImages, work: Reader | list[bytes | str], polarity: Polarity, resize: Resize | None
) -> tuple[int, Mapping[int, str], Mapping[int, str]] | str:
    """Read and decode files into the shared memory; return their number, errors and warnings.

    Returns:
        The reason if they cannot be read.
    """
    try:
        files = work if isinstance(work, list) else work.read()
    except OSError as error:  # the archive was removed
        return str(error)
    found = decode_files(files, polarity, resize)
    shared.first(len(found.images))[:] = found.images
    return len(found.images), found.errors, found.warnings
