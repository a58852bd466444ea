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
    respond: Callable[[Response], None]
    """Called once, on the loop, unless the client has gone; it must not raise."""
    is_closed: Callable[[], bool]
    """Tells whether the client has gone, so that nobody reads the answer."""
    is_half_closed: Callable[[], bool] = lambda: False
    """Tells whether the client will send nothing more, so that maybe nobody reads the answer."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one inference is run for."""

    engine: Engine
    requests: list[tuple[QueuedRequest, PreparedRequest]]


@dataclass(frozen=True, slots=True)
class BatchResult:
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
        self._queue: deque[QueuedRequest] = deque()
        self._half_closed: deque[QueuedRequest] = deque()  # of clients that have hung up
        self._scheduled = False
        self._thread = ThreadPoolExecutor(
            1, thread_name_prefix="inference"
        )  # started when it is first needed
        self._executor: ThreadPoolExecutor | GraphThread | None = None
        if pipeline.store.provider == "cuda":
            self._executor = graph_thread() if pipeline.settings.cuda_graphs else self._thread
        self._inferring = False
        self._prepared: list[tuple[QueuedRequest, PreparedRequest]] = []

    def put(self, request: QueuedRequest) -> None:
        """Queue a request; its answer follows, from a later turn of the loop."""
        self._queue.append(request)
        self._schedule()

    def shed_half_closed(self, refusal: OverloadedError) -> bool:
        """Refuse a request of a client that has hung up in favour of another; False if there is none."""
        if not self._half_closed:
            return False
        request = self._half_closed.popleft()
        self._finish(request, self._pipeline.refuse(request.exchange, refusal))
        return True

    def close(self) -> None:
        """Free the thread, once nothing waits any more; the graphs' thread is the process's."""
        self._thread.shutdown(wait=False)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        cost = sum(prepared.cost for _, prepared in self._prepared)
        ends = time.perf_counter() + TURN_SECONDS
        while cost < TURN_COST and (request := self._pop()) is not None:
            if (prepared := self._prepare(request)) is not None:
                self._prepared.append((request, prepared))
                cost += prepared.cost
            if time.perf_counter() >= ends:
                break
        self._metrics.queue(sum(len(prepared) for _, prepared in self._prepared) + self._queue_length())
        if self._inferring:
            return  # what is decoded now runs when the device is free; `_inferred` goes on
        if self._prepared:
            self._infer()
        if self._queue_length():
            self._schedule()
        self._metrics.queue(self._queue_length())

    def _queue_length(self) -> int:
        return len(self._queue) + len(self._half_closed)

    def _pop(self) -> QueuedRequest | None:
        """Return the request whose turn it is."""
        while self._queue:
            request = self._queue.popleft()
            if not (self._queue and request.is_half_closed()):
                return request
            self._half_closed.append(request)
        return self._half_closed.popleft() if self._half_closed else None

    def _prepare(self, request: QueuedRequest) -> PreparedRequest | None:
        """Return the work of a request; None if it is answered already, or nobody waits for it."""
        exchange = request.exchange
        exchange.phases["queue"] = time.perf_counter() - exchange.arrived
        try:
            return None if self._abandoned(request) else self._pipeline.prepare(exchange)
        except Exception as error:  # noqa: BLE001  every request is answered, whatever happened
            self._finish(request, self._pipeline.refuse(exchange, error))
            return None

    def _abandoned(self, request: QueuedRequest) -> bool:
        """Forget a request whose client has gone."""
        if not request.is_closed():
            return False
        request.exchange.refusal = CLIENT_GONE
        self._finish(request, Response(body=b""))
        return True

    def _infer(self) -> None:
        """Run what is decoded, one engine's part after the other."""
        batches = self._make_batches()
        if self._executor is None:
            self._respond(batches, infer_batches(batches))
            return
        self._inferring = True
        self._executor.submit(self._infer_on_executor, batches)

    def _infer_on_executor(self, batches: list[Batch]) -> None:
        """Run on the thread, and hand the outputs to the loop."""
        results = infer_batches(batches)
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends, and nobody waits
            self._loop.call_soon_threadsafe(self._inferred, batches, results)

    def _inferred(self, batches: list[Batch], results: list[BatchResult | Exception]) -> None:
        self._inferring = False
        if self._prepared or self._queue_length():
            self._schedule()
        self._respond(batches, results)

    def _make_batches(self) -> list[Batch]:
        groups: dict[int, list[tuple[QueuedRequest, PreparedRequest]]] = {}
        for request, prepared in self._prepared:
            try:
                check_deadline(request.exchange.deadline)  # decoding others took time too
            except DeadlineExceededError as error:
                self._finish(request, self._pipeline.refuse(request.exchange, error))
            else:
                groups.setdefault(id(prepared.engine), []).append((request, prepared))
        self._prepared = []
        return [Batch(group[0][1].engine, group) for group in groups.values()]

    def _respond(self, batches: list[Batch], results: list[BatchResult | Exception]) -> None:
        for batch, result in zip(batches, results, strict=True):
            if isinstance(result, Exception):
                for request, _ in batch.requests:
                    self._finish(request, self._pipeline.refuse(request.exchange, result))
                continue
            images, outputs, start = result.images, result.outputs, 0
            self._metrics.batch(batch.engine.bundle, images, outputs.probabilities, padding(len(images)))
            for request, prepared in batch.requests:
                exchange = request.exchange
                exchange.phases["infer"] = result.seconds
                exchange.batch = len(images)
                try:
                    response = self._pipeline.encode(exchange, prepared, images, outputs, start)
                except Exception as error:  # noqa: BLE001  every request is answered, whatever happened
                    response = self._pipeline.refuse(exchange, error)
                start += len(prepared)
                self._finish(request, response)

    def _finish(self, request: QueuedRequest, response: Response) -> None:
        request.respond(self._pipeline.close(request.exchange, response))


def infer_batches(batches: list[Batch]) -> list[BatchResult | Exception]:
    """Run each batch; a failure is a result too, of its own batch only."""
    results: list[BatchResult | Exception] = []
    for batch in batches:
        started = time.perf_counter()
        try:
            images = images_of([prepared for _, prepared in batch.requests])
            outputs = batch.engine.infer(images)
        except Exception as error:  # noqa: BLE001  ONNX Runtime's errors share no base
            results.append(error)
        else:
            results.append(BatchResult(time.perf_counter() - started, images, outputs))
    return results
