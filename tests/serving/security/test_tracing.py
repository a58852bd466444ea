"""Traces: the caller's context is taken over strictly, and spans arrive at a real collector."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.support.pictures import a_digit, png
from bench.support.processes import PNG, ROOT, Answer, Part, environment, form, free_port, running
from bundle.repository import Bundle
from serving.settings import ServiceSettings
from serving.telemetry.request_record import TraceContext
from serving.telemetry.tracing import parse_traceparent
from serving.web.app import create_app
from tests.serving.security.collector import attributes, collecting
from tests.serving.security.conftest import Guarded

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
FIELD = f"00-{TRACE}-{PARENT}-01"
SERVER, INTERNAL, ERROR = 2, 1, 2
"""Numbers of OTLP's SpanKind and StatusCode."""


@pytest.mark.parametrize(
    ("field", "flags"),
    [
        (FIELD, 1),
        (f"00-{TRACE}-{PARENT}-00", 0),
        (f"00-{TRACE}-{PARENT}-ff", 255),
        (f"01-{TRACE}-{PARENT}-01", 1),
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-brings", 1),
        (f"cc-{TRACE}-{PARENT}-01-", 1),
    ],
)
def test_a_valid_context_is_read(field: str, flags: int) -> None:
    """Version 00 to the letter, later ones by what they share with it (W3C Trace Context, section 3.2)."""
    assert parse_traceparent(field) == TraceContext(TRACE, PARENT, flags)


@pytest.mark.parametrize(
    "field",
    [
        "",
        "00",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-0",
        f"00-{TRACE}-{PARENT}-01-",
        f"00-{TRACE}-{PARENT}-01-more",
        f"cc-{TRACE}-{PARENT}-01.more",
        f"00-{TRACE}-{PARENT}-0x",
        f" {FIELD}",
        f"{FIELD} ",
        f"{FIELD}\n",
        f"{FIELD}, {FIELD}",
        f"0-{TRACE}-{PARENT}-01",
        f"00-{TRACE[1:]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT[1:]}-01",
        f"00-{TRACE}-{PARENT[1:]}\u0661-01",
        f"00_{TRACE}_{PARENT}_01",
    ],
)
def test_an_invalid_context_is_ignored(field: str) -> None:
    """As the specification's own test harness asks for it: the trace is begun anew."""
    assert parse_traceparent(field) is None


def test_a_context_is_continued_even_without_tracing(bundle: Bundle) -> None:
    """The answer names a span of the caller's trace; without a context there is nothing to name."""
    client = create_app(ServiceSettings(model=bundle.path.parent, provider="cpu")).test_client()
    for answer in (
        client.post("/predict", data=png(a_digit()), content_type=PNG, headers={"traceparent": FIELD}),
        client.get("/livez", headers={"traceparent": FIELD}),
    ):
        own = parse_traceparent(answer.headers["traceresponse"])
        assert own is not None
        assert (own.trace_id, own.flags) == (TRACE, 1)
        assert own.span_id != PARENT
    assert "traceresponse" not in client.post("/predict", data=png(a_digit()), content_type=PNG).headers
    bad = client.post("/predict", data=png(a_digit()), content_type=PNG, headers={"traceparent": "00-x"})
    assert "traceresponse" not in bad.headers


def unique(guarded: Guarded, number: int) -> str:
    """Return a trace that no other test of either worker class uses."""
    return f"{guarded.service.port:08x}{number:024x}"


def phases_of(answer: Answer) -> list[str]:
    """Return the phases that an answer's Server-Timing names, in their order."""
    names = [part.partition(";")[0] for part in answer.headers.get("Server-Timing", "").split(", ")]
    return [name for name in names if name not in ("", "batch")]


def tree(spans: list[Any], parent: str) -> tuple[Any, dict[str, Any]]:
    """Return the span below `parent`, and its children by name."""
    (root,) = [span for span in spans if span.parent_span_id.hex() == parent]
    return root, {span.name: span for span in spans if span.parent_span_id == root.span_id}


def test_a_request_is_a_span_with_its_phases_below_it(guarded: Guarded) -> None:
    """The caller's span is its parent, the phases follow one another in it, and attributes say the rest."""
    trace = unique(guarded, 1)
    body, content_type = form(*[Part(png(a_digit()))] * 3)
    answer = guarded.ask(
        "POST",
        "/predict",
        body,
        Content_Type=content_type,
        traceparent=f"00-{trace}-{PARENT}-01",
        tracestate="vendor=value",
        X_Request_ID="traced",
    )
    assert answer.status == 200
    phases = phases_of(answer)
    spans = guarded.collector.trace(trace, 1 + len(phases))
    root, children = tree(spans, PARENT)
    assert (root.name, root.kind, root.trace_state) == ("POST /predict", SERVER, "vendor=value")
    assert attributes(root) == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "url.path": "/predict",
        "client.address": "127.0.0.1",
        "glyph.request_id": "traced",
        "glyph.batch_size": 3,
    }
    assert list(children) == phases
    assert {"decode", "infer", "encode"} <= set(children)
    at = root.start_time_unix_nano
    for span in children.values():
        assert span.kind == INTERNAL
        assert span.start_time_unix_nano == at
        at = span.end_time_unix_nano
    assert at <= root.end_time_unix_nano
    assert answer.headers["traceresponse"] == f"00-{trace}-{root.span_id.hex()}-01"
    timing = dict(part.split(";dur=") for part in answer.headers["Server-Timing"].split(", ")[:-1])
    for name, span in children.items():
        seconds = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
        assert seconds == pytest.approx(float(timing[name]) / 1e3, abs=1e-6)
    assert guarded.collector.services() == {"glyph"}


