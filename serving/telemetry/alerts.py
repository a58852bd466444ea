"""Alerts as Prometheus alerting rules. `python -m serving.reference --rules` prints them as a rules file."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """One alerting rule. Thresholds are starting points, to be adjusted after a week of traffic."""

    name: str
    expression: str
    """PromQL. Each series that it returns is an alert."""
    duration: str
    """How long the expression must hold before the alert fires (`for`), in Prometheus's notation."""
    severity: Literal["page", "ticket"]
    """`page` wakes a person, `ticket` waits for the morning."""
    summary: str
    """What is wrong."""
    description: str
    """What to do."""
    gpu: bool = False
    """Whether the alert is useful only where a GPU is expected."""


ALERTS = (
    Alert(
        name="GlyphDown",
        expression='up{job="glyph"} == 0',
        duration="2m",
        severity="page",
        summary="The management port does not answer, and most likely the service does not either.",
        description="Check the pod's state, its exit code (docs/operations.md) and the end of its log.",
    ),
    Alert(
        name="GlyphNotReady",
        expression='glyph_workers{state="ready"} == 0',
        duration="2m",
        severity="page",
        summary="No worker of this instance is ready to answer predictions.",
        description="GET /readyz on the management port: the answer has the reason and the remedy.",
    ),
    Alert(
        name="GlyphErrors",
        expression='sum by (instance) (rate(glyph_http_requests_total{status="500"}[5m])) > 0',
        duration="5m",
        severity="page",
        summary="Requests fail with an unexpected error (status 500).",
        description="The log has the traceback and the request id of each.",
    ),
    Alert(
        name="GlyphOverloaded",
        expression='sum by (instance) (rate(glyph_refusals_total{reason="overloaded"}[5m])) > 1',
        duration="5m",
        severity="page",
        summary="The instance is overloaded and sheds requests with 503 and Retry-After.",
        description="Add instances. A longer queue (GLYPH_QUEUE_LIMIT) helps only against bursts.",
    ),
    Alert(
        name="GlyphDeadlines",
        expression='sum by (instance) (rate(glyph_refusals_total{reason="deadline-exceeded"}[5m])) > 1',
        duration="5m",
        severity="ticket",
        summary="Requests exceed their deadline and are answered 504.",
        description="Compare the phases queue and infer: if queue is long, add instances; if infer is long, add CPU.",
    ),
    Alert(
        name="GlyphSlow",
        expression="histogram_quantile(0.99, sum by (instance, le) "
        '(rate(glyph_http_request_duration_seconds_bucket{route="/predict"}[5m]))) > 0.25',
        duration="10m",
        severity="ticket",
        summary="One request in a hundred takes longer than 250 ms.",
        description="glyph_phase_duration_seconds shows which phase is slow. Forms with many files "
        "take long to decode.",
    ),
    Alert(
        name="GlyphWorkersDie",
        expression='increase(glyph_worker_exits_total{how="died"}[15m]) > 0',
        duration="0m",
        severity="ticket",
        summary="A worker was killed, crashed, got stuck or lost its GPU. It was replaced, but its requests in flight "
        "failed.",
        description="The log has the signal or the reason. SIGKILL most often means that memory ran out: compare "
        "process_resident_memory_bytes with the limit.",
    ),
    Alert(
        name="GlyphWorkersStuck",
        expression='glyph_workers{state="stuck"} > 0',
        duration="0m",
        severity="ticket",
        summary="A worker is stopped or stuck: it answers nothing, and the connections that it has accepted wait.",
        description="It is replaced after GLYPH_TIMEOUT_SECONDS. If this happens again, look for CPU throttling and "
        "blocked volumes.",
    ),
    Alert(
        name="GlyphTokensUnreadable",
        expression="glyph_tokens_file_readable == 0",
        duration="1m",
        severity="page",
        summary="The tokens file was changed and cannot be read: revoked tokens are still accepted.",
        description="The log says what is wrong: the path, its permissions, or a line. The file is read again "
        "each second.",
    ),
    Alert(
        name="GlyphVersionRefused",
        expression="glyph_model_versions_refused > 0",
        duration="1m",
        severity="ticket",
        summary="A published version failed verification; an older one keeps serving.",
        description="The reason is in /readyz (refused) and in the log. Repair or remove the version. It is tried "
        "again when its files change.",
    ),
    Alert(
        name="GlyphModelStoreDown",
        expression="glyph_model_store_up == 0",
        duration="15m",
        severity="ticket",
        summary="The object store of GLYPH_MODEL cannot be read: new versions do not arrive, and new pods get none.",
        description="The log has the store's answer: look at the network policy, the credentials and the bucket. What "
        "is loaded serves on.",
    ),
    Alert(
        name="GlyphGoldenFailed",
        expression="glyph_golden_check_passed == 0",
        duration="1m",
        severity="page",
        summary="A version does not give the recorded probabilities of its golden examples on this machine.",
        description="If other machines accept it, suspect this one's driver, GPU or processor; otherwise "
        "publish it again.",
    ),
    Alert(
        name="GlyphVersionsDiffer",
        expression="count(count by (version) (glyph_model_workers)) > 1",
        duration="10m",
        severity="ticket",
        summary="Workers serve different versions for longer than a reload takes.",
        description="See which instance is behind (glyph_model_workers) and why (its /readyz): a pinned version, a "
        "version that failed verification, or a volume on which it does not see the new one.",
    ),
    Alert(
        name="GlyphOnCpu",
        expression='glyph_execution_provider_info{provider="cpu"} == 1',
        duration="5m",
        severity="ticket",
        gpu=True,
        summary="The model runs on the CPU. Use this alert only where a GPU is expected.",
        description="The log says why CUDA does not work. With GLYPH_PROVIDER=cuda the service does not start "
        "without it.",
    ),
    Alert(
        name="GlyphDrift",
        expression="glyph_drift_psi > 0.25",
        duration="30m",
        severity="ticket",
        summary="The distribution of images or predictions differs from the validation set's.",
        description="Only border_brightness: images are inverted; look for the warning in answers. Only class: the mix "
        "of classes has changed. All: the images are different; label some, measure, and train again.",
    ),
    Alert(
        name="GlyphUnsure",
        expression='sum by (instance) (rate(glyph_prediction_confidence_bucket{le="0.5"}[1h])) '
        "/ sum by (instance) (rate(glyph_prediction_confidence_count[1h])) > 0.1",
        duration="1h",
        severity="ticket",
        summary="In more than a tenth of the images no class has a probability above 0.5.",
        description="As for GlyphDrift. Callers can use ?threshold= to get no label for such images.",
    ),
    Alert(
        name="GlyphLogLinesDropped",
        expression="sum by (instance) (increase(glyph_log_lines_dropped_total[15m])) > 0",
        duration="0m",
        severity="ticket",
        summary="Log lines were dropped, because standard output or standard error was blocked.",
        description="Requests are not affected. Check whether the log's reader keeps up, has stopped or is gone, or "
        "its disk is full.",
    ),
    Alert(
        name="GlyphDescriptors",
        expression='process_open_fds{process="worker"} > 0.8 * process_max_fds{process="worker"}',
        duration="10m",
        severity="ticket",
        summary="Connections approach the limit of file descriptors.",
        description="Raise the limit (ulimit -n), or lower GLYPH_CONNECTIONS and GLYPH_KEEPALIVE_SECONDS.",
    ),
)


