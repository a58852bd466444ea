"""Traces: the W3C trace context of a request, and its spans for an OpenTelemetry collector.

A request's spans are made when it is over, of what was measured anyway, so that tracing which is off
costs nothing and tracing which is on costs no phase of a request anything.
"""

import re
import threading
import time
from importlib.util import find_spec
from typing import Any

from common.errors import ConfigurationError
from serving.settings import ServiceSettings
from serving.telemetry.logs import clean
from serving.telemetry.request_record import RequestRecord, TraceContext

SERVICE = "glyph"
SHUTDOWN_SECONDS = 2.0
"""What the end of a worker may wait for a collector that does not answer."""
MAX_TRACESTATE = 512

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)


def parse_traceparent(value: str, state: str = "") -> TraceContext | None:
    """Return the trace context of a request, None if the field is not valid and must be ignored.

    Source: W3C Trace Context, section 3.2. A later version is read by the fields of version 00, and may
    have more behind them (section 3.2.4); the version ff and identifiers of zeros are not valid.
    """
    found = _TRACEPARENT.fullmatch(value)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceContext(trace_id, span_id, int(flags, 16), state)


def check_installed(settings: ServiceSettings) -> None:
    """Tell at the start, not at the first request, that the extra is missing.

    Raises:
        ConfigurationError: tracing was asked for and cannot be had.
    """
    wanted = ("opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
    if settings.tracing == "otlp" and not all(_found(name) for name in wanted):
        raise ConfigurationError(
            "GLYPH_TRACING is otlp, and the OpenTelemetry packages are not installed: "
            "install the extra 'tracing' (pip install 'glyph[tracing]'), or set GLYPH_TRACING=off"
        )


def _found(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # a parent of it is missing
        return False


class Tracer:
    """Sends spans to a collector, in batches, from a thread of its own.

    Where to, as whom and how many is said by OpenTelemetry's own variables: OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER, OTEL_BSP_SCHEDULE_DELAY.
    """

    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        # Resource.create lets OTEL_SERVICE_NAME win only over its own default, so ours is put below it.
        resource = Resource({"service.name": SERVICE}).merge(_from_environment(Resource.create()))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("glyph.serving")

    def record(self, record: RequestRecord) -> TraceContext:
        """Make the spans of a request and return the context of its own.

        The request's span has a child for each phase. Only how long a phase took is known, not what
        passed between two of them, so the children stand one behind the other from the request's start.
        Attributes are named as OpenTelemetry's semantic conventions for HTTP servers name them.
        """
        from opentelemetry import trace

        ended = time.time_ns()
        started = ended - round(record.seconds * 1e9)
        attributes: dict[str, Any] = {
            "http.request.method": record.method,
            "http.route": record.route,
            "http.response.status_code": record.status,
            "url.path": clean(record.path),
            "glyph.request_id": clean(record.id),
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
        """Send what is left, but let no collector hold up the end of a worker."""
        sender = threading.Thread(target=self._provider.shutdown, daemon=True)
        sender.start()
        sender.join(SHUTDOWN_SECONDS)


def _from_environment(detected: Any) -> Any:
    """Return the resource that OpenTelemetry made of its variables, without its own default name."""
    from opentelemetry.sdk.resources import Resource

    attributes = dict(detected.attributes)
    if str(attributes.get("service.name", "")).startswith("unknown_service"):
        del attributes["service.name"]
    return Resource(attributes)


def _parent(record: RequestRecord) -> Any:
    """Return the caller's span as OpenTelemetry's context; an empty one begins a trace."""
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
