"""The metrics of one process. Recording is a few additions in shared memory; the management process reads them.

Called by:
    Pipeline.open, Pipeline.close    `opened`, `observe` (`observe_batch` for a batch): once each for every
                                     prediction request
    the batcher, or Pipeline.answer  `batch` after each inference, `queue` when its depth changes
    Flask's request hooks            `request`, for requests that the pipeline does not answer
    ModelStore                       `loaded`, `load_failed`, `golden`, `golden_check`, `state`, `publish`
    Mirror                           `model_store`, `fetched`
    the inference worker             `connections`, several times a second; `evicted`, `refusal`
    both worker classes              `beat`, whenever they notify the arbiter that the process is alive
    Reloader                         `tick`, once a second
"""

import logging
import os
import resource
import threading
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import orjson

from bundle import drift
from bundle.images import brightness
from serving.system.memory_directory import DIRECTORY_VARIABLE
from serving.telemetry import logs
from serving.telemetry.catalogue import BATCH, CATALOGUE, NATS, PROBABILITY, SECONDS
from serving.telemetry.request_record import RequestRecord
from serving.telemetry.shared_memory import MAX_VALUES_PER_KEY, SharedCounters, link_to_memory
from serving.telemetry.worker_files import (
    COUNTERS_SUFFIX,
    FACTS_SUFFIX,
    Numbers,
    numbers_of_others,
    sum_numbers,
)

if TYPE_CHECKING:
    from bundle.repository import Bundle

log = logging.getLogger("glyph.serving")

State = Literal["starting", "ready", "unready", "draining", "ended", "aborted"]
STATES: tuple[State, ...] = ("starting", "ready", "unready", "draining", "ended", "aborted")
STATE, HEARTBEAT = 0, 1
"""Offsets of two values that the management process reads without the others."""

OTHER = "other"
CLIENT_GONE = "client-gone"
"""A value of `RequestRecord.refusal`: the client has closed the connection, so nothing was computed."""
CLIENT_GONE_STATUS = 499
"""The status that proxies log for such a request. It is never sent."""
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", OTHER))
_SUM_OF_SECONDS, _SUM_OF_BATCH = len(SECONDS) + 1, len(BATCH) + 1
"""Offsets of the sum in histograms of these buckets."""
_SECONDS_ARRAY, _PROBABILITY_ARRAY, _NATS_ARRAY = map(np.array, (SECONDS, PROBABILITY, NATS))
_LEAST_POSITIVE = float(np.finfo(np.float32).smallest_subnormal)
"""A probability of 0 adds nothing to the entropy, and has no logarithm."""
_FEW_RECORDS = 8
"""Fewer records are observed one by one: for them NumPy's calls would take longer."""

BUFFERED_IMAGES = 256
"""Images whose statistics are computed together: for a single image NumPy's calls would cost more than the model."""
_PLACES = np.arange(BUFFERED_IMAGES)


