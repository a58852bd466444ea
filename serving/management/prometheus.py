"""Prometheus's metric families, from the workers' counters and by the catalogue."""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import numpy.typing as npt
import orjson
from prometheus_client import Metric as Family
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from bundle import drift
from serving.management.workers import Worker, WorkerRegistry
from serving.security.tokens import TokenFile
from serving.telemetry.catalogue import CATALOGUE, Aggregation, Metric
from serving.telemetry.worker_files import Numbers, sum_numbers

PREDICTIONS = "glyph_predictions_total"
SNAPSHOTS = 60
"""Parts of the drift window. The measured window may be longer by one of them."""

Samples = dict[str, dict[tuple[str, ...], float]]
"""Values by metric and by the values of its labels."""
Histograms = dict[str, dict[tuple[str, ...], npt.NDArray[np.float64]]]
"""Likewise, the counts of the buckets and the sum of the observations."""


class WorkersCollector(Collector):
    """Collects the metrics of all workers for each scrape."""

    def __init__(
        self,
        registry: WorkerRegistry,
        window_seconds: float,
        other_processes: dict[str, tuple[int, ...]],
        tokens: TokenFile | None,
    ) -> None:
        """Create a collector with an empty drift window.

        Args:
            registry: the workers.
            window_seconds: length of the drift window.
            other_processes: process ids, by kind, of processes that are not workers.
            tokens: this process's view of the token file; None if the service needs no tokens.
        """
        self._registry = registry
        self._tokens = tokens
        self._other_processes = other_processes
        self._drift = _DriftWindow(window_seconds)

    def tick(self) -> None:
        """Add a snapshot to the drift window, and read the token file again. Call this once a second."""
        if self._tokens is not None:
            self._tokens.refresh()
        workers, exited = self._registry.scan()
        self._drift.note(sum_numbers([exited.numbers, *(worker.numbers() for worker in workers)]))

    def collect(self) -> Iterable[Family]:
        """Return all families of the catalogue, including those without samples."""
        started = time.perf_counter()
        workers, exited = self._registry.scan()
        living = [worker.numbers() for worker in workers]
        counted = sum_numbers([exited.numbers, *living])
        samples, histograms = _counters_and_histograms(counted)
        _add_gauges(samples, living)
        _add_worker_info(samples, workers)
        _add_processes(samples, workers, self._other_processes)
        samples["glyph_tokens_file_readable"] = {(): float(self._tokens is None or self._tokens.readable)}
        samples["glyph_worker_starts_total"] = {(): float(len(workers) + exited.exits.total())}
        samples["glyph_worker_exits_total"] = {(outcome,): float(n) for outcome, n in exited.exits.items()}
        versions = {version for (version,) in samples["glyph_model_workers"]}
        for version, (images, indices) in self._drift.measure(counted).items():
            if version in versions:
                samples["glyph_drift_window_images"][version,] = images
                for feature, index in indices.items():
                    samples["glyph_drift_psi"][feature, version] = index
        samples["glyph_scrape_duration_seconds"] = {(): time.perf_counter() - started}
        return [_family(metric, samples, histograms) for metric in CATALOGUE.values()]


def _counters_and_histograms(numbers: Numbers) -> tuple[Samples, Histograms]:
    """Return counters and histograms by name and labels."""
    samples: Samples = defaultdict(dict)
    histograms: Histograms = defaultdict(dict)
    for key, values in numbers.items():
        name, *labels = orjson.loads(key)
        if name == PREDICTIONS:
            version, _digest, classes = labels
            for label, count in zip(classes, values.tolist(), strict=True):
                key_labels = (version, label)
                samples[name][key_labels] = samples[name].get(key_labels, 0.0) + count
        elif name in CATALOGUE and CATALOGUE[name].kind == "counter":
            samples[name][tuple(labels)] = float(values[0])
        elif name in CATALOGUE and CATALOGUE[name].kind == "histogram":
            histograms[name][tuple(labels)] = values
    return samples, histograms


