"""The request log: a finished request's line in the access log, its spans, and the `traceresponse` of its answer."""

import functools
import logging
from collections.abc import Mapping

from serving.settings import ServiceSettings
from serving.telemetry import logs
from serving.telemetry.request_record import RequestRecord, TraceContext
from serving.telemetry.tracing import Tracer, parse_traceparent

access = logging.getLogger(logs.ACCESS)


class RequestLog:
    """The access log and the tracer of one process, where `GLYPH_ACCESS_LOG` and `GLYPH_TRACING` switch them on."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._logs = settings.access_log
        self._tracer = Tracer() if settings.tracing == "otlp" else None
        self.enabled = self._logs or self._tracer is not None
        """Whether `end` has anything to do for a request without a trace context."""

    def context(self, request: Mapping[str, str]) -> TraceContext | None:
        """Return the trace context of a request, given its header fields by names in lower case."""
        value = request.get("traceparent")
        return None if value is None else parse_traceparent(value, request.get("tracestate", ""))

    def end(self, record: RequestRecord) -> str | None:
        """Write the access-log line, send the spans, and return the value of the answer's `traceresponse` field.

        The value names the span of this request. It is None if the request has no trace context and tracing is off.
        Source: W3C Trace Context HTTP Response Headers Format (a draft).
        """
        own = None
        if self._tracer is not None:
            own = self._tracer.record(record)
        elif record.trace is not None:
            own = record.trace.child()
        if self._logs:
            _log(record, own)
        return None if own is None else own.field()

    def shutdown(self) -> None:
        """Send the spans that have not been sent yet."""
        if self._tracer is not None:
            self._tracer.shutdown()


def _log(record: RequestRecord, own: TraceContext | None) -> None:
    milliseconds = round(record.seconds * 1000, 3)
    fields: dict[str, object] = {
        "method": record.method,
        "route": record.route,
        "path": record.path,
        "status": record.status,
        "duration_ms": milliseconds,
    }
    if record.client:
        fields["client"] = record.client
    named = {"request_id": record.id, "holder": record.holder}
    if own is not None:
        named |= {"trace_id": own.trace_id, "span_id": own.span_id}
    if record.batch:
        fields["batch"] = record.batch
    fields |= {f"{phase}_ms": round(seconds * 1000, 3) for phase, seconds in record.phases.items()}
    known = {name: value for name, value in named.items() if value is not None}
    fields |= known
    values = (record.client or "-", record.method, record.path, record.status, milliseconds)
    access.info(_format(*known), *values, *known.values(), extra={"fields": fields})


@functools.cache
def _format(*names: str) -> str:
    """Return the format of an access-log line that ends in these names; the log's formatter quotes the values."""
    return " ".join(["%s %s %s %d %.3f ms", *(f"{name}=%s" for name in names)])
