"""The record of a request, from which metrics, the access-log line and spans are made when it is over."""

import secrets
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A W3C trace context (`traceparent` and `tracestate`): the trace of a request, and the caller's span in it."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    flags: int
    """Bit 0 is set if the caller records this trace."""
    state: str = ""
    """`tracestate` as it was sent, with vendor-specific data of the tracing systems on the way."""

    def field(self) -> str:
        """Return the value of a `traceparent` field, version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"

    def child(self) -> "TraceContext":
        """Return a new span of the same trace."""
        return TraceContext(self.trace_id, secrets.token_hex(8), self.flags)


@dataclass(kw_only=True, slots=True)
class RequestRecord:
    """The names and numbers of one request, filled in while it is answered.

    It is not frozen, because a frozen dataclass costs a call for each field, and each request has a record.
    """

    id: str
    """The client's X-Request-ID if it sent a well-formed one, otherwise a generated one."""
    method: str
    path: str
    route: str
    """The path's template, such as `/v2/models/{model}/infer`. It has no client data, so it can be a metric's label."""
    client: str = ""
    """The client's address."""
    status: int = 0
    """The answer's status."""
    seconds: float = 0.0
    """From the request's last byte to the finished answer."""
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds of queue, decode, infer and encode, in order of execution. Phases that were not reached are missing."""
    batch: int = 0
    """Images in the batch that the request was part of, including other requests' images but no padding."""
    refusal: str = ""
    """The kind of problem that the request was answered with, which is a label in the metrics; empty if none."""
    holder: str | None = None
    """The name of the bearer token's holder; None where no token is required."""
    trace: TraceContext | None = None
    """The request's trace context, if it has one."""
