"""The scoring pipeline: reads, decodes and scores slices of rows, with a bounded number of slices in flight.

    main thread      takes slices from the plan, reads sequential sources, waits for the oldest slice
    reading threads  one for each decoding process: send it a slice's files, receive the decoded images
    scoring threads  `Backend.concurrency` of them: call the backend with one batch after another

Slices are submitted in order and collected in order, and at most `PREFETCH` slices a thread are in flight. That
bounds the memory, and no other scheduling is needed.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bundle.images.contract import Resize
from bundle.manifest import Polarity
from imagesets.lazy_strings import LazyStrings
from imagesets.source import RawRows
from serving.scoring.inputs.decoding import DecoderPool, decode_files, from_pixels
from serving.scoring.plan import Plan, Slice
from serving.scoring.records import Backend, Chunk, Predictions, concatenate, predictions_of

PREFETCH = 3
"""Slices in flight for each thread: one being processed, two queued so that the thread never waits."""

Scored = tuple[Chunk, npt.NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A part that is scored but not written."""

    number: int
    chunk: Chunk
    predictions: Predictions


def score_parts(
    plan: Plan,
    parts: Sequence[int],
    backend: Backend,
    decoders: DecoderPool | None,
    resize: Resize | None = None,
) -> Iterator[Part]:
    """Yield the parts in order, each as soon as it is scored.

    Args:
        plan: of the input.
        parts: numbers of the parts to score, ascending.
        backend: computes the probabilities.
        decoders: required if the input has image files.
        resize: how image files of other sizes become 28x28; None rejects them.

    Raises:
        DataError: a source is damaged.
        BackendError: the backend failed.
    """
    readers, scorers = decoders.count if decoders else 1, backend.concurrency
    reading = ThreadPoolExecutor(readers, thread_name_prefix="read")
    scoring = ThreadPoolExecutor(scorers, thread_name_prefix="score")
    most = PREFETCH * (readers + scorers)

    def submit(slices: Sequence[Slice]) -> Callable[[], Scored]:
        if all(isinstance(one.work, RawRows) and one.work.pixels is not None for one in slices):
            return scoring.submit(
                lambda: _score(decode_slices(slices, backend.polarity, decoders, resize), backend)
            ).result
        later = reading.submit(
            lambda: scoring.submit(_score, decode_slices(slices, backend.polarity, decoders, resize), backend)
        )
        return lambda: later.result().result()

    try:
        wanted = (slices for part in parts for slices in plan.slices(part, backend.batch))
        pending: deque[Callable[[], Scored]] = deque()
        for part in parts:
            finished: list[Scored] = []
            while sum(len(chunk) for chunk, _ in finished) < plan.rows_of(part):
                while len(pending) < most and (slices := next(wanted, None)):
                    pending.append(submit(slices))
                finished.append(pending.popleft()())
            yield Part(
                number=part,
                chunk=concatenate([chunk for chunk, _ in finished]),
                predictions=predictions_of(np.concatenate([found for _, found in finished]), backend.classes),
            )
    except BaseException:
        backend.close()  # wakes the threads that wait for it
        raise
    finally:
        reading.shutdown(cancel_futures=True)
        scoring.shutdown(cancel_futures=True)


def decode_slices(
    slices: Sequence[Slice],
    polarity: Polarity,
    decoders: DecoderPool | None,
    resize: Resize | None = None,
) -> Chunk:
    """Return consecutive slices as one decoded chunk; without `decoders`, decode in this process."""
    return concatenate([_chunk(one, polarity, decoders, resize) for one in slices])


def _chunk(one: Slice, polarity: Polarity, decoders: DecoderPool | None, resize: Resize | None) -> Chunk:
    work, rows = one.work, one.work.rows
    columns = work.columns if isinstance(work, RawRows) else None
    if isinstance(work, RawRows) and work.pixels is not None:
        found = from_pixels(work.pixels, work.errors, polarity)
    elif decoders is not None:
        found = decoders.decode(
            list(work.files or ()) if isinstance(work, RawRows) else work, polarity, resize
        )
    else:
        found = decode_files(work.files or () if isinstance(work, RawRows) else work.read(), polarity, resize)
    return Chunk(
        first=one.first,
        sources=LazyStrings((work.source, len(rows))),
        rows=rows,
        images=found.images,
        errors=found.errors,
        warnings=found.warnings,
        columns=((len(rows), columns),),
    )


def _score(chunk: Chunk, backend: Backend) -> Scored:
    """Return the chunk with its probabilities, computed in batches that start at its first row."""
    found = [
        backend.score(chunk.images[start : start + backend.batch])
        for start in range(0, len(chunk), backend.batch)
    ]
    return chunk, found[0] if len(found) == 1 else np.concatenate(found)
