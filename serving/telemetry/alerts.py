"""The alerts worth having, as Prometheus's rules: `python -m serving.reference --rules` prints the file."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """One rule. Thresholds are beginnings: a service that was watched for a week knows better ones."""

    name: str
    expression: str
    """PromQL; what it returns is what is wrong."""
    duration: str
    """How long it must hold, in Prometheus's notation."""
    severity: Literal["page", "ticket"]
    """`page` wakes a person, `ticket` waits for the morning."""
    summary: str
    description: str
    gpu: bool = False
    """Whether it is of use only where a GPU is expected."""


ALERTS = (
    Alert(
        name="GlyphDown",
        expression='up{job="glyph"} == 0',
        duration="2m",
        severity="page",
        summary="The management port does not answer; neither, most likely, does the service.",
        description="Look at the pod's state, its exit code (docs/operations.md) and the end of its log.",
    ),
    Alert(
        name="GlyphNotReady",
        expression='glyph_workers{state="ready"} == 0',
        duration="2m",
        severity="page",
        summary="No worker of this instance can answer predictions.",
        description="GET /readyz on the management port: its detail has the reason and the remedy.",
    ),
    Alert(
        name="GlyphErrors",
        expression='sum by (instance) (rate(glyph_http_requests_total{status="500"}[5m])) > 0',
        duration="5m",
        severity="page",
        summary="Requests meet an error that nobody foresaw.",
        description="The log has each with its traceback and its request id.",
    ),
    Alert(
        name="GlyphOverloaded",
        expression='sum by (instance) (rate(glyph_refusals_total{reason="overloaded"}[5m])) > 1',
        duration="5m",
        severity="page",
        summary="More is asked than can be answered; the rest is refused with 503 and Retry-After.",
        description="Add instances. A longer queue (GLYPH_QUEUE_LIMIT) helps against bursts only.",
    ),
    Alert(
        name="GlyphDeadlines",
        expression='sum by (instance) (rate(glyph_refusals_total{reason="deadline-exceeded"}[5m])) > 1',
        duration="5m",
        severity="ticket",
        summary="Requests wait longer than their callers allow, and are answered 504.",
        description="Compare the queue phase with infer: a long queue wants instances, a long infer wants CPU.",
    ),
    Alert(
        name="GlyphSlow",
        expression="histogram_quantile(0.99, sum by (instance, le) "
        '(rate(glyph_http_request_duration_seconds_bucket{route="/predict"}[5m]))) > 0.25',
        duration="10m",
        severity="ticket",
        summary="One request in a hundred takes longer than 250 ms.",
        description="glyph_phase_duration_seconds tells which phase; forms of many files decode for long.",
    ),
    Alert(
        name="GlyphWorkersDie",
        expression='increase(glyph_worker_exits_total{how="died"}[15m]) > 0',
        duration="0m",
        severity="ticket",
        summary="A worker was killed, crashed, was stuck or lost its GPU, and was replaced; its requests in flight "
        "failed.",
        description="The log has the signal, or the reason. SIGKILL is most often memory: compare "
        "process_resident_memory_bytes with the limit.",
    ),
    Alert(
        name="GlyphWorkersStuck",
        expression='glyph_workers{state="stuck"} > 0',
        duration="0m",
        severity="ticket",
        summary="A worker is stopped or stuck: it answers nothing, and has accepted connections that wait for it.",
        description="It is replaced after GLYPH_TIMEOUT_SECONDS. If that comes again, look for CPU throttling and "
        "blocked volumes.",
    ),
    Alert(
        name="GlyphTokensUnreadable",
        expression="glyph_tokens_file_readable == 0",
        duration="1m",
        severity="page",
        summary="The file of tokens was changed and cannot be read: a token that was taken back still lets in.",
        description="The log says what is wrong: the path, its permissions, or a line. It is read again each second.",
    ),
    Alert(
        name="GlyphVersionRefused",
        expression="glyph_model_versions_refused > 0",
        duration="1m",
        severity="ticket",
        summary="A published version cannot be proven here; an older one keeps serving.",
        description="The reason is in /readyz (refused) and in the log. Repair or remove the version; it is tried "
        "again when its files change.",
    ),
    Alert(
        name="GlyphGoldenFailed",
        expression="glyph_golden_check_passed == 0",
        duration="1m",
        severity="page",
        summary="A version does not give its recorded answers on this machine's execution provider.",
        description="If other machines accept it, suspect this one's driver or GPU; else the version: publish it anew.",
    ),
    Alert(
        name="GlyphVersionsDiffer",
        expression="count(count by (version) (glyph_model_workers)) > 1",
        duration="10m",
        severity="ticket",
        summary="Workers answer with different versions for longer than a reload takes.",
        description="See which instance is behind (glyph_model_workers) and why (its /readyz): a pinned version, "
        "a refusal, or a volume that it does not see.",
    ),
    Alert(
        name="GlyphOnCpu",
        expression='glyph_execution_provider_info{provider="cpu"} == 1',
        duration="5m",
        severity="ticket",
        gpu=True,
        summary="The model runs on the CPU. Have this alert only where a GPU is expected.",
        description="The log says what CUDA lacked; GLYPH_PROVIDER=cuda makes it an error at start.",
    ),
    Alert(
        name="GlyphDrift",
        expression="glyph_drift_psi > 0.25",
        duration="30m",
        severity="ticket",
        summary="Images or predictions look unlike the validation set.",
        description="border_brightness alone: inverted images, look for the warning in answers. class alone: the mix "
        "has changed. All: other images; label some, measure, train anew.",
    ),
    Alert(
        name="GlyphUnsure",
        expression='sum by (instance) (rate(glyph_prediction_confidence_bucket{le="0.5"}[1h])) '
        "/ sum by (instance) (rate(glyph_prediction_confidence_count[1h])) > 0.1",
        duration="1h",
        severity="ticket",
        summary="In more than a tenth of the images no class has half of the probability.",
        description="As for drift; ?threshold= lets callers have the label withheld.",
    ),
    Alert(
        name="GlyphLogLinesDropped",
        expression="sum by (instance) (increase(glyph_log_lines_dropped_total[15m])) > 0",
        duration="0m",
        severity="ticket",
        summary="Lines of the log were dropped, because what reads standard output or error did not take them.",
        description="Requests are answered all the same. See whether the log's reader keeps up, has stopped or is "
        "gone, or its disk is full.",
    ),
    Alert(
        name="GlyphDescriptors",
        expression='process_open_fds{process="worker"} > 0.8 * process_max_fds{process="worker"}',
        duration="10m",
        severity="ticket",
        summary="Connections come near the limit of file descriptors.",
        description="Raise the limit (ulimit -n), or lower GLYPH_CONNECTIONS and GLYPH_KEEPALIVE_SECONDS.",
    ),
)


def rules() -> str:
    """Return the file of rules, as YAML that Prometheus loads."""
    return "\n".join(_group("glyph", ALERTS)) + "\n"


def prometheus_rule(*, gpu: bool) -> str:
    """Return the rules for GPUs, or all the others, as a PrometheusRule of the Prometheus operator's, in YAML."""
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
    """Return the lines of a list of groups that has one."""
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
    """Return YAML's single-quoted scalar, in which only the quote itself is doubled."""
    return "'" + text.replace("'", "''") + "'"
