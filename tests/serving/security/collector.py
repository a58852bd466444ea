"""A collector of OpenTelemetry: takes spans by OTLP over HTTP and keeps them for whoever waits for them."""

import contextlib
import gzip
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

WAIT_SECONDS = 60.0


class Collector:
    """What has arrived."""

    def __init__(self) -> None:
        self._spans: list[Any] = []
        self._resources: list[dict[str, Any]] = []
        self._more = threading.Condition()
        self.url = ""

    def take(self, body: bytes) -> None:
        """Keep the spans of one export, decoded by the protocol's own definition."""
        exported = ExportTraceServiceRequest.FromString(body)
        with self._more:
            for resource in exported.resource_spans:
                self._resources.append(attributes(resource.resource))
                for scope in resource.scope_spans:
                    self._spans += scope.spans
            self._more.notify_all()

    def trace(self, trace_id: str, spans: int) -> list[Any]:
        """Wait for as many spans of a trace and return them."""
        deadline = time.monotonic() + WAIT_SECONDS
        with self._more:
            while len(found := [span for span in self._spans if span.trace_id.hex() == trace_id]) < spans:
                if not self._more.wait(deadline - time.monotonic()):
                    pytest.fail(f"only {len(found)} of {spans} spans of {trace_id} arrived")
            return found

    def services(self) -> set[str]:
        """Return the names under which services have sent spans."""
        with self._more:
            return {resource["service.name"] for resource in self._resources}


def attributes(carrier: Any) -> dict[str, Any]:
    """Return the attributes of a span or a resource."""
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in carrier.attributes}


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector on a loopback port."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            known = self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf"
            if known:
                collector.take(body)
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
