"""What a process measures of its own work. Recording is a few additions in memory; reading is another's.

Called by:
    Pipeline.open, Pipeline.close    `opened`, `observe`: each exchange, once each
    the batcher, or Pipeline.answer  `batch` after each inference, `queue` when its depth changes
    what is around Flask's routes      `request`, for what the pipeline does not answer
    ModelState                       `loaded`, `refused`, `golden`, `state`
    the inference worker             `connections`, several times a second; `evicted`
    both worker classes              `beat`, whenever the arbiter is told that the process is alive
    the housekeeper                  `tick`, once a second
"""

import logging
import os
import resource
import threading
import time
from bisect import bisect_left
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import orjson

from bundle import drift
from serving.system.memory_directory import DIRECTORY_VARIABLE
from serving.telemetry import logs
from serving.telemetry.catalogue import CATALOGUE, NATS, PROBABILITY, SECONDS
from serving.telemetry.request_record import RequestRecord
from serving.telemetry.shared_memory import LARGEST_RUN, SharedCounters, linked

if TYPE_CHECKING:
    from bundle.repository import Bundle

log = logging.getLogger("glyph.serving")

SLOTS_SUFFIX, FACTS_SUFFIX = ".slots", ".json"

State = Literal["starting", "ready", "unready", "draining", "ended", "aborted"]
STATES: tuple[State, ...] = ("starting", "ready", "unready", "draining", "ended", "aborted")
STATE, HEARTBEAT = 0, 1
"""The places of two values that are read alone."""

OTHER = "other"
CLIENT_GONE = "client-gone"
"""As `RequestRecord.refusal`: nobody waits for the answer any more, and nothing was computed."""
CLIENT_GONE_STATUS = 499
"""No status that is sent, but the one by which proxies log the same."""
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", OTHER))
_SUM_OF_SECONDS = len(SECONDS) + 1

WAITING_IMAGES = 256
"""Images whose statistics are taken together: in a batch of one, NumPy's calls would cost more than the model."""


