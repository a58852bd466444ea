"""Reads all images of a set's sources into memory: decodes files, hashes what is read, and collects what is wrong.

Several threads read ahead while one decodes: decoding takes 50 us an image, mostly holding the GIL, so several
decoding threads were up to twice as slow as one (20,000 PNG files of MNIST, two cores). On a disk with a latency of
0.5 ms, eight readers are five times as fast as one. There is no cache, which would save 4 s for all of MNIST.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from bundle.images.contract import Resize
from bundle.images.decoding import check_header, decode
from bundle.images.errors import ImageError
from bundle.manifest import IMAGE_SIZE
from common.progress import Progress
from imagesets.source import RawRows, Reader, Source
from training.data.problems import Problems

READERS = 8
CHUNK = 100
"""Files in a chunk, the unit of a reader's work."""
ROWS = 8192
"""Rows of an array that are read at once."""
AHEAD = 16
"""Most chunks that have been read but not decoded."""

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """What was read of n rows."""

    images: Pixels
    """`uint8[n, 28, 28]`; zeros where `bad`, or where only the header was checked."""
    bad: Mask
    """`bool[n]`: the row is no image."""
    digests: list[bytes] = field(default_factory=list)
    """The SHA-256 of each file; empty for sources of arrays."""


def read_rows(
    sources: Sequence[Source],
    problems: Problems,
    progress: Progress,
    task: str,
    *,
    decoded: Mask | None = None,
    resize: Resize | None = None,
) -> Rows:
    """Read the rows of some sources, in their order.

    Args:
        sources: of a part.
        problems: receives the rows that are no images.
        progress: shows how far it is.
        task: what the progress is called.
        decoded: `bool[n]`: of the other rows, if they are files, only the header is checked; None decodes all.
        resize: how files of other sizes become 28x28; None rejects them.

    Raises:
        DataError: a container is damaged.
    """
    count = sum(source.count for source in sources)
    images = np.zeros((count, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    bad = np.zeros(count, dtype=bool)
    digests: list[bytes] = []
    at = 0
    with progress.task(task, count, unit="images") as shown, ThreadPoolExecutor(READERS) as pool:
        for source in sources:
            for rows, contents in _contents(source, pool):
                if isinstance(rows, RawRows) and rows.pixels is not None:
                    images[at : at + len(rows.pixels)] = rows.pixels
                    for row, reason in rows.errors.items():
                        bad[at + row] = True
                        problems.add(_row_name(source, rows.rows[row]), "not an image", reason)
                    at += len(rows.pixels)
                    shown.advance(len(rows.pixels))
                    continue
                for place, content in enumerate(contents):
                    look = decode if decoded is None or decoded[at] else check_header
                    digests.append(hashlib.sha256(content).digest() if isinstance(content, bytes) else b"")
                    try:
                        if isinstance(content, str):
                            bad[at] = True
                            problems.add(_row_name(source, rows.rows[place]), "cannot be read", content)
                        elif (pixels := look(content, resize)) is not None:
                            images[at] = pixels
                    except ImageError as error:
                        bad[at] = True
                        problems.add(_row_name(source, rows.rows[place]), error.kind, error.found)
                    at += 1
                shown.advance(len(contents))
            source.close()
    return Rows(images=images, bad=bad, digests=digests)


def _row_name(source: Source, row: str) -> str:
    return row if source.needs_decoding and not row.isdigit() else f"row {row} of {source.name}"


def _contents(source: Source, pool: Executor) -> Iterator[tuple[RawRows | Reader, Sequence[bytes | str]]]:
    """Yield a source's rows in order; files are read ahead."""
    if not source.needs_decoding:
        for first in range(0, source.count, ROWS):
            yield source.take(first, min(ROWS, source.count - first)), ()
        return

    def read(work: RawRows | Reader) -> tuple[RawRows | Reader, Sequence[bytes | str]]:
        return work, (work.files or ()) if isinstance(work, RawRows) else work.read()

    taken = (source.take(first, min(CHUNK, source.count - first)) for first in range(0, source.count, CHUNK))
    yield from _ahead(pool, read, taken)


def _ahead(pool: Executor, function: Callable[[_T], _R], items: Iterable[_T]) -> Iterator[_R]:
    """Map in order, with at most `AHEAD` results in memory."""
    waiting: deque[Future[_R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