def rules() -> str:
    """Return all alerts as a Prometheus rules file, in YAML."""
    return "\n".join(_group("glyph", ALERTS)) + "\n"


def prometheus_rule(*, gpu: bool) -> str:
    """Return the alerts for GPUs, or all others, as the Prometheus operator's PrometheusRule, in YAML."""
    name = "glyph-gpu" if gpu else "glyph"
    head = f"""\
# Written by `python -m serving.reference` from serving/telemetry/alerts.py.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: {name}
  labels:
    app.kubernetes.io/name: glyph
    app.kubernetes.io/component: serve
    app.kubernetes.io/part-of: glyph
spec:
"""
    chosen = [alert for alert in ALERTS if alert.gpu == gpu]
    return head + "".join(f"  {line}\n" for line in _group(name, chosen))


def _group(name: str, alerts: Iterable[Alert]) -> list[str]:
    """Return the lines of a rules file with one group."""
    lines = ["groups:", f"- name: {name}", "  rules:"]
    for alert in alerts:
        lines += [
            f"  - alert: {alert.name}",
            f"    expr: {_quoted(alert.expression)}",
            f"    for: {alert.duration}",
            "    labels:",
            f"      severity: {alert.severity}",
            "    annotations:",
            f"      summary: {_quoted(alert.summary)}",
            f"      description: {_quoted(alert.description)}",
        ]
    return lines


def _quoted(text: str) -> str:
    """Return a single-quoted YAML scalar, in which only the quote itself is escaped, by doubling it."""
    return "'" + text.replace("'", "''") + "'"
