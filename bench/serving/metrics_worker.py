"""A worker of `bench metrics`: it records the same requests as the service does and by `prometheus-client`.

The library chooses its mode when it is imported, by a variable of the environment, so nothing here imports it before
`work` has set that.
"""

import os
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from bundle import drift
from bundle.golden import GoldenExamples
from bundle.images import brightness
from bundle.manifest import GOLDEN_FILE
from bundle.repository import Bundle
from serving.system.memory_directory import DIRECTORY_VARIABLE
from serving.telemetry.catalogue import CATALOGUE
from serving.telemetry.metrics import BUFFERED_IMAGES, Metrics
from serving.telemetry.request_record import RequestRecord

if TYPE_CHECKING:
    from prometheus_client import Counter, Histogram

LIBRARY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
FAMILIES = (
    "glyph_http_requests_total",
    "glyph_http_request_duration_seconds",
    "glyph_http_requests_in_flight",
    "glyph_refusals_total",
    "glyph_phase_duration_seconds",
    "glyph_batch_images",
    "glyph_padding_images_total",
    "glyph_queue_images",
    "glyph_predictions_total",
    "glyph_prediction_confidence",
    "glyph_prediction_entropy_nats",
)
"""What is recorded of a prediction request and its inference."""
DRIFT_BINS = "glyph_drift_images_total"
"""The library's counter of what `glyph_drift_psi` is computed from."""
ROUTE = "/predict"
LOOP_IMAGES = 1024
"""How many images a round records on each side: a multiple of those that wait, so that each round pays for its own."""
PADDING = 2
"""Of each inference: any number, so that something is counted."""


class Task(NamedTuple):
    """What a worker is to record: inferences of so many requests with so many images each."""

    requests: int
    images: int
    rounds: int = 1


class Recorder(Protocol):
    """What the service calls while it answers a prediction request, and once a second."""

    def opened(self) -> None:
        """A request has arrived."""

    def queue(self, images: int) -> None:
        """So many images wait."""

    def batch(
        self,
        bundle: Bundle,
        images: npt.NDArray[np.uint8],
        probabilities: npt.NDArray[np.float32],
        padding: int = 0,
    ) -> None:
        """An inference was run."""

    def observe(self, record: RequestRecord) -> None:
        """A request is answered."""

    def tick(self) -> None:
        """Flush the buffered statistics."""


class Library:
    """The same by `prometheus_client`, in the mode that the environment has chosen when this is made."""

    def __init__(self, bundle: Bundle) -> None:
        from prometheus_client import CollectorRegistry, Counter

        registry = CollectorRegistry()
        made = {name: _family(name, registry) for name in FAMILIES}
        bins = Counter(DRIFT_BINS, "Images by bin", ("feature", "version", "bin"), registry=registry)
        manifest, version = bundle.manifest, str(bundle.version)
        self._requests = made["glyph_http_requests_total"]
        self._durations = made["glyph_http_request_duration_seconds"]
        self._in_flight = made["glyph_http_requests_in_flight"]
        self._refusals = made["glyph_refusals_total"]
        phases = made["glyph_phase_duration_seconds"]
        self._phases = {
            word: phases.labels(word) for word in CATALOGUE["glyph_phase_duration_seconds"].label_values
        }
        self._batch, self._padding = made["glyph_batch_images"], made["glyph_padding_images_total"]
        self._queue = made["glyph_queue_images"]
        self._classes = [made["glyph_predictions_total"].labels(version, label) for label in manifest.classes]
        self._confidence = made["glyph_prediction_confidence"]
        self._entropy = made["glyph_prediction_entropy_nats"]
        self._drift = [
            (measure, np.array(edges), [bins.labels(feature, version, str(i)) for i in range(len(edges) - 1)])
            for feature, measure, edges in (
                ("mean_ink", brightness.mean_ink, manifest.reference.mean_ink.edges),
                (
                    "border_brightness",
                    brightness.border_brightness,
                    manifest.reference.border_brightness.edges,
                ),
            )
        ]
        self._routes: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._images = np.empty((BUFFERED_IMAGES, 28, 28), np.uint8)
        self._probabilities = np.empty((BUFFERED_IMAGES, len(manifest.classes)), np.float32)
        self._waiting = 0

    def opened(self) -> None:
        """A request has arrived."""
        self._in_flight.inc()

    def queue(self, images: int) -> None:
        """So many images wait."""
        self._queue.set(images)

    def batch(
        self,
        bundle: Bundle,  # noqa: ARG002  there is one
        images: npt.NDArray[np.uint8],
        probabilities: npt.NDArray[np.float32],
        padding: int = 0,
    ) -> None:
        """An inference was run, of no more images than can wait."""
        self._batch.observe(len(images))
        self._padding.inc(padding)
        if self._waiting + len(images) > BUFFERED_IMAGES:
            self.tick()
        rows = slice(self._waiting, self._waiting + len(images))
        self._images[rows], self._probabilities[rows] = images, probabilities
        self._waiting += len(images)

    def observe(self, record: RequestRecord) -> None:
        """A request is answered."""
        self._in_flight.dec()
        for phase, seconds in record.phases.items():
            self._phases[phase].observe(seconds)
        requests, durations = self._routes.get(key := (record.route, record.method, record.status)) or (
            self._route(*key)
        )
        requests.inc()
        durations.observe(record.seconds)
        if record.refusal:
            self._refusals.labels(record.refusal).inc()

    def tick(self) -> None:
        """Count the images that wait."""
        if not self._waiting:
            return
        images = self._images[: self._waiting]
        probabilities = self._probabilities[: self._waiting].astype(np.float64)
        self._waiting = 0
        _add(self._classes, np.bincount(probabilities.argmax(axis=1), minlength=len(self._classes)))
        for measure, edges, bins in self._drift:
            _add(bins, drift.binned(measure(images), edges))
        for confidence in probabilities.max(axis=1).tolist():
            self._confidence.observe(confidence)
        logarithms = np.log(probabilities, where=probabilities > 0, out=np.zeros_like(probabilities))
        for entropy in (-(probabilities * logarithms).sum(axis=1)).tolist():
            self._entropy.observe(entropy)

    def _route(self, route: str, method: str, status: int) -> "tuple[Counter, Histogram]":
        children = self._requests.labels(route, method, str(status)), self._durations.labels(route)
        return self._routes.setdefault((route, method, status), children)


