"""Dynamic batching without a delay: all requests that have arrived run as one batch.

Requests wait in one queue. Each turn of the event loop takes as many of them as make a batch, decodes them, runs one
inference for each engine among them (a reload never mixes models), and responds. What arrives meanwhile waits in the
sockets for the next turn, so that batches grow with the load.

Half-closed peers are served last while others wait, and shed first when the queue is full: they may still read, but
after a crowd of impatient clients most of them have gone.

On the CPU, inference runs on the loop: at 7 to 50 us an image, handing it to a thread would cost more than it frees.
On CUDA it runs on a thread while the loop decodes the next batch; with CUDA graphs, that is the process's
`graph_thread`.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from serving.errors import DeadlineExceededError, OverloadedError
from serving.model.cuda_graph_thread import GraphThread, graph_thread
from serving.model.engine import Engine, Outputs
from serving.predict.exchange import Exchange, PreparedRequest, Response
from serving.predict.load_shedding import check_deadline
from serving.predict.native import images_of
from serving.predict.pipeline import Pipeline
from serving.telemetry.metrics import CLIENT_GONE

log = logging.getLogger("glyph.serving")

TURN_COST = 256
"""Most work of one turn, as `PreparedRequest.cost` counts: up to 5 ms, which is 64 files, or four requests of 64
images of pixels. Those run as one batch: alone, each would find the caches full of weights."""

TURN_SECONDS = 0.005
"""Time after which a turn takes no further request: a file can be made to cost twenty times what
`PreparedRequest.cost` counts, and one that is rejected counts nothing."""


class Peer(Protocol):
    """The client of a request, as far as the queue asks for it."""

    half_closed: bool
    """Whether it has closed its sending side, so that perhaps nobody reads the response."""

    @property
    def is_closed(self) -> bool:
        """Whether the connection is closed, so that nobody reads the response."""
        ...


@dataclass(slots=True)
class QueuedRequest:
    """A request that waits for its inference."""

    exchange: Exchange
    peer: Peer
    respond: Callable[[Any, Response], None]
    """Called with the peer, once, on the loop, also where the client has gone."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that one inference answers."""

    engine: Engine
    requests: list[tuple[QueuedRequest, PreparedRequest]]


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The outputs of a batch."""

    seconds: float
    """How long the inference took."""
    images: npt.NDArray[np.uint8]
    """`uint8[n, 28, 28]`, of all requests of the batch in their order."""
    outputs: Outputs


class Batcher:
    """Runs the predictions of one process. All its methods are called on the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pipeline: Pipeline) -> None:
        """Create a batcher with empty queues.

        Args:
            loop: the event loop, on which requests are decoded.
            pipeline: prepares and encodes requests.
        """
        self._loop = loop
        self._pipeline = pipeline
        self._metrics = pipeline.store.metrics
        self._queue: deque[QueuedRequest] = deque()
        self._half_closed: deque[QueuedRequest] = deque()
        """Requests of half-closed peers, which were taken from the queue while others waited behind them."""
        self._scheduled = False
        """Whether a turn is due."""
        self._prepared: list[tuple[QueuedRequest, PreparedRequest]] = []
        """Requests that are decoded, and wait for their inference."""
        self._inferring = False
        """Whether the executor runs a batch."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")
        """It starts when it is first used."""
        self._executor: ThreadPoolExecutor | GraphThread | None = None
        """Runs inference; None if the loop does."""
        if pipeline.store.provider == "cuda":
            self._executor = graph_thread() if pipeline.settings.cuda_graphs else self._thread

    # Queue

    def put(self, request: QueuedRequest) -> None:
        """Queue a request; a later turn of the loop calls its `respond`."""
        self._queue.append(request)
        self._schedule()

    def shed_half_closed(self, refusal: OverloadedError) -> bool:
        """Reject the request of a half-closed peer, to free its queue slot; return False if there is none."""
        if not self._half_closed:
            return False
        request = self._half_closed.popleft()
        self._finish(request, self._pipeline.error_response(request.exchange, refusal))
        return True

    def _queue_length(self) -> int:
        return len(self._queue) + len(self._half_closed)

    def _pop(self) -> QueuedRequest | None:
        """Return the next request, one of a half-closed peer only if no other waits."""
        while self._queue:
            request = self._queue.popleft()
            if not (self._queue and request.peer.half_closed):
                return request
            self._half_closed.append(request)
        return self._half_closed.popleft() if self._half_closed else None

    # A turn of the loop

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Decode as many requests as make a batch, and run them unless the executor is busy."""
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
            return  # `_inferred` schedules the turn that runs what is prepared now
        if self._prepared:
            self._infer()
        if self._queue_length():
            self._schedule()
        self._metrics.queue(self._queue_length())

    def _prepare(self, request: QueuedRequest) -> PreparedRequest | None:
        """Decode a request; return None if it is rejected, or its client has gone."""
        exchange = request.exchange
        exchange.phases["queue"] = time.perf_counter() - exchange.arrived
        try:
            return None if self._drop_if_closed(request) else self._pipeline.prepare(exchange)
        except Exception as error:  # noqa: BLE001  every request gets a response, whatever happened
            self._finish(request, self._pipeline.error_response(exchange, error))
            return None

    def _drop_if_closed(self, request: QueuedRequest) -> bool:
        if not request.peer.is_closed:
            return False
        request.exchange.refusal = CLIENT_GONE
        self._finish(request, Response(body=b""))
        return True

    # Inference

    def _infer(self) -> None:
        """Run what is prepared, here or on the executor."""
        batches = self._make_batches()
        if self._executor is None:
            self._respond(batches, infer_batches(batches))
            return
        self._inferring = True
        self._executor.submit(self._infer_on_executor, batches)

    def _make_batches(self) -> list[Batch]:
        """Group what is prepared by engine; reject requests whose deadline has passed."""
        groups: dict[int, list[tuple[QueuedRequest, PreparedRequest]]] = {}
        for request, prepared in self._prepared:
            try:
                check_deadline(request.exchange.deadline)  # decoding the others took time, too
            except DeadlineExceededError as error:
                self._finish(request, self._pipeline.error_response(request.exchange, error))
            else:
                groups.setdefault(id(prepared.engine), []).append((request, prepared))
        self._prepared = []
        return [Batch(group[0][1].engine, group) for group in groups.values()]

    def _infer_on_executor(self, batches: list[Batch]) -> None:
        """Run batches on the executor's thread, and hand the results to the loop."""
        results = infer_batches(batches)
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends, and nobody waits
            self._loop.call_soon_threadsafe(self._inferred, batches, results)

    def _inferred(self, batches: list[Batch], results: list[BatchResult | Exception]) -> None:
        """Take the results of the executor, and schedule a turn if more requests wait."""
        self._inferring = False
        if self._prepared or self._queue_length():
            self._schedule()
        self._respond(batches, results)

    # Responses

    def _respond(self, batches: list[Batch], results: list[BatchResult | Exception]) -> None:
        """Encode the response to each request of the batches."""
        for batch, result in zip(batches, results, strict=True):
            if isinstance(result, Exception):
                for request, _ in batch.requests:
                    self._finish(request, self._pipeline.error_response(request.exchange, result))
                continue
            images, outputs, start = result.images, result.outputs, 0
            self._pipeline.count_inference(batch.engine, images, outputs)
            encoded: list[tuple[QueuedRequest, Response]] = []
            for request, prepared in batch.requests:
                exchange = request.exchange
                exchange.phases["infer"] = result.seconds
                exchange.batch = len(images)
                try:
                    response = self._pipeline.encode(exchange, prepared, images, outputs, start)
                except Exception as error:  # noqa: BLE001  every request gets a response, whatever happened
                    self._finish(request, self._pipeline.error_response(exchange, error))
                else:
                    encoded.append((request, response))
                start += len(prepared)
            self._pipeline.close_batch([(request.exchange, response) for request, response in encoded])
            for request, response in encoded:
                _send(request, response)

    def _finish(self, request: QueuedRequest, response: Response) -> None:
        _send(request, self._pipeline.close(request.exchange, response))

    def close(self) -> None:
        """Shut the inference thread down; the graph thread belongs to the process."""
        self._thread.shutdown(wait=False)


def _send(request: QueuedRequest, response: Response) -> None:
    """Respond; an error in that is logged, because other requests wait for the same turn."""
    try:
        request.respond(request.peer, response)
    except Exception:
        log.exception("a response could not be sent: %s", request.exchange.id)


def infer_batches(batches: list[Batch]) -> list[BatchResult | Exception]:
    """Run each batch; return its result, or the exception that fails this batch alone."""
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