class Metrics:
    """The metrics of one process, in memory that it shares with the management process. Thread-safe."""

    def __init__(self, counters: SharedCounters | None = None, facts: Path | None = None) -> None:
        self._counters = counters or SharedCounters.anonymous()
        self._facts_path = facts
        self._facts_descriptor: int | None = None  # of anonymous memory, if there was no room for a file
        self._lock = threading.RLock()
        self._values = self._counters.values
        self._offsets: dict[tuple[str, ...], int] = {}
        self._statistics: _Statistics | None = None
        self._state = self._offset("state")  # allocated first, so it is at STATE, and the next at HEARTBEAT
        self._heartbeat = self._offset("heartbeat")
        self._in_flight = self._offset("glyph_http_requests_in_flight")
        self._queue = self._offset("glyph_queue_images")
        self._connections = self._offset("glyph_connections")
        self._evicted = self._offset("glyph_connections_evicted_total")
        self._golden = self._offset("glyph_golden_check_passed")
        self.golden_check(passed=True)
        self._model_store = self._offset("glyph_model_store_up")
        self.model_store(reachable=True)
        self._batch_images = self._histogram(("glyph_batch_images",))
        self._padding = self._offset("glyph_padding_images_total")
        phases = CATALOGUE["glyph_phase_duration_seconds"].label_values
        self._phases = {phase: self._histogram(("glyph_phase_duration_seconds", phase)) for phase in phases}
        self._request_offsets: dict[tuple[str, str, int], tuple[int, int]] = {}

    @classmethod
    def create(cls, environment: Mapping[str, str] | None = None) -> "Metrics":
        """Return this process's metrics, shared with the management process if there is one."""
        directory = (os.environ if environment is None else environment).get(DIRECTORY_VARIABLE)
        if directory is None:
            return cls()
        stem = Path(directory) / f"worker-{os.getpid()}-{time.time_ns()}"
        return cls(SharedCounters.create(stem.with_suffix(COUNTERS_SUFFIX)), stem.with_suffix(FACTS_SUFFIX))

    # Requests

    def opened(self) -> None:
        """Count a prediction request as in flight, until `observe`."""
        with self._lock:
            self._values[self._in_flight] += 1

    def observe(self, record: RequestRecord) -> None:
        """Count a prediction request that was answered, or whose client is gone; once for each `opened`."""
        with self._lock:
            self._values[self._in_flight] -= 1
            self._observe(record)

    def observe_batch(self, records: Sequence[RequestRecord]) -> None:
        """Count as `observe` each of the answered requests of a batch, which all have the same phases."""
        by_route: dict[str, list[RequestRecord]] = {}
        for record in records:
            by_route.setdefault(record.route, []).append(record)
        with self._lock:
            self._values[self._in_flight] -= len(records)
            for same in by_route.values():
                if len(same) < _FEW_RECORDS:
                    for record in same:
                        self._observe(record)
                else:
                    self._observe_together(same)

    def request(self, record: RequestRecord) -> None:
        """Count an answered request of a route that makes no predictions."""
        with self._lock:
            self._count(record)

    def refusal(self, reason: str) -> None:
        """Count a rejection before there was a whole request that `observe` or `request` could count."""
        with self._lock:
            self._values[self._offset("glyph_refusals_total", reason)] += 1

    # Connections

    def connections(self, count: int) -> None:
        """Set the number of open connections."""
        self._values[self._connections] = count

    def evicted(self) -> None:
        """Count an idle connection that was closed to make room for a new one."""
        with self._lock:
            self._values[self._evicted] += 1

    # Inference

    def batch(
        self,
        bundle: "Bundle",
        images: npt.NDArray[np.uint8],
        probabilities: npt.NDArray[np.float32],
        padding: int = 0,
    ) -> None:
        """Count an inference from `uint8[n, 28, 28]` to `float32[n, classes]`, both without the padding."""
        with self._lock:
            values, count = self._values, len(images)
            values[self._batch_images + bisect_left(BATCH, count)] += 1
            values[self._batch_images + _SUM_OF_BATCH] += count
            values[self._padding] += padding
            if self._statistics is None or self._statistics.bundle is not bundle:
                self._flush()
                self._statistics = _Statistics(bundle, self._counters, self._offsets)
            self._statistics.add(images, probabilities)

    def queue(self, images: int) -> None:
        """Set the number of images that wait for an inference."""
        self._values[self._queue] = images

    # The model and the process

    def state(self, state: State) -> None:
        """Set the process's state. Safe in a signal handler."""
        self._values[self._state] = STATES.index(state)

    def beat(self) -> None:
        """Advance the heartbeat, which tells that the process is not stuck."""
        self._values[self._heartbeat] += 1

    def ended(self) -> None:
        """Set the state `ended`: the process ends on request. An aborted process stays `aborted`."""
        if STATES[int(self._values[self._state])] != "aborted":
            self.state("ended")

    def loaded(self, seconds: float) -> None:
        """Count a version that was loaded and proven, and set how many seconds it took."""
        with self._lock:
            self._values[self._offset("glyph_model_loads_total", "loaded")] += 1
            self._values[self._offset("glyph_model_load_duration_seconds")] = seconds
            self._values[self._offset("glyph_model_loaded_timestamp_seconds")] = time.time()

    def load_failed(self) -> None:
        """Count a version that failed to load or failed verification."""
        with self._lock:
            self._values[self._offset("glyph_model_loads_total", "refused")] += 1

    def model_store(self, *, reachable: bool) -> None:
        """Set whether the object store of the model could be read."""
        self._values[self._model_store] = reachable

    def fetched(self, *, ok: bool) -> None:
        """Count a version that was fetched from an object store, or failed verification there."""
        with self._lock:
            self._values[self._offset("glyph_model_fetches_total", "fetched" if ok else "refused")] += 1

    def golden(self, *, passed: bool) -> None:
        """Count a replay of a version's golden examples."""
        with self._lock:
            self._values[self._offset("glyph_golden_checks_total", "passed" if passed else "failed")] += 1

    def golden_check(self, *, passed: bool) -> None:
        """Set whether all published versions that were tried gave the recorded probabilities."""
        self._values[self._golden] = passed

    def publish(self, facts: dict[str, Any]) -> None:
        """Write facts that are not numbers for the management process: model, provider, failed versions."""
        if self._facts_path is None:
            return
        staged, document = self._facts_path.with_suffix(".new"), orjson.dumps(facts)
        kept, descriptor = self._facts_descriptor, None
        try:
            try:
                staged.write_bytes(document)
            except OSError:  # no room is left
                descriptor = link_to_memory(staged)
                os.write(descriptor, document)
            staged.replace(self._facts_path)
        except OSError as error:
            log.error("the management port lacks this process's facts: %s", error)  # noqa: TRY400
        self._facts_descriptor = descriptor
        if kept is not None:
            os.close(kept)

    def tick(self) -> None:
        """Compute the statistics of buffered images, and update the process's own metrics. Called once a second."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        with self._lock:
            self._flush()
            cpu = self._offset("process_cpu_seconds_total", "worker")
            self._values[cpu] = usage.ru_utime + usage.ru_stime
            self._values[self._offset("glyph_log_lines_dropped_total")] = logs.dropped_lines()

    def of_service(self) -> Numbers:
        """Return the sums of all that the service's workers count; without a management process, of this one alone.

        What other workers have buffered (`BUFFERED_IMAGES`) is added by their next `tick`.
        """
        with self._lock:
            self._flush()
        own = self._counters.numbers()
        if self._facts_path is None:
            return own
        return sum_numbers([own, numbers_of_others(self._facts_path.with_suffix(COUNTERS_SUFFIX))])

    # The lock must be held for what follows

    def _observe(self, record: RequestRecord) -> None:
        values, phases = self._values, self._phases
        for phase, seconds in record.phases.items():
            offset = phases[phase]
            values[offset + bisect_left(SECONDS, seconds)] += 1
            values[offset + _SUM_OF_SECONDS] += seconds
        self._count(record)

    def _observe_together(self, records: Sequence[RequestRecord]) -> None:
        """Count requests that differ in their seconds only."""
        first, count = records[0], len(records)
        seconds = np.array([[*record.phases.values(), record.seconds] for record in records])
        width = _SUM_OF_SECONDS + 1
        rows = np.arange(seconds.shape[1]) * width
        buckets = np.searchsorted(_SECONDS_ARRAY, seconds) + rows
        histograms = np.bincount(buckets.ravel(), minlength=width * len(rows)).reshape(-1, width)
        answered, duration = self._request_offsets_of(first.route, first.method, first.status)
        self._values[answered] += count
        offsets = [*(self._phases[phase] for phase in first.phases), duration]
        for offset, histogram, total in zip(offsets, histograms, seconds.sum(axis=0).tolist(), strict=True):
            self._counters.array[offset : offset + width] += histogram
            self._values[offset + _SUM_OF_SECONDS] += total

    def _count(self, record: RequestRecord) -> None:
        values, seconds, refusal = self._values, record.seconds, record.refusal
        key = record.route, record.method, CLIENT_GONE_STATUS if refusal == CLIENT_GONE else record.status
        offsets = self._request_offsets.get(key) or self._request_offsets_of(*key)
        values[offsets[0]] += 1
        values[offsets[1] + bisect_left(SECONDS, seconds)] += 1
        values[offsets[1] + _SUM_OF_SECONDS] += seconds
        if refusal:
            values[self._offset("glyph_refusals_total", refusal)] += 1

    def _flush(self) -> None:
        if self._statistics is not None:
            self._statistics.flush()

    def _offset(self, *key: str) -> int:
        offset = self._offsets.get(key)
        if offset is None:
            offset = self._offsets[key] = self._counters.allocate(key)
        return offset

    def _request_offsets_of(self, route: str, method: str, status: int) -> tuple[int, int]:
        """Return the offsets of a request's counter and duration histogram. Unknown methods count as `other`."""
        if method not in METHODS:
            return self._request_offsets.get((route, OTHER, status)) or self._request_offsets_of(
                route, OTHER, status
            )
        offsets = (
            self._offset("glyph_http_requests_total", route, method, str(int(status))),
            self._histogram(("glyph_http_request_duration_seconds", route)),
        )
        self._request_offsets[route, method, status] = offsets
        return offsets

    def _histogram(self, key: tuple[str, ...]) -> int:
        """Return the offset of a histogram: a count for each bucket, the infinite one last, then the sum."""
        offset = self._offsets.get(key)
        if offset is None:
            offset = self._offsets[key] = self._counters.allocate(key, len(CATALOGUE[key[0]].buckets) + 2)
        return offset


