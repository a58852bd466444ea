"""The prediction routes as WSGI, answered before Flask would be asked: what it does costs more than a prediction.

Flask still owns the routes, for its other methods, its map and its URLs; a prediction that reaches it
all the same is answered by the same `answer`.
"""

import time
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication

from serving import bodies
from serving.errors import ProblemError
from serving.inference.response import status_line
from serving.messages import Answer, Request
from serving.pipeline import Pipeline

Environ = dict[str, Any]

_OTHER_NAMES = {"CONTENT_TYPE": "content-type", "CONTENT_LENGTH": "content-length"}
"""Fields that WSGI names without `HTTP_` (PEP 3333, environ Variables)."""


class Predictions:
    """A WSGI application that answers predictions, and gives everything else to another."""

    def __init__(self, application: WSGIApplication, pipeline: Pipeline) -> None:
        self._application = application
        self._pipeline = pipeline

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer, or ask the other application."""
        if not self._pipeline.is_prediction(environ["REQUEST_METHOD"], _text(environ["PATH_INFO"])):
            return self._application(environ, start_response)
        found = answer(self._pipeline, environ)
        fields = [*found.headers.items(), ("Content-Type", found.media_type)]
        start_response(status_line(found.status), [*fields, ("Content-Length", str(len(found.body)))])
        return (found.body,)


def answer(pipeline: Pipeline, environ: Environ) -> Answer:
    """Answer a request of a prediction route on this thread."""
    try:
        body = bodies.read(environ, pipeline.settings.max_body_bytes)
    except ProblemError as error:
        exchange = pipeline.open(request_of(environ), time.perf_counter())
        bodies.discard(environ)
        return pipeline.close(exchange, pipeline.refuse(exchange, error))
    arrived = getattr(environ["wsgi.input"], "arrived", None) or time.perf_counter()
    return pipeline.answer(pipeline.open(request_of(environ, body), arrived))


def request_of(environ: Environ, body: bytes = b"") -> Request:
    """Return a WSGI request as plain data."""
    headers = {}
    for name, value in environ.items():
        if name.startswith("HTTP_"):
            headers[name[5:].replace("_", "-").lower()] = value
    for (
        name,
        field,
    ) in _OTHER_NAMES.items():  # after the others: what a client calls HTTP_CONTENT_TYPE is not it
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
    """Undo WSGI's reading of a path's bytes as latin-1 (PEP 3333, Unicode Issues)."""
    return path if path.isascii() else path.encode("latin-1").decode(errors="replace")
