"""The prediction routes under a WSGI server: bounded concurrency, a bounded queue, and load shedding."""

import threading
import time
from typing import Any

from serving.errors import OverloadedError, ProblemError
from serving.predict.exchange import Request, Response, Target
from serving.predict.load_shedding import AdmissionControl, MemoryReservation
from serving.predict.pipeline import Pipeline
from serving.web import wsgi_body

Environ = dict[str, Any]

_OTHER_NAMES = {"CONTENT_TYPE": "content-type", "CONTENT_LENGTH": "content-length"}
"""Fields that WSGI names without the prefix `HTTP_` (PEP 3333, environ Variables)."""


class Predictions:
    """Answers predictions on the threads of the WSGI server, at most `GLYPH_THREADS` of them at a time."""

    def __init__(self, pipeline: Pipeline) -> None:
        settings = pipeline.settings
        self._pipeline = pipeline
        self._admission = AdmissionControl(settings.threads + settings.queue_limit, settings.queue_bytes)
        self._threads = settings.threads
        self._slots = threading.Semaphore(settings.threads)
        self._gauge_lock = threading.Lock()

    def answer(self, environ: Environ, target: Target | None) -> Response:
        """Answer a prediction request on this thread; `target` is what its path names."""
        reservation = MemoryReservation(self._admission)
        try:
            return self._answer(environ, target, reservation)
        finally:
            reservation.resize(0)

    def _answer(self, environ: Environ, target: Target | None, reservation: MemoryReservation) -> Response:
        pipeline = self._pipeline
        try:
            body = wsgi_body.read(environ, pipeline.settings.max_body_bytes, reservation)
        except ProblemError as error:
            exchange = pipeline.open(request_of(environ), time.perf_counter(), target)
            wsgi_body.discard(environ)
            return pipeline.close(exchange, pipeline.error_response(exchange, error))
        exchange = pipeline.open(request_of(environ, body), time.perf_counter(), target)
        try:
            self._admission.enter()
        except OverloadedError as error:
            return pipeline.close(exchange, pipeline.error_response(exchange, error))
        self._update_queue_gauge()
        try:
            with self._slots:
                return pipeline.answer(exchange)
        finally:
            self._admission.leave()
            self._update_queue_gauge()

    def _update_queue_gauge(self) -> None:
        """Set the gauge of waiting requests, under a lock, so that the last value set is the newest."""
        with self._gauge_lock:
            self._pipeline.store.metrics.queue(max(0, self._admission.waiting - self._threads))


def request_of(environ: Environ, body: bytes = b"") -> Request:
    """Return a WSGI request as plain data."""
    headers = {}
    for name, value in environ.items():
        if name.startswith("HTTP_"):
            headers[name[5:].replace("_", "-").lower()] = value
    # Last, because a client may send fields such as Content_Type, which WSGI names HTTP_CONTENT_TYPE.
    for name, field in _OTHER_NAMES.items():
        headers.pop(field, None)
        if value := environ.get(name):
            headers[field] = value
    return Request(
        method=environ["REQUEST_METHOD"],
        path=_text(environ["PATH_INFO"]),
        query=environ.get("QUERY_STRING", ""),
        headers=headers,
        body=body,
        client=environ.get("REMOTE_ADDR") or "",
    )


def _text(path: str) -> str:
    """Decode a path as UTF-8; WSGI decodes its bytes as latin-1 (PEP 3333, Unicode Issues)."""
    return path if path.isascii() else path.encode("latin-1").decode(errors="replace")