class _Statistics:
    """Statistics of one version's images and probabilities, which are buffered and then computed together.

    It refers to no engine, so that an engine that is no longer used can be freed.
    """

    def __init__(
        self, bundle: "Bundle", counters: SharedCounters, offsets: dict[tuple[str, ...], int]
    ) -> None:
        self.bundle = bundle
        self._counters, self._offsets = counters, offsets
        manifest = bundle.manifest
        classes = len(manifest.classes)
        self._images = np.empty((BUFFERED_IMAGES, 28, 28), np.uint8)
        self._probabilities = np.empty((BUFFERED_IMAGES, classes), np.float32)
        self._buffered = 0
        version, digest = str(bundle.version), manifest.digest
        self._classes = self._allocate(classes, "glyph_predictions_total", version, digest, manifest.classes)
        self._drift = {
            feature: self._allocate(len(counts), "drift", feature, version, digest, counts.tolist())
            for feature, counts in drift.references(manifest.reference).items()
        }
        self._edges = {
            "mean_ink": np.array(manifest.reference.mean_ink.edges),
            "border_brightness": np.array(manifest.reference.border_brightness.edges),
        }
        self._confidence = self._allocate(len(PROBABILITY) + 2, "glyph_prediction_confidence")
        self._entropy = self._allocate(len(NATS) + 2, "glyph_prediction_entropy_nats")

    def add(self, images: npt.NDArray[np.uint8], probabilities: npt.NDArray[np.float32]) -> None:
        """Buffer a batch; flush whenever the buffer is full."""
        count = len(images)
        if count > BUFFERED_IMAGES:
            for start in range(0, count, BUFFERED_IMAGES):
                rows = slice(start, start + BUFFERED_IMAGES)
                self.add(images[rows], probabilities[rows])
            return
        if self._buffered + count > BUFFERED_IMAGES:
            self.flush()
        rows = slice(self._buffered, self._buffered + count)
        self._images[rows] = images
        self._probabilities[rows] = probabilities
        self._buffered += count

    def flush(self) -> None:
        """Compute the statistics of the buffered images, and add them to the counters."""
        if not self._buffered:
            return
        images = self._images[: self._buffered]
        probabilities = self._probabilities[: self._buffered].astype(np.float64)
        self._buffered = 0
        predicted = probabilities.argmax(axis=1)
        counts = np.bincount(predicted, minlength=probabilities.shape[1])
        self._classes += counts
        self._drift["class"] += counts
        ink, border = brightness.mean_ink(images), brightness.border_brightness(images)
        self._drift["mean_ink"] += drift.binned(ink, self._edges["mean_ink"])
        self._drift["border_brightness"] += drift.binned(border, self._edges["border_brightness"])
        highest = probabilities[_PLACES[: len(predicted)], predicted]
        _observe_all(self._confidence, _PROBABILITY_ARRAY, highest)
        logarithms = np.log(np.maximum(probabilities, _LEAST_POSITIVE))
        _observe_all(self._entropy, _NATS_ARRAY, -np.einsum("ij,ij->i", probabilities, logarithms))

    def _allocate(self, count: int, *key: Any) -> npt.NDArray[np.float64]:
        if count > MAX_VALUES_PER_KEY:
            return np.zeros(count)  # a metric with that many classes is of no use, so it is not shared
        name = tuple(str(part) for part in key)
        offset = self._offsets.get(name)
        if offset is None:
            offset = self._offsets[name] = self._counters.allocate(key, count)
        return self._counters.array[offset : offset + count]


def _observe_all(
    histogram: npt.NDArray[np.float64], buckets: npt.NDArray[np.float64], values: npt.NDArray[np.float64]
) -> None:
    bins = np.searchsorted(buckets, values, side="left")
    histogram[:-1] += np.bincount(bins, minlength=len(buckets) + 1)
    histogram[-1] += values.sum()
