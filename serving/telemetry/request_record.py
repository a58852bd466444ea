"""What is recorded of a request: metrics, its line in the access log and its spans are made of this when it is over."""

import secrets
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TraceContext:
    """What `traceparent` and `tracestate` say: the trace that a request is part of, and the caller's span in it."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    flags: int
    """Bit 0: the caller records this trace."""
    state: str = ""
    """As it was sent: what the tracing systems on the way have noted for themselves."""

    def field(self) -> str:
        """Return it as the value of `traceparent`, version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"

    def child(self) -> "TraceContext":
        """Return a new span of the same trace."""
        return TraceContext(self.trace_id, secrets.token_hex(8), self.flags)


@dataclass(kw_only=True, slots=True)
class RequestRecord:
    """One request in names and numbers, filled in while it is answered.

    There is one for each request, so it is not frozen: that costs a call for each field.
    """

    id: str
    """The client's X-Request-ID if it sent a well-formed one, else one of our own."""
    method: str
    path: str
    route: str
    """The path's template, such as `/v2/models/{model}/infer`: without a client's words, so it is a metric's label."""
    client: str = ""
    """The address of who sent it."""
    status: int = 0
    """Of the answer."""
    seconds: float = 0.0
    """From the whole request to the whole answer."""
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds of queue, decode, infer and encode, as far as it came; one followed the other."""
    batch: int = 0
    """Images in the batch that it was run in, others' included and padding not."""
    refusal: str = ""
    """The kind of problem that it was refused for, as the metrics count it."""
    holder: str | None = None
    """Who asks, by the name of the bearer token; None where tokens are not asked for."""
    trace: TraceContext | None = None
    """The trace that the request is part of, where it says so."""
