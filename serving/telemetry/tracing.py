"""Tracing: the W3C trace context of a request, and spans for an OpenTelemetry collector.

The spans are made when a request is over, from times that are measured anyway. So tracing costs nothing when it is
off, and adds nothing to any phase when it is on.
"""

import re
import threading
import time
from importlib.util import find_spec
from typing import Any

from common.errors import ConfigurationError
from serving.settings import ServiceSettings
from serving.telemetry.logs import redact
from serving.telemetry.request_record import RequestRecord, TraceContext

SERVICE = "glyph"
SHUTDOWN_SECONDS = 2.0
"""How long a worker that ends waits for a collector that does not answer."""
MAX_TRACESTATE = 512

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)


def parse_traceparent(value: str, state: str = "") -> TraceContext | None:
    """Parse `traceparent`; return None if it is invalid, and must be ignored.

    Source: W3C Trace Context, section 3.2. A later version is parsed like version 00, and may have more fields after
    those (section 3.2.4). Version ff and identifiers that are all zeros are invalid.
    """
    found = _TRACEPARENT.fullmatch(value)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceContext(trace_id, span_id, int(flags, 16), state)


def check_installed(settings: ServiceSettings) -> None:
    """Check at the start, not at the first request, that the OpenTelemetry packages are installed.

    Raises:
        ConfigurationError: tracing is on and they are not.
    """
    wanted = ("opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
    if settings.tracing == "otlp" and not all(_found(name) for name in wanted):
        raise ConfigurationError(
            "GLYPH_TRACING is otlp, but the OpenTelemetry packages are not installed: "
            "install the extra 'tracing' (pip install 'glyph[tracing]'), or set GLYPH_TRACING=off"
        )


def _found(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False


class Tracer:
    """Sends spans to a collector, in batches, on a thread of its own.

    OpenTelemetry's own variables configure the endpoint, resource, sampler and batches: OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER, OTEL_BSP_SCHEDULE_DELAY.
    """

    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        # Resource.create lets OTEL_SERVICE_NAME override only its own default, so Glyph's default is merged below it.
        resource = Resource({"service.name": SERVICE}).merge(_from_environment(Resource.create()))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("glyph.serving")

    def record(self, record: RequestRecord) -> TraceContext:
        """Make the spans of a request, and return the trace context of the request's own span.

        The request's span has a child span for each phase. Only the durations of phases are known, not the gaps
        between them, so the children follow one another from the request's start. Attributes have the names of
        OpenTelemetry's semantic conventions for HTTP servers.
        """
        from opentelemetry import trace

        ended = time.time_ns()
        started = ended - round(record.seconds * 1e9)
        attributes: dict[str, Any] = {
            "http.request.method": record.method,
            "http.route": record.route,
            "http.response.status_code": record.status,
            "url.path": redact(record.path),
            "glyph.request_id": redact(record.id),
        }
        if record.client:
            attributes["client.address"] = record.client
        if record.batch:
            attributes["glyph.batch_size"] = record.batch
        span = self._tracer.start_span(
            f"{record.method} {record.route}",
            context=_parent(record),
            kind=trace.SpanKind.SERVER,
            attributes=attributes,
            start_time=started,
        )
        if record.status >= 500:
            span.set_status(trace.StatusCode.ERROR)
        inside = trace.set_span_in_context(span)
        at = started
        for phase, seconds in record.phases.items():
            child = self._tracer.start_span(phase, context=inside, start_time=at)
            at = min(at + round(seconds * 1e9), ended)
            child.end(at)
        span.end(ended)
        own = span.get_span_context()
        return TraceContext(f"{own.trace_id:032x}", f"{own.span_id:016x}", int(own.trace_flags))

    def shutdown(self) -> None:
        """Send the remaining spans, and wait `SHUTDOWN_SECONDS` at most."""
        sender = threading.Thread(target=self._provider.shutdown, daemon=True)
        sender.start()
        sender.join(SHUTDOWN_SECONDS)


def _from_environment(detected: Any) -> Any:
    """Return the resource that OpenTelemetry made from its variables, without its default service name."""
    from opentelemetry.sdk.resources import Resource

    attributes = dict(detected.attributes)
    if str(attributes.get("service.name", "")).startswith("unknown_service"):
        del attributes["service.name"]
    return Resource(attributes)


def _parent(record: RequestRecord) -> Any:
    """Return the caller's span as an OpenTelemetry context; an empty context begins a new trace."""
    from opentelemetry import context, trace

    if record.trace is None:
        return context.Context()
    state = record.trace.state if len(record.trace.state) <= MAX_TRACESTATE else ""
    remote = trace.SpanContext(
        trace_id=int(record.trace.trace_id, 16),
        span_id=int(record.trace.span_id, 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(record.trace.flags),
        trace_state=trace.TraceState.from_header([state]) if state else None,
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(remote), context.Context())