def _add(children: "list[Counter]", counts: npt.NDArray[Any]) -> None:
    for place in counts.nonzero()[0].tolist():
        children[place].inc(counts[place])


def _family(name: str, registry: Any) -> Any:
    """Make a family of the catalogue; the gauges among them are summed over the living."""
    from prometheus_client import Counter, Gauge, Histogram

    metric = CATALOGUE[name]
    common = metric.name, metric.help, metric.labels
    match metric.kind:
        case "counter":
            return Counter(*common, registry=registry)
        case "gauge":
            return Gauge(*common, registry=registry, multiprocess_mode="livesum")
        case "histogram":
            return Histogram(*common, registry=registry, buckets=metric.buckets)


def work(pipe: "Connection[Any, Any]", ours: str, library: str, version: Path) -> None:
    """Be a worker: do each Task and answer with the CPU seconds an image, ours and the library's, of each round."""
    os.environ |= {DIRECTORY_VARIABLE: ours, LIBRARY_VARIABLE: library}
    bundle = Bundle.open(version)
    metrics = Metrics.create()
    metrics.state("ready")
    metrics.publish(_facts(bundle))
    sides: tuple[Recorder, Recorder] = (metrics, Library(bundle))
    inputs = _Inputs(bundle)
    pipe.send(None)
    while (task := pipe.recv()) is not None:
        found = []
        for number in range(task.rounds):
            took = {i: inputs.record(sides[i], task) for i in (0, 1)[:: 1 - 2 * (number % 2)]}
            found.append((took[0], took[1]))
        for side in sides:
            inputs.refuse(side)
            side.tick()
        pipe.send(found)
    metrics.ended()


def _facts(bundle: Bundle) -> dict[str, Any]:
    """Return what the management process has to know of a worker to expose its drift."""
    model = {"name": bundle.manifest.name, "version": bundle.version, "digest": bundle.manifest.digest}
    where = {"provider": "none", "device": "none", "arithmetic": "none"}
    return {"model": model, "loaded": [bundle.version], "refused": []} | where


class _Inputs:
    """Requests as they are when they are over, and the images and outputs of inferences."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        golden = GoldenExamples.from_bytes(bundle.read(GOLDEN_FILE), bundle.manifest)
        self._images = np.resize(golden.images, (LOOP_IMAGES, 28, 28))
        self._probabilities = np.resize(golden.probabilities, (LOOP_IMAGES, golden.probabilities.shape[1]))
        # 0.3 ms a phase, most of them between 0.05 and 2.5.
        phases = np.random.default_rng(0).lognormal(-8, 1, (LOOP_IMAGES, 4)).tolist()
        names = ("queue", "decode", "infer", "encode")
        self._records = [
            RequestRecord(id=f"{number:032x}", method="POST", path=ROUTE, route=ROUTE, status=200,
                          seconds=sum(each), phases=dict(zip(names, each, strict=True)), batch=1)
            for number, each in enumerate(phases)
        ]  # fmt: skip

    def record(self, side: Recorder, task: Task) -> float:
        """Record a round and return the CPU seconds for each image."""
        count = task.requests * task.images
        inferences = [
            (self._images[start : start + count], self._probabilities[start : start + count],
             self._records[start : start + task.requests])
            for start in range(0, LOOP_IMAGES, count)
        ]  # fmt: skip
        started = time.process_time()
        for images, probabilities, records in inferences:
            for _ in records:
                side.opened()
            side.queue(count)
            side.queue(0)
            side.batch(self._bundle, images, probabilities, PADDING)
            for record in records:
                side.observe(record)
        return (time.process_time() - started) / LOOP_IMAGES

    def refuse(self, side: Recorder) -> None:
        """Record a request that is no image."""
        side.opened()
        side.observe(
            RequestRecord(id="0", method="POST", path=ROUTE, route=ROUTE, status=415, seconds=1e-4,
                          phases={"queue": 1e-5}, refusal="unsupported-media-type")
        )  # fmt: skip