def test_a_refusal_is_a_span_with_its_status(guarded: Guarded) -> None:
    """A client's mistake is no error of the service (OpenTelemetry's HTTP conventions)."""
    trace = unique(guarded, 2)
    field = f"00-{trace}-{PARENT}-01"
    answer = guarded.ask("POST", "/predict", b"", Content_Type=PNG, traceparent=field)
    assert answer.status == 400
    span, children = tree(guarded.collector.trace(trace, 1 + len(phases_of(answer))), PARENT)
    assert list(children) == phases_of(answer)
    assert attributes(span)["http.response.status_code"] == 400
    assert span.status.code != ERROR


def test_a_route_of_the_application_is_a_span_of_its_template(guarded: Guarded) -> None:
    """A span's name has none of the client's words in it."""
    trace = unique(guarded, 3)
    field = f"00-{trace}-{PARENT}-01"
    assert guarded.ask("GET", "/v2/models/synthetic/ready", traceparent=field).status == 200
    (span,) = guarded.collector.trace(trace, 1)
    assert span.name == "GET /v2/models/{model}/ready"
    assert attributes(span)["url.path"] == "/v2/models/synthetic/ready"


def test_a_caller_who_does_not_sample_is_obeyed(guarded: Guarded) -> None:
    """No span is sent of its request; those of the next, which is sampled, arrive alone."""
    quiet, loud = unique(guarded, 4), unique(guarded, 5)
    answer = guarded.ask("GET", "/v2", traceparent=f"00-{quiet}-{PARENT}-00")
    assert answer.headers["traceresponse"].startswith(f"00-{quiet}-")
    assert answer.headers["traceresponse"].endswith("-00")
    guarded.ask("GET", "/v2", traceparent=f"00-{loud}-{PARENT}-01")
    guarded.collector.trace(loud, 1)
    assert guarded.collector.trace(quiet, 0) == []


def test_a_request_without_a_context_begins_a_trace(guarded: Guarded) -> None:
    """The answer tells which."""
    own = parse_traceparent(guarded.ask("GET", "/v2").headers["traceresponse"])
    assert own is not None
    (span,) = guarded.collector.trace(own.trace_id, 1)
    assert span.parent_span_id == b""
    assert span.span_id.hex() == own.span_id


def test_a_collector_that_is_not_there_holds_up_neither_requests_nor_the_end(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers come as ever, and SIGTERM ends the service with 0 (`running` checks it)."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    with running(tmp_path, until="/readyz", model=bundle.path.parent, tracing="otlp") as service:
        assert service.post(png(a_digit())).status == 200


@pytest.mark.parametrize("worker", ["inference", "gthread"])
def test_what_has_not_been_sent_is_sent_at_the_end(
    bundle: Bundle, tmp_path: Path, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spans wait to be sent together, and SIGTERM loses none of them; the operator's name is theirs."""
    trace = f"{os.getpid():032x}"
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "digits")
        settings: dict[str, Any] = {"model": bundle.path.parent, "tracing": "otlp", "worker": worker}
        with running(tmp_path, until="/readyz", **settings) as service:
            assert service.ask("GET", "/v2", traceparent=f"00-{trace}-{PARENT}-01").status == 200
            assert collector.trace(trace, 0) == []
        collector.trace(trace, 1)
        assert collector.services() == {"digits"}


MISSING = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
from serving.__main__ import main
sys.exit(main(["--check-address", "--tracing", sys.argv[1]]))
"""


@pytest.mark.parametrize(("tracing", "code"), [("otlp", 2), ("off", 0)])
def test_a_missing_extra_is_told_at_the_start_and_only_if_it_is_wanted(tracing: str, code: int) -> None:
    """Without OpenTelemetry's packages, and what to install."""
    ended = subprocess.run(
        [sys.executable, "-c", MISSING, tracing],
        env=environment(port=free_port()),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    assert ("glyph[tracing]" in ended.stderr) is bool(code)


def test_tracing_that_is_off_imports_nothing_of_it() -> None:
    """Off costs nothing."""
    program = (
        "import sys, serving.web.app; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment(), check=False)
    assert done.returncode == 0
