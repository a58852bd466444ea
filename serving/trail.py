"""What a request leaves behind: its line in the access log, its spans, and the context in its answer."""

import functools
import logging
from collections.abc import Mapping

from serving import logs
from serving.settings import ServiceSettings
from serving.tracing import Finished, TraceContext, Tracer, parse_traceparent

access = logging.getLogger(logs.ACCESS)


class Trail:
    """The access log and the tracer of one process, as the settings ask for them."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._logs = settings.access_log
        self._tracer = Tracer() if settings.tracing == "otlp" else None
        self.wanted = self._logs or self._tracer is not None
        """Whether anything is left behind of a request that brought no trace context."""

    def context(self, request: Mapping[str, str]) -> TraceContext | None:
        """Return the trace context that a request brought, by its fields, named in lower case."""
        value = request.get("traceparent")
        return None if value is None else parse_traceparent(value)

    def end(self, finished: Finished) -> str | None:
        """Write the line, make the spans, and return the value of the answer's `traceresponse`.

        It names the span under which the service did its work, for callers who brought a context and
        wherever spans are made. Source: W3C Trace Context HTTP Response Headers Format (a draft).
        """
        own = None
        if self._tracer is not None:
            own = self._tracer.record(finished)
        elif finished.trace is not None:
            own = finished.trace.child()
        if self._logs:
            _log(finished, own)
        return None if own is None else own.field()

    def shutdown(self) -> None:
        """Send what has not been sent yet."""
        if self._tracer is not None:
            self._tracer.shutdown()


def _log(finished: Finished, own: TraceContext | None) -> None:
    milliseconds = round(finished.seconds * 1000, 3)
    fields: dict[str, object] = {
        "method": finished.method,
        "route": finished.route,
        "path": finished.path,
        "status": finished.status,
        "duration_ms": milliseconds,
    }
    if finished.client:
        fields["client"] = finished.client
    named = {"request_id": finished.request_id, "holder": finished.holder}
    if own is not None:
        named |= {"trace_id": own.trace_id, "span_id": own.span_id}
    if finished.batch:
        fields["batch"] = finished.batch
    fields |= {f"{phase}_ms": round(seconds * 1000, 3) for phase, seconds in finished.phases.items()}
    known = {name: value for name, value in named.items() if value is not None}
    fields |= known
    said = (finished.client or "-", finished.method, finished.path, finished.status, milliseconds)
    access.info(_line(*known), *said, *known.values(), extra={"fields": fields})


@functools.cache
def _line(*names: str) -> str:
    """Return the format of a line, whose last values have these names: each is a value, which the log may quote."""
    return " ".join(["%s %s %s %d %.3f ms", *(f"{name}=%s" for name in names)])