def _add_gauges(samples: Samples, living: list[Numbers]) -> None:
    """Add the sum, minimum or maximum of each gauge over the living workers, as the catalogue says."""
    found: dict[str, list[float]] = defaultdict(list)
    for numbers in living:
        for key, values in numbers.items():
            name = orjson.loads(key)[0]
            if name in CATALOGUE and CATALOGUE[name].kind == "gauge":
                found[name].append(float(values[0]))
    over: dict[Aggregation, Callable[[list[float]], float]] = {"sum": sum, "min": min, "max": max}
    for name, of_workers in found.items():
        samples[name][()] = over[CATALOGUE[name].aggregation](of_workers)


def _add_worker_info(samples: Samples, workers: list[Worker]) -> None:
    """Add the workers' states, models and execution providers."""
    for state, living in Counter(worker.state for worker in workers).items():
        samples["glyph_workers"][state,] = living
    published = [worker.facts for worker in workers if worker.facts]
    for facts in published:
        if "model" not in facts:
            continue
        model = facts["model"]
        version = str(model["version"])
        samples["glyph_model_info"][model["name"], version, model["digest"]] = 1
        provider = facts["provider"], facts["device"], facts["arithmetic"]
        samples["glyph_execution_provider_info"][provider] = 1
        count = samples["glyph_model_workers"].get((version,), 0)
        samples["glyph_model_workers"][version,] = count + 1
    if published:
        samples["glyph_model_versions_loaded"] = {(): min(len(facts["loaded"]) for facts in published)}
        samples["glyph_model_versions_refused"] = {(): max(len(facts["refused"]) for facts in published)}


def _add_processes(
    samples: Samples, workers: list[Worker], other_processes: dict[str, tuple[int, ...]]
) -> None:
    """Add the kernel's figures of each process, but not the CPU time of workers, who count it to be kept."""
    for kind, pids in {"worker": tuple(worker.pid for worker in workers), **other_processes}.items():
        found: dict[str, list[float]] = defaultdict(list)
        for pid in pids:
            for family in ProcessCollector(pid=partial(int, pid), registry=None).collect():
                found[family.samples[0].name].append(family.samples[0].value)
        for name, values in found.items():
            if name == "process_cpu_seconds_total" and kind == "worker":
                continue
            over: dict[str, Callable[[list[float]], float]]
            over = {"process_max_fds": max, "process_start_time_seconds": min}
            samples[name][kind,] = over.get(name, sum)(values)


def _family(metric: Metric, samples: Samples, histograms: Histograms) -> Family:
    """Return one family, with 0 for label values that the catalogue knows and that were never counted."""
    known: list[tuple[str, ...]] = [(value,) for value in metric.label_values]
    if not metric.labels:
        known = [()]
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        bounds = [*map(floatToGoString, metric.buckets), "+Inf"]
        for labels, counts in (
            dict.fromkeys(known, np.zeros(len(bounds) + 1)) | histograms[metric.name]
        ).items():
            cumulated = counts[:-1].cumsum().tolist()
            histogram.add_metric(labels, list(zip(bounds, cumulated, strict=True)), float(counts[-1]))
        return histogram
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in (dict.fromkeys(known, 0.0) | samples[metric.name]).items():
        family.add_metric(labels, value)
    return family


class _DriftWindow:
    """Snapshots of the drift counts, the oldest of which is subtracted from the current counts."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._before: deque[tuple[float, Numbers]] = deque([(time.monotonic(), {})])

    def note(self, numbers: Numbers) -> None:
        """Add a snapshot if the last one is old enough, and drop those before the window."""
        now = time.monotonic()
        if now - self._before[-1][0] >= self._seconds / SNAPSHOTS:
            self._before.append((now, {key: values for key, values in numbers.items() if _is_drift(key)}))
        while len(self._before) > 1 and now - self._before[1][0] >= self._seconds:
            self._before.popleft()

    def measure(self, numbers: Numbers) -> dict[str, tuple[float, dict[str, float]]]:
        """Return by version the number of images in the window, and the population stability index of each feature."""
        before = self._before[0][1]
        found: dict[str, tuple[float, dict[str, float]]] = {}
        for key, values in numbers.items():
            if not _is_drift(key):
                continue
            _, feature, version, _digest, reference = orjson.loads(key)
            recent = values - before[key] if key in before else values
            _, indices = found.get(version, (0.0, {}))
            indices[feature] = drift.psi(recent, np.array(reference))
            found[version] = (float(recent.sum()), indices)
        return found


def _is_drift(key: bytes) -> bool:
    return key.startswith(b'["drift",')
