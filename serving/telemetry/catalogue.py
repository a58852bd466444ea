"""Every metric that the service exposes: its name, kind, labels and meaning, in one table.

Names and units are Prometheus's conventions (prometheus.io/docs/practices/naming): base units in
the name, counters end in `_total`. The recorder and the exposition take name, labels and buckets
from here, and docs/operations.md is printed from it, so that the three cannot differ.
"""

from dataclasses import dataclass
from typing import Literal

SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01),
    *(0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
BATCH = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
PROBABILITY = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)
NATS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)

Kind = Literal["counter", "gauge", "histogram"]
Aggregation = Literal["sum", "min", "max"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One metric family."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram, the infinite one left out."""
    label_values: tuple[str, ...] = ()
    """Values of its one label that are exposed from the start, as 0 until there is something to count."""
    aggregation: Aggregation = "sum"
    """How a gauge's values of the live workers become the pod's; counters and histograms are summed."""


CATALOGUE: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        # Requests
        Metric(
            name="glyph_http_requests_total",
            kind="counter",
            labels=("route", "method", "status"),
            help="Requests answered, by route, method and status; the route 'other' is no route of ours, the "
            "status 499 a client that was gone",
        ),
        Metric(
            name="glyph_http_request_duration_seconds",
            kind="histogram",
            labels=("route",),
            buckets=SECONDS,
            help="Time from a whole request to its whole answer",
        ),
        Metric(
            name="glyph_http_requests_in_flight",
            kind="gauge",
            help="Prediction requests that have arrived and are not answered yet",
        ),
        Metric(
            name="glyph_connections",
            kind="gauge",
            help="Connections that the inference workers have open; at GLYPH_CONNECTIONS for each, idle ones are "
            "closed for new ones",
        ),
        Metric(
            name="glyph_connections_evicted_total",
            kind="counter",
            help="Idle connections that were closed for new ones",
        ),
        Metric(
            name="glyph_refusals_total",
            kind="counter",
            labels=("reason",),
            help="Requests not answered as asked, by the kind of problem (the last word of its type); also "
            "malformed-request and client-gone",
        ),
        Metric(
            name="glyph_phase_duration_seconds",
            kind="histogram",
            labels=("phase",),
            buckets=SECONDS,
            label_values=("decode", "queue", "infer", "encode"),
            help="Time a prediction request spent in each phase: decode, queue, infer, encode",
        ),
        # Batches and the queue
        Metric(
            name="glyph_batch_images",
            kind="histogram",
            buckets=BATCH,
            help="Images run in one inference, padding not counted",
        ),
        Metric(
            name="glyph_padding_images_total",
            kind="counter",
            help="Empty images computed to fill a batch up to its bucket",
        ),
        Metric(
            name="glyph_queue_images",
            kind="gauge",
            help="Images that wait for an inference at this moment; gthread: requests",
        ),
        # Predictions and drift
        Metric(
            name="glyph_predictions_total",
            kind="counter",
            labels=("version", "class"),
            help="Images classified, by the model's version and the most probable class",
        ),
        Metric(
            name="glyph_prediction_confidence",
            kind="histogram",
            buckets=PROBABILITY,
            help="Calibrated probability of the most probable class",
        ),
        Metric(
            name="glyph_prediction_entropy_nats",
            kind="histogram",
            buckets=NATS,
            help="Entropy of the predicted distribution",
        ),
        Metric(
            name="glyph_drift_psi",
            kind="gauge",
            labels=("feature", "version"),
            help="Population stability index of mean_ink, border_brightness or class in the last "
            "GLYPH_DRIFT_WINDOW_SECONDS against the validation set; NaN below 100 images",
        ),
        Metric(
            name="glyph_drift_window_images",
            kind="gauge",
            labels=("version",),
            help="Images that glyph_drift_psi is computed from",
        ),
        # The model
        Metric(
            name="glyph_model_info",
            kind="gauge",
            labels=("name", "version", "digest"),
            help="1 for each model version that some worker answers with unless asked for another",
        ),
        Metric(
            name="glyph_execution_provider_info",
            kind="gauge",
            labels=("provider", "device", "arithmetic"),
            help="1 for each execution provider in use, its device, and the arithmetic of the first layer",
        ),
        Metric(
            name="glyph_model_workers",
            kind="gauge",
            labels=("version",),
            help="Workers that answer with this version; two versions for long mean a stuck reload",
        ),
        Metric(
            name="glyph_model_versions_loaded",
            kind="gauge",
            help="Versions that every worker holds in memory, the served one included",
            aggregation="min",
        ),
        Metric(
            name="glyph_model_versions_refused",
            kind="gauge",
            help="Published versions that could not be proven, and are not served",
            aggregation="max",
        ),
        Metric(
            name="glyph_model_loads_total",
            kind="counter",
            labels=("outcome",),
            label_values=("loaded", "refused"),
            help="Attempts to load a version, at start and by reload: loaded or refused",
        ),
        Metric(
            name="glyph_model_load_duration_seconds",
            kind="gauge",
            help="Time that the last load took, with hashing and golden examples, in the slowest worker",
            aggregation="max",
        ),
        Metric(
            name="glyph_model_loaded_timestamp_seconds",
            kind="gauge",
            help="Unix time at which the served version was loaded, of the last worker to do so",
            aggregation="max",
        ),
        Metric(
            name="glyph_golden_check_passed",
            kind="gauge",
            help="0 while a published version is refused because a worker's replay of its golden examples gave "
            "other answers than the recorded ones, else 1",
            aggregation="min",
        ),
        Metric(
            name="glyph_golden_checks_total",
            kind="counter",
            labels=("outcome",),
            label_values=("passed", "failed"),
            help="Replays of a version's golden examples: passed or failed",
        ),
        # Processes
        Metric(
            name="glyph_workers",
            kind="gauge",
            labels=("state",),
            label_values=("starting", "ready", "unready", "stuck", "draining"),
            help="Workers by state: starting, ready, unready (no proven model), stuck (silent for 5 s), draining",
        ),
        Metric(
            name="glyph_worker_starts_total", kind="counter", help="Workers started since the service was"
        ),
        Metric(
            name="glyph_worker_exits_total",
            kind="counter",
            labels=("how",),
            label_values=("ended", "died"),
            help="Workers that are gone: ended (asked to), or died (killed, crashed, timed out)",
        ),
        # Access
        Metric(
            name="glyph_tokens_file_readable",
            kind="gauge",
            help="0 while GLYPH_TOKENS_FILE cannot be read, so that new tokens and revocations have no effect; 1 else, "
            "and where nobody is asked for a token",
        ),
        Metric(
            name="glyph_log_lines_dropped_total",
            kind="counter",
            help="Log lines of the workers that were dropped because standard output or error did not take them",
        ),
        Metric(
            name="process_cpu_seconds_total",
            kind="counter",
            labels=("process",),
            help="User and system CPU time: worker (all there were), arbiter, management",
        ),
        Metric(
            name="process_resident_memory_bytes",
            kind="gauge",
            labels=("process",),
            help="Resident memory, pages shared between processes counted in each",
        ),
        Metric(
            name="process_virtual_memory_bytes",
            kind="gauge",
            labels=("process",),
            help="Virtual memory",
        ),
        Metric(name="process_open_fds", kind="gauge", labels=("process",), help="Open file descriptors"),
        Metric(
            name="process_max_fds",
            kind="gauge",
            labels=("process",),
            help="Most file descriptors that one process of the kind may open",
        ),
        Metric(
            name="process_start_time_seconds",
            kind="gauge",
            labels=("process",),
            help="Unix time at which the oldest process of the kind was started",
        ),
        Metric(
            name="glyph_scrape_duration_seconds",
            kind="gauge",
            help="Time that it took to gather these metrics",
        ),
    )
}
