"""One part after another: read, decode and score, with the next rows always on their way.

    this thread      takes slices from the plan, reads what must be read in order, waits for the oldest
    reading threads  one for each decoding process: have a slice's files read and decoded
    scoring threads  as many as keep the backend busy: ask it for one batch after the other

Slices are pending in order and finished in order, and no more than a few are pending at a time. That bounds
the memory, and is all the scheduling there is.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bundle.manifest import Polarity
from serving.scoring.inputs.decoding import DecoderPool, decode_files, from_pixels
from serving.scoring.lazy_strings import LazyStrings
from serving.scoring.plan import Plan, Slice
from serving.scoring.records import Backend, Chunk, Predictions, RawRows, concatenate, predictions_of

PREFETCH = 3
"""Slices that are on their way for each thread: one that is worked on, and two so that none waits."""

Scored = tuple[Chunk, npt.NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A part that is scored and not written."""

    number: int
    chunk: Chunk
    predictions: Predictions


def score_parts(
    plan: Plan, parts: Sequence[int], backend: Backend, decoders: DecoderPool | None
) -> Iterator[Part]:
    """Yield the parts, in their order, each as soon as it is scored.

    Args:
        plan: the input.
        parts: the numbers of those that are wanted, ascending.
        backend: what scores.
        decoders: needed where the input has image files.

    Raises:
        InputError: a source is damaged.
        BackendError: the backend failed.
    """
    readers, scorers = decoders.count if decoders else 1, backend.concurrency
    reading = ThreadPoolExecutor(readers, thread_name_prefix="read")
    scoring = ThreadPoolExecutor(scorers, thread_name_prefix="score")
    most = PREFETCH * (readers + scorers)

    def submit(slices: Sequence[Slice]) -> Callable[[], Scored]:
        if all(isinstance(one.work, RawRows) and one.work.pixels is not None for one in slices):
            return scoring.submit(
                lambda: _score(decode_slices(slices, backend.polarity, decoders), backend)
            ).result
        later = reading.submit(
            lambda: scoring.submit(_score, decode_slices(slices, backend.polarity, decoders), backend)
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
        backend.close()  # so that no thread waits for it any more
        raise
    finally:
        reading.shutdown(cancel_futures=True)
        scoring.shutdown(cancel_futures=True)


def decode_slices(slices: Sequence[Slice], polarity: Polarity, decoders: DecoderPool | None) -> Chunk:
    """Return consecutive slices as one decoded chunk; without decoders, decoded here."""
    return concatenate([_chunk(one, polarity, decoders) for one in slices])


def _chunk(one: Slice, polarity: Polarity, decoders: DecoderPool | None) -> Chunk:
    work, rows = one.work, one.work.rows
    columns = work.columns if isinstance(work, RawRows) else None
    if isinstance(work, RawRows) and work.pixels is not None:
        found = from_pixels(work.pixels, work.errors, polarity)
    elif decoders is not None:
        found = decoders.decode(list(work.files or ()) if isinstance(work, RawRows) else work, polarity)
    else:
        found = decode_files(work.files or () if isinstance(work, RawRows) else work.read(), polarity)
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
    """Ask for the probabilities, in batches that are cut from the part's first row on."""
    found = [
        backend.score(chunk.images[start : start + backend.batch])
        for start in range(0, len(chunk), backend.batch)
    ]
    return chunk, found[0] if len(found) == 1 else np.concatenate(found)
