"""The catalogue of metrics: name, kind, labels, buckets and help of every metric that the service exposes.

Names and units follow Prometheus's conventions (prometheus.io/docs/practices/naming): base units in the name, and
counters end in `_total`. The code that records metrics, the code that exposes them and the table in
docs/operations.md all use the catalogue, so they cannot differ.
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
    """Upper bounds of a histogram, without the infinite one."""
    label_values: tuple[str, ...] = ()
    """Values of its only label that are exposed from the start, with the value 0."""
    aggregation: Aggregation = "sum"
    """How the values of a gauge are combined over the live workers. Counters and histograms are summed."""


CATALOGUE: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        # Requests
        Metric(
            name="glyph_http_requests_total",
            kind="counter",
            labels=("route", "method", "status"),
            help="Requests answered, by route, method and status; route 'other' stands for all unknown paths, status "
            "499 for clients that closed the connection first",
        ),
        Metric(
            name="glyph_http_request_duration_seconds",
            kind="histogram",
            labels=("route",),
            buckets=SECONDS,
            help="Time from a request's last byte to its finished answer",
        ),
        Metric(
            name="glyph_http_requests_in_flight",
            kind="gauge",
            help="Prediction requests that have arrived and have not been answered yet",
        ),
        Metric(
            name="glyph_connections",
            kind="gauge",
            help="Open connections of the inference workers; a worker that has GLYPH_CONNECTIONS closes idle ones for "
            "new ones",
        ),
        Metric(
            name="glyph_connections_evicted_total",
            kind="counter",
            help="Idle connections closed to make room for new ones",
        ),
        Metric(
            name="glyph_refusals_total",
            kind="counter",
            labels=("reason",),
            help="Requests rejected, shed or failed, by the kind of problem (the last word of its type), "
            "malformed-request or client-gone",
        ),
        Metric(
            name="glyph_phase_duration_seconds",
            kind="histogram",
            labels=("phase",),
            buckets=SECONDS,
            label_values=("decode", "queue", "infer", "encode"),
            help="Time that prediction requests spent in each phase: decode, queue, infer, encode",
        ),
        # Batches and the queue
        Metric(
            name="glyph_batch_images",
            kind="histogram",
            buckets=BATCH,
            help="Images in each inference, without padding",
        ),
        Metric(
            name="glyph_padding_images_total",
            kind="counter",
            help="Blank images computed to pad batches to a fixed size",
        ),
        Metric(
            name="glyph_queue_images",
            kind="gauge",
            help="Images that wait for an inference; with gthread, requests",
        ),
        # Predictions and drift
        Metric(
            name="glyph_predictions_total",
            kind="counter",
            labels=("version", "class"),
            help="Images classified, by model version and most probable class",
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
            help="Population stability index of mean_ink, border_brightness or class, of the last "
            "GLYPH_DRIFT_WINDOW_SECONDS against the validation set; NaN for fewer than 100 images",
        ),
        Metric(
            name="glyph_drift_window_images",
            kind="gauge",
            labels=("version",),
            help="Number of images that glyph_drift_psi is computed from",
        ),
        # The model
        Metric(
            name="glyph_model_info",
            kind="gauge",
            labels=("name", "version", "digest"),
            help="1 for each model version that at least one worker serves by default",
        ),
        Metric(
            name="glyph_execution_provider_info",
            kind="gauge",
            labels=("provider", "device", "arithmetic"),
            help="1 for each execution provider in use, with its device and the precision of the first layer",
        ),
        Metric(
            name="glyph_model_workers",
            kind="gauge",
            labels=("version",),
            help="Workers that serve this version; if two versions persist, a reload is stuck",
        ),
        Metric(
            name="glyph_model_versions_loaded",
            kind="gauge",
            help="Versions loaded in every worker, including the served one",
            aggregation="min",
        ),
        Metric(
            name="glyph_model_versions_refused",
            kind="gauge",
            help="Published versions that failed verification and are not served",
            aggregation="max",
        ),
        Metric(
            name="glyph_model_loads_total",
            kind="counter",
            labels=("outcome",),
            label_values=("loaded", "refused"),
            help="Attempts to load a version, at the start and by reload: loaded, or refused (failed verification)",
        ),
        Metric(
            name="glyph_model_load_duration_seconds",
            kind="gauge",
            help="Time of the last load in the slowest worker, including hashing and golden examples",
            aggregation="max",
        ),
        Metric(
            name="glyph_model_loaded_timestamp_seconds",
            kind="gauge",
            help="Unix time at which the last worker loaded the served version",
            aggregation="max",
        ),
        Metric(
            name="glyph_model_store_up",
            kind="gauge",
            help="0 while the object store of GLYPH_MODEL cannot be read, so that new versions do not arrive; "
            "otherwise 1, also where the model is a directory",
            aggregation="min",
        ),
        Metric(
            name="glyph_model_fetches_total",
            kind="counter",
            labels=("outcome",),
            label_values=("fetched", "refused"),
            help="Versions fetched from an object store: fetched, or refused (incomplete, too large or changed)",
        ),
        Metric(
            name="glyph_golden_check_passed",
            kind="gauge",
            help="0 while a published version gives other probabilities for its golden examples than the recorded "
            "ones in some worker, otherwise 1",
            aggregation="min",
        ),
        Metric(
            name="glyph_golden_checks_total",
            kind="counter",
            labels=("outcome",),
            label_values=("passed", "failed"),
            help="Replays of a version's golden examples: passed or failed",
        ),
        # Workers
        Metric(
            name="glyph_workers",
            kind="gauge",
            labels=("state",),
            label_values=("starting", "ready", "unready", "stuck", "draining"),
            help="Workers by state: starting, ready, unready (no proven model), stuck (silent for 5 s), draining",
        ),
        Metric(
            name="glyph_worker_starts_total", kind="counter", help="Workers started since the service started"
        ),
        Metric(
            name="glyph_worker_exits_total",
            kind="counter",
            labels=("how",),
            label_values=("ended", "died"),
            help="Workers that have exited: ended (on request), or died (killed, crashed, timed out)",
        ),
        # Tokens and the log
        Metric(
            name="glyph_tokens_file_readable",
            kind="gauge",
            help="0 while GLYPH_TOKENS_FILE cannot be read, so that new tokens and revocations have no effect; "
            "otherwise 1, also where no token is required",
        ),
        Metric(
            name="glyph_log_lines_dropped_total",
            kind="counter",
            help="Log lines of the workers dropped because standard output or standard error was blocked",
        ),
        # Processes, as prometheus_client's process collector names them
        Metric(
            name="process_cpu_seconds_total",
            kind="counter",
            labels=("process",),
            help="User and system CPU time of the worker (all workers so far), arbiter and management processes",
        ),
        Metric(
            name="process_resident_memory_bytes",
            kind="gauge",
            labels=("process",),
            help="Resident memory; pages that processes share are counted for each of them",
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
            help="Limit of open file descriptors of one process of this kind",
        ),
        Metric(
            name="process_start_time_seconds",
            kind="gauge",
            labels=("process",),
            help="Unix time at which the oldest process of this kind started",
        ),
        Metric(
            name="glyph_scrape_duration_seconds",
            kind="gauge",
            help="Time that it took to collect these metrics",
        ),
    )
}
