"""The Flask application: which paths there are, and how a result or an error becomes a response."""

import contextlib
import logging
import time
from typing import Any

import orjson
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from serving.errors import (
    BodyTooLargeError,
    MalformedBodyError,
    MethodNotAllowedError,
    NotFoundError,
    ProblemError,
    UnsupportedMediaTypeError,
)
from serving.messages import JSON, Answer, Request
from serving.page import blueprint
from serving.pipeline import Pipeline, problem
from serving.settings import ServiceSettings
from serving.state import ModelState

log = logging.getLogger("glyph.serving")

MAX_DISCARDED_BYTES = 64 << 20


def create_app(settings: ServiceSettings) -> Flask:
    """Build the application and load its model, in this process.

    Returns a WSGI application even if there is no model to serve: it is live, not ready, and says
    why on `/readyz`.

    Raises:
        ProviderError: the policy is `cuda` and CUDA does not work.
    """
    app = Flask("serving", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    state = ModelState.start(settings)
    app.extensions["glyph"] = state
    pipeline = app.extensions["glyph.pipeline"] = Pipeline(settings, state)

    @app.post("/predict")
    def _predict() -> Response:
        exchange = pipeline.open(_request(_body(settings)), time.perf_counter())
        return _response(pipeline.answer(exchange))

    @app.get("/livez")
    def _livez() -> Response:
        """Say that the process answers; restart it if this fails."""
        return _json({"live": True})

    @app.get("/readyz")
    @app.get("/healthz")
    def _readyz() -> Response:
        """Say whether predictions are answered; send no traffic while this fails."""
        engine = state.engine()
        manifest = engine.bundle.manifest
        model = {"name": manifest.name, "version": engine.bundle.version, "digest": manifest.digest}
        return _json({"ready": True, "model": model, "provider": engine.provider})

    app.register_blueprint(blueprint(state))
    app.register_error_handler(ProblemError, _problem)
    app.register_error_handler(HTTPException, _http_problem)
    app.register_error_handler(Exception, _failure)
    return app


def _request(body: bytes) -> Request:
    """Return the current request as plain data."""
    return Request(
        method=request.method,
        path=request.path,
        query=request.query_string.decode("latin-1"),
        headers={name.lower(): value for name, value in request.headers.items()},
        body=body,
    )


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, answer.headers, content_type=answer.media_type)


def _discard_body() -> None:
    """Read what is left of a refused request's body and forget it, up to a bound.

    Gunicorn closes a connection on which much is unread, and the reset that follows takes the
    answer from a client that is still sending. Beyond the bound that is the lesser evil.
    """
    if not request.environ.get("wsgi.input_terminated"):
        return  # such a server's stream has no end, and reading on would wait for ever
    if (request.content_length or 0) > MAX_DISCARDED_BYTES:
        return
    stream, left = request.environ["wsgi.input"], MAX_DISCARDED_BYTES
    with contextlib.suppress(Exception):  # a body that was broken already stays broken
        while left > 0 and (chunk := stream.read(min(left, 1 << 16))):
            left -= len(chunk)


def _body(settings: ServiceSettings) -> bytes:
    """Return the request's body, whole; never more than the limit is read, chunked or not."""
    if "Content-Encoding" in request.headers:
        coding = request.headers["Content-Encoding"][:100]
        raise UnsupportedMediaTypeError(
            f"the body has the content coding {coding!r}, which is not undone",
            remedy="Send the body as it is; images are compressed already.",
        )
    limit, announced = settings.max_body_bytes, request.content_length
    if announced is None or announced <= limit:
        try:
            body = _read(limit + 1)
        # What a server raises for broken framing is its own class, and another with each server.
        except Exception as error:
            log.info("a request's body could not be read: %s", error)
            raise MalformedBodyError(
                "the body ended early or its chunks are malformed",
                remedy="Send as many bytes as Content-Length says, or chunks as in RFC 9112, section 7.1.",
            ) from error
        if len(body) <= limit:
            return body
    raise BodyTooLargeError(
        f"the body is larger than {limit} bytes",
        remedy="Send fewer or smaller files in one request, or raise GLYPH_MAX_BODY_BYTES.",
    )


def _read(most: int) -> bytes:
    """Read the body, `most` bytes at most.

    Not by `request.get_data()`: it cuts a chunked body at MAX_CONTENT_LENGTH and says nothing.
    """
    if not request.environ.get("wsgi.input_terminated"):
        return request.get_data(cache=False)  # such a server has no chunked bodies, so the length is known
    stream, pieces = request.environ["wsgi.input"], []
    while most > 0 and (piece := stream.read(most)):
        pieces.append(piece)
        most -= len(piece)
    body = b"".join(pieces)
    if request.content_length is not None and len(body) < request.content_length:
        raise EOFError("the client closed the connection")
    return body


def _json(document: dict[str, Any]) -> Response:
    return Response(orjson.dumps(document), mimetype=JSON, headers={"Cache-Control": "no-store"})


def _problem(error: ProblemError) -> Response:
    _discard_body()
    return _response(problem(error))


def _http_problem(error: HTTPException) -> Response:
    """Map what Flask and Werkzeug raise themselves to our own tree."""
    if error.code == NotFoundError.status:
        return _problem(
            NotFoundError(
                f"there is nothing at {request.path[:100]}",
                remedy="POST images to /predict; GET /livez, /readyz or /healthz.",
            )
        )
    if error.code == MethodNotAllowedError.status:
        problem = MethodNotAllowedError(
            f"{request.path[:100]} does not answer {request.method[:20]}",
            remedy="Use one of the methods in the Allow field; images are POSTed.",
        )
        problem.headers = {"Allow": ", ".join(sorted(getattr(error, "valid_methods", None) or ()))}
        return _problem(problem)
    return _problem(
        MalformedBodyError(
            f"the request cannot be understood: {error.name}", remedy="See the API's description."
        )
    )


def _failure(error: Exception) -> Response:
    """Answer 500 for what nobody foresaw; the log has it whole, the client learns nothing of it."""
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return _problem(
        ProblemError(
            "an unexpected error; it is in the service's log",
            remedy="Try again; if it stays, tell the operator the time of this answer.",
        )
    )