class Metrics:
    """One process's recorder."""

    def __init__(self, slots: SharedCounters | None = None, facts: Path | None = None) -> None:
        self._slots = slots or SharedCounters.anonymous()
        self._facts_path = facts
        self._facts_descriptor: int | None = None  # of memory, where there was no room for a file
        self._lock = threading.RLock()
        self._values = self._slots.values
        self._places: dict[tuple[str, ...], int] = {}
        self._statistics: _Statistics | None = None
        self._state = self._place("state")  # at STATE, and the next at HEARTBEAT
        self._heartbeat = self._place("heartbeat")
        self._in_flight = self._place("glyph_http_requests_in_flight")
        self._queue = self._place("glyph_queue_images")
        self._connections = self._place("glyph_connections")
        self._evicted = self._place("glyph_connections_evicted_total")
        self._golden = self._place("glyph_golden_check_passed")
        self.golden_check(passed=True)
        self._padding = self._place("glyph_padding_images_total")
        phases = CATALOGUE["glyph_phase_duration_seconds"].known
        self._phases = {phase: self._run(("glyph_phase_duration_seconds", phase)) for phase in phases}
        self._requests: dict[tuple[str, str, int], tuple[int, int]] = {}

    @classmethod
    def create(cls, environment: Mapping[str, str] | None = None) -> "Metrics":
        """Return this process's recorder, shared with the management process where there is one."""
        directory = (os.environ if environment is None else environment).get(DIRECTORY_VARIABLE)
        if directory is None:
            return cls()
        stem = Path(directory) / f"worker-{os.getpid()}-{time.time_ns()}"
        return cls(SharedCounters.create(stem.with_suffix(SLOTS_SUFFIX)), stem.with_suffix(FACTS_SUFFIX))

    # Requests

    def opened(self) -> None:
        """A prediction request has arrived; `observe` takes it off again."""
        with self._lock:
            self._values[self._in_flight] += 1

    def observe(self, record: RequestRecord) -> None:
        """A prediction request is answered (or its client is gone): count it, once for each `opened`."""
        values, phases = self._values, self._phases
        with self._lock:
            values[self._in_flight] -= 1
            for phase, seconds in record.phases.items():
                # What `_histogram` does, without its calls: this is the one place where they would show.
                place = phases[phase]
                values[place + bisect_left(SECONDS, seconds)] += 1
                values[place + _SUM_OF_SECONDS] += seconds
            self._count(record)

    def request(self, record: RequestRecord) -> None:
        """Count an answered request of another route."""
        with self._lock:
            self._count(record)

    def refusal(self, reason: str) -> None:
        """Count a refusal of what never became a request that `observe` or `request` could count."""
        with self._lock:
            self._values[self._place("glyph_refusals_total", reason)] += 1

    # Connections

    def connections(self, count: int) -> None:
        """Set how many connections are open now."""
        self._values[self._connections] = count

    def evicted(self) -> None:
        """Count an idle connection that was closed for a new one."""
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
        """An inference was run: `uint8[n, 28, 28]` to `float32[n, classes]`, neither of them with the padding."""
        with self._lock:
            self._histogram(("glyph_batch_images",), len(images))
            self._values[self._padding] += padding
            if self._statistics is None or self._statistics.bundle is not bundle:
                self._flush()
                self._statistics = _Statistics(bundle, self._slots, self._places)
            self._statistics.add(images, probabilities)

    def queue(self, images: int) -> None:
        """Set how many images wait for an inference now."""
        self._values[self._queue] = images

    # The model and the process

    def state(self, state: State) -> None:
        """Say what this process is doing; safe in a signal handler."""
        self._values[self._state] = STATES.index(state)

    def beat(self) -> None:
        """Say that the process is not stuck."""
        self._values[self._heartbeat] += 1

    def ended(self) -> None:
        """Say that this process ends because it was asked to, unless it was aborted."""
        if STATES[int(self._values[self._state])] != "aborted":
            self.state("ended")

    def loaded(self, seconds: float) -> None:
        """Count a version that was loaded and proven, in so many seconds."""
        with self._lock:
            self._values[self._place("glyph_model_loads_total", "loaded")] += 1
            self._values[self._place("glyph_model_load_duration_seconds")] = seconds
            self._values[self._place("glyph_model_loaded_timestamp_seconds")] = time.time()

    def refused(self) -> None:
        """Count a version that could not be loaded or proven."""
        with self._lock:
            self._values[self._place("glyph_model_loads_total", "refused")] += 1

    def golden(self, *, passed: bool) -> None:
        """Count a replay of golden examples."""
        with self._lock:
            self._values[self._place("glyph_golden_checks_total", "passed" if passed else "failed")] += 1

    def golden_check(self, *, passed: bool) -> None:
        """Set whether every version that is published gives its recorded answers, as far as it was tried."""
        self._values[self._golden] = passed

    def publish(self, facts: dict[str, Any]) -> None:
        """Let the management process know facts that are not numbers: model, provider, what was refused."""
        if self._facts_path is None:
            return
        staged, document = self._facts_path.with_suffix(".new"), orjson.dumps(facts)
        kept, descriptor = self._facts_descriptor, None
        try:
            try:
                staged.write_bytes(document)
            except OSError:  # there is no room
                descriptor = linked(staged)
                os.write(descriptor, document)
            staged.replace(self._facts_path)
        except OSError as error:
            log.error("the management port lacks this process's facts: %s", error)  # noqa: TRY400
        self._facts_descriptor = descriptor
        if kept is not None:
            os.close(kept)

    def tick(self) -> None:
        """Count what waits to be counted, and look at this process itself; once a second."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        with self._lock:
            self._flush()
            cpu = self._place("process_cpu_seconds_total", "worker")
            self._values[cpu] = usage.ru_utime + usage.ru_stime
            self._values[self._place("glyph_log_lines_dropped_total")] = logs.dropped()

    # Below: with the lock held

    def _count(self, record: RequestRecord) -> None:
        values, seconds, refusal = self._values, record.seconds, record.refusal
        key = record.route, record.method, CLIENT_GONE_STATUS if refusal == CLIENT_GONE else record.status
        places = self._requests.get(key) or self._route(*key)
        values[places[0]] += 1
        values[places[1] + bisect_left(SECONDS, seconds)] += 1
        values[places[1] + _SUM_OF_SECONDS] += seconds
        if refusal:
            values[self._place("glyph_refusals_total", refusal)] += 1

    def _flush(self) -> None:
        if self._statistics is not None:
            self._statistics.flush()

    def _place(self, *key: str) -> int:
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = self._slots.allocate(key)
        return place

    def _route(self, route: str, method: str, status: int) -> tuple[int, int]:
        """Return where to count requests and their durations; a method that a client made up has no place."""
        if method not in METHODS:
            return self._requests.get((route, OTHER, status)) or self._route(route, OTHER, status)
        places = (
            self._place("glyph_http_requests_total", route, method, str(int(status))),
            self._run(("glyph_http_request_duration_seconds", route)),
        )
        self._requests[route, method, status] = places
        return places

    def _run(self, key: tuple[str, ...]) -> int:
        """Return the place of a histogram: a value for each bucket, the infinite one last, then the sum."""
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = self._slots.allocate(key, len(CATALOGUE[key[0]].buckets) + 2)
        return place

    def _histogram(self, key: tuple[str, ...], value: float) -> None:
        buckets = CATALOGUE[key[0]].buckets
        place = self._run(key)
        self._values[place + bisect_left(buckets, value)] += 1
        self._values[place + len(buckets) + 1] += value


class _Statistics:
    """Images and probabilities of one model that are not counted yet, and where to count them.

    It keeps no engine, so that a model that nobody asks any more is freed.
    """

    def __init__(self, bundle: "Bundle", slots: SharedCounters, places: dict[tuple[str, ...], int]) -> None:
        self.bundle = bundle
        self._slots, self._places = slots, places
        manifest = bundle.manifest
        classes = len(manifest.classes)
        self._images = np.empty((WAITING_IMAGES, 28, 28), np.uint8)
        self._probabilities = np.empty((WAITING_IMAGES, classes), np.float32)
        self._waiting = 0
        version, digest = str(bundle.version), manifest.digest
        self._classes = self._run(classes, "glyph_predictions_total", version, digest, manifest.classes)
        self._drift = {
            feature: self._run(len(counts), "drift", feature, version, digest, counts.tolist())
            for feature, counts in drift.references(manifest.reference).items()
        }
        self._edges = {
            "mean_ink": np.array(manifest.reference.mean_ink.edges),
            "border_brightness": np.array(manifest.reference.border_brightness.edges),
        }
        self._confidence = self._run(len(PROBABILITY) + 2, "glyph_prediction_confidence")
        self._entropy = self._run(len(NATS) + 2, "glyph_prediction_entropy_nats")

    def add(self, images: npt.NDArray[np.uint8], probabilities: npt.NDArray[np.float32]) -> None:
        """Take a batch in, and count whenever there is no more room."""
        for start in range(0, len(images), WAITING_IMAGES):
            part = images[start : start + WAITING_IMAGES]
            if self._waiting + len(part) > WAITING_IMAGES:
                self.flush()
            rows = slice(self._waiting, self._waiting + len(part))
            self._images[rows] = part
            self._probabilities[rows] = probabilities[start : start + WAITING_IMAGES]
            self._waiting += len(part)

    def flush(self) -> None:
        """Count what waits."""
        if not self._waiting:
            return
        images = self._images[: self._waiting]
        probabilities = self._probabilities[: self._waiting].astype(np.float64)
        self._waiting = 0
        predicted = probabilities.argmax(axis=1)
        counts = np.bincount(predicted, minlength=probabilities.shape[1])
        self._classes += counts
        self._drift["class"] += counts
        ink, border = drift.mean_ink(images), drift.border_brightness(images)
        self._drift["mean_ink"] += drift.binned(ink, self._edges["mean_ink"])
        self._drift["border_brightness"] += drift.binned(border, self._edges["border_brightness"])
        _count(self._confidence, PROBABILITY, probabilities.max(axis=1))
        logarithms = np.log(probabilities, where=probabilities > 0, out=np.zeros_like(probabilities))
        _count(self._entropy, NATS, -(probabilities * logarithms).sum(axis=1))

    def _run(self, count: int, *key: Any) -> npt.NDArray[np.float64]:
        if count > LARGEST_RUN:
            return np.zeros(count)  # nobody needs a metric with that many classes
        name = tuple(str(part) for part in key)
        place = self._places.get(name)
        if place is None:
            place = self._places[name] = self._slots.allocate(key, count)
        return self._slots.array[place : place + count]


def _count(run: npt.NDArray[np.float64], buckets: tuple[float, ...], values: npt.NDArray[np.float64]) -> None:
    places = np.searchsorted(buckets, values, side="left")
    run[:-1] += np.bincount(places, minlength=len(buckets) + 1)
    run[-1] += values.sum()
