"""Decode: from rows as they were read to `uint8[n, 28, 28]`, by the service's own functions.

`python -m serving.scoring.decoding` is a process that does it for another one, which sends it work
through a pipe: decoding holds Python's lock, so threads would take turns.
"""

import os
import pickle
import queue
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from bundle import images
from bundle.errors import ImageError
from bundle.manifest import BLACK_ON_WHITE, IMAGE_SIZE, Polarity
from serving.images import SCALED_WARNING, warnings_of
from serving.scoring.errors import ScoringError
from serving.scoring.listing import Reader
from serving.scoring.records import Chunk, Images, Raw

ROOT = Path(__file__).resolve().parent.parent.parent


def decode(raw: Raw, first: int, polarity: Polarity) -> Chunk:
    """Decode rows, the first of which has the number `first`; what cannot be is said in its place."""
    errors = dict(raw.faults)
    if raw.pixels is not None:
        pixels = raw.pixels
    else:
        pixels = np.zeros((len(raw.rows), IMAGE_SIZE, IMAGE_SIZE), np.uint8)
        for at, data in enumerate(raw.files or ()):
            if isinstance(data, str):
                errors[at] = data
                continue
            try:
                pixels[at] = images.decode(data)
            except ImageError as error:
                errors[at] = error.detail
    return Chunk(
        first=first,
        sources=[raw.source] * len(raw.rows),
        rows=raw.rows,
        images=pixels,
        errors=errors,
        warnings=_warnings(pixels, errors, polarity, numbers=raw.pixels is not None),
        columns=((len(raw.rows), raw.columns),),
    )


def _warnings(pixels: Images, errors: dict[int, str], polarity: Polarity, *, numbers: bool) -> dict[int, str]:
    """Return what `/predict` would warn of, by row.

    Whether a row can be warned of at all, its border and its largest pixel tell, which costs a tenth.
    """
    sides = (pixels[:, 0], pixels[:, -1], pixels[:, 1:-1, 0], pixels[:, 1:-1, -1])
    border = sum(side.sum(axis=1, dtype=np.uint32) for side in sides)
    middle = 127.5 * (4 * IMAGE_SIZE - 4)
    suspect = border < middle if polarity == BLACK_ON_WHITE else border > middle
    if numbers:  # of a file's pixels /predict does not say that they are scaled
        suspect |= pixels.reshape(len(pixels), -1).max(axis=1) == 1
    places = [at for at in np.flatnonzero(suspect).tolist() if at not in errors]
    if not places:
        return {}
    found = {}
    for at, sentences in zip(places, warnings_of(pixels[places], polarity), strict=True):
        said = [text for text in sentences if numbers or text not in SCALED_WARNING]
        if said:
            found[at] = "; ".join(said)
    return found


class Decoders:
    """Processes that read and decode; `decode` may be called by as many threads as there are."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._all: list[subprocess.Popen[bytes]] = []
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        for _ in range(count):
            # A process of its own, not a fork: this one has threads, and may have CUDA.
            child = subprocess.Popen(
                [sys.executable, "-m", "serving.scoring.decoding"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=_environment(),
            )
            self._all.append(child)
            self._idle.put(child)

    def decode(self, work: Reader | Raw, first: int, polarity: Polarity) -> Chunk:
        """Have rows read, if they are not, and decoded.

        Raises:
            ScoringError: the process is gone: the system may have killed it, for want of memory.
        """
        child = self._idle.get()
        assert child.stdin is not None  # noqa: S101  pipes were asked for
        assert child.stdout is not None  # noqa: S101
        try:
            pickle.dump((work, first, polarity), child.stdin, pickle.HIGHEST_PROTOCOL)
            child.stdin.flush()
            answer = pickle.load(child.stdout)  # noqa: S301  our own process wrote it
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise ScoringError(
                "a decoding process is gone (did the system run out of memory?); the same command goes on "
                "where this one stopped, --workers takes fewer"
            ) from error
        finally:
            self._idle.put(child)
        if isinstance(answer, Exception):
            raise answer
        if not isinstance(answer, Chunk):
            raise TypeError(f"a decoding process answered {type(answer).__name__}")
        return answer

    def close(self) -> None:
        """End the processes."""
        for child in self._all:
            child.kill()  # it has nothing to lose
        for child in self._all:
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()


def _environment() -> dict[str, str]:
    """Return an environment in which the child finds this code wherever it was started."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}


def main() -> int:
    """Decode for the parent until it closes the pipe, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to both; the parent decides
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            work, first, polarity = pickle.load(source)  # noqa: S301  the parent wrote it
        except EOFError:
            return 0
        answer: Chunk | Exception
        try:
            answer = decode(work if isinstance(work, Raw) else work.read(), first, polarity)
        except OSError as error:
            answer = ScoringError(f"the input cannot be read: {error}")
        pickle.dump(answer, sink, pickle.HIGHEST_PROTOCOL)
        sink.flush()


if __name__ == "__main__":
    sys.exit(main())
