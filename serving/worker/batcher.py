"""One batch of all that has arrived: no delay is added, and what came too late is not computed.

Requests wait in one queue. A turn of the event loop takes as many as make a batch, decodes them, runs
them by one inference for each engine among them (a reload never mixes models), and answers. What
arrives meanwhile waits in the sockets and makes the next batch, so that batches grow with the load.

Where others wait, a request whose client has hung up goes behind them all, and is the first to be refused
when the queue is full: it may still want to read, but after a crowd of impatient clients most have gone.

On the CPU the inference runs in the loop: at 7 to 50 us an image, a thread's hand-over would cost
more than it frees. On CUDA it runs in a thread beside the loop, which decodes the next batch meanwhile;
where CUDA graphs are on, that thread is the process's `graph_thread`.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.errors import DeadlineExceededError, OverloadedError
from serving.model.cuda_graph_thread import GraphThread, graph_thread
from serving.model.engine import Engine, Outputs, padding
from serving.predict.exchange import Exchange, PreparedRequest, Response
from serving.predict.load_shedding import check_deadline
from serving.predict.native import images_of
from serving.predict.pipeline import Pipeline
from serving.telemetry.metrics import CLIENT_GONE

TURN_COST = 256
"""What a turn does before it looks at the sockets again, as `PreparedRequest.cost` counts: up to 5 ms, which is 64
files, or four requests of 64 images of pixels. Those are run as one batch: alone, each would find the caches full of
weights."""

TURN_SECONDS = 0.005
"""After which a turn takes no further request: files may be made to cost twenty times what `PreparedRequest.cost`
counts, and those that are refused count nothing."""


@dataclass(slots=True)
class QueuedRequest:
    """A request that waits for its inference."""

    exchange: Exchange
    done: Callable[[Response], None]
    """Called once, on the loop, unless the client has gone; it must not raise."""
    gone: Callable[[], bool]
    """Tells whether the client has gone, so that nobody reads the answer."""
    half_closed: Callable[[], bool] = lambda: False
    """Tells whether the client will send nothing more, so that maybe nobody reads the answer."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one inference is run for."""

    engine: Engine
    jobs: list[tuple[QueuedRequest, PreparedRequest]]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it."""

    seconds: float
    images: npt.NDArray[np.uint8]
    outputs: Outputs


class Batcher:
    """Runs the predictions of one process. All its methods are called on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pipeline: Pipeline) -> None:
        self._loop = loop
        self._pipeline = pipeline
        self._metrics = pipeline.store.metrics
        self._waiting: deque[QueuedRequest] = deque()
        self._later: deque[QueuedRequest] = deque()  # of clients that have hung up
        self._scheduled = False
        self._own = ThreadPoolExecutor(1, thread_name_prefix="inference")  # started when it is first needed
        self._beside: ThreadPoolExecutor | GraphThread | None = None
        if pipeline.store.provider == "cuda":
            self._beside = graph_thread() if pipeline.settings.cuda_graphs else self._own
        self._running = False
        self._decoded: list[tuple[QueuedRequest, PreparedRequest]] = []

    def put(self, job: QueuedRequest) -> None:
        """Queue a request; its answer follows, from a later turn of the loop."""
        self._waiting.append(job)
        self._schedule()

    def make_room(self, refusal: OverloadedError) -> bool:
        """Refuse a request of a client that has hung up in favour of another; False if there is none."""
        if not self._later:
            return False
        job = self._later.popleft()
        self._finish(job, self._pipeline.refuse(job.exchange, refusal))
        return True

    def close(self) -> None:
        """Free the thread, once nothing waits any more; the graphs' thread is the process's."""
        self._own.shutdown(wait=False)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        cost = sum(work.cost for _, work in self._decoded)
        ends = time.perf_counter() + TURN_SECONDS
        while cost < TURN_COST and (job := self._next()) is not None:
            if (work := self._decode(job)) is not None:
                self._decoded.append((job, work))
                cost += work.cost
            if time.perf_counter() >= ends:
                break
        self._metrics.queue(sum(len(work) for _, work in self._decoded) + self._queued())
        if self._running:
            return  # what is decoded now runs when the device is free; `_ran` goes on
        if self._decoded:
            self._run()
        if self._queued():
            self._schedule()
        self._metrics.queue(self._queued())

    def _queued(self) -> int:
        return len(self._waiting) + len(self._later)

    def _next(self) -> QueuedRequest | None:
        """Return the request whose turn it is."""
        while self._waiting:
            job = self._waiting.popleft()
            if not (self._waiting and job.half_closed()):
                return job
            self._later.append(job)
        return self._later.popleft() if self._later else None

    def _decode(self, job: QueuedRequest) -> PreparedRequest | None:
        """Return the work of a request; None if it is answered already, or nobody waits for it."""
        exchange = job.exchange
        exchange.phases["queue"] = time.perf_counter() - exchange.arrived
        try:
            return None if self._abandoned(job) else self._pipeline.prepare(exchange)
        except Exception as error:  # noqa: BLE001  every request is answered, whatever happened
            self._finish(job, self._pipeline.refuse(exchange, error))
            return None

    def _abandoned(self, job: QueuedRequest) -> bool:
        """Forget a request whose client has gone."""
        if not job.gone():
            return False
        job.exchange.refusal = CLIENT_GONE
        self._finish(job, Response(body=b""))
        return True

    def _run(self) -> None:
        """Run what is decoded, one engine's part after the other."""
        batches = self._batches()
        if self._beside is None:
            self._answer(batches, run_all(batches))
            return
        self._running = True
        self._beside.submit(self._run_beside, batches)

    def _run_beside(self, batches: list[Batch]) -> None:
        """Run on the thread, and hand the outputs to the loop."""
        results = run_all(batches)
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends, and nobody waits
            self._loop.call_soon_threadsafe(self._ran, batches, results)

    def _ran(self, batches: list[Batch], results: list[Result | Exception]) -> None:
        self._running = False
        if self._decoded or self._queued():
            self._schedule()
        self._answer(batches, results)

    def _batches(self) -> list[Batch]:
        groups: dict[int, list[tuple[QueuedRequest, PreparedRequest]]] = {}
        for job, work in self._decoded:
            try:
                check_deadline(job.exchange.deadline)  # decoding others took time too
            except DeadlineExceededError as error:
                self._finish(job, self._pipeline.refuse(job.exchange, error))
            else:
                groups.setdefault(id(work.engine), []).append((job, work))
        self._decoded = []
        return [Batch(group[0][1].engine, group) for group in groups.values()]

    def _answer(self, batches: list[Batch], results: list[Result | Exception]) -> None:
        for batch, result in zip(batches, results, strict=True):
            if isinstance(result, Exception):
                for job, _ in batch.jobs:
                    self._finish(job, self._pipeline.refuse(job.exchange, result))
                continue
            images, outputs, start = result.images, result.outputs, 0
            self._metrics.batch(batch.engine.bundle, images, outputs.probabilities, padding(len(images)))
            for job, work in batch.jobs:
                exchange = job.exchange
                exchange.phases["infer"] = result.seconds
                exchange.batch = len(images)
                try:
                    answer = self._pipeline.encode(exchange, work, images, outputs, start)
                except Exception as error:  # noqa: BLE001  every request is answered, whatever happened
                    answer = self._pipeline.refuse(exchange, error)
                start += len(work)
                self._finish(job, answer)

    def _finish(self, job: QueuedRequest, answer: Response) -> None:
        job.done(self._pipeline.close(job.exchange, answer))


def run_all(batches: list[Batch]) -> list[Result | Exception]:
    """Run each batch; a failure is a result too, of its own batch only."""
    results: list[Result | Exception] = []
    for batch in batches:
        started = time.perf_counter()
        try:
            images = images_of([work for _, work in batch.jobs])
            outputs = batch.engine.infer(images)
        except Exception as error:  # noqa: BLE001  ONNX Runtime's errors share no base
            results.append(error)
        else:
            results.append(Result(time.perf_counter() - started, images, outputs))
    return results
