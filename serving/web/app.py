"""The Flask application: its routes, and how results and errors become responses."""

import logging
import sys
from typing import Any

import orjson
from flask import Flask, g, request
from flask import Response as FlaskResponse
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from serving.errors import (
    MalformedBodyError,
    MethodNotAllowedError,
    NotFoundError,
    ProblemError,
    ProviderError,
)
from serving.model.reloader import Reloader
from serving.model.store import ModelStore
from serving.predict.exchange import JSON, Response
from serving.predict.pipeline import Pipeline, internal_error, problem, request_id
from serving.settings import ServiceSettings, load_settings
from serving.telemetry.metrics import Metrics
from serving.web import api_docs, model_status, oip_metadata, page, triton_extensions, wsgi_body
from serving.web.hooks import register_hooks
from serving.web.predictions import Predictions, request_of

log = logging.getLogger("glyph.serving")

APP_LOAD_ERROR = 4
"""`gunicorn.arbiter.Arbiter.APP_LOAD_ERROR`, with which the arbiter exits, too."""


class _Segment(BaseConverter):
    """A variable part of a path. It has no colon, which begins a verb, as in `/v1/models/mnist:predict`."""

    regex = "[^/:]+"


def start_app() -> Flask:
    """Return the application of this process, configured by the environment, and start version polling.

    An execution provider that does not work ends the service at its first start: when a worker exits with
    APP_LOAD_ERROR, Gunicorn's arbiter halts instead of starting it again. `serving.worker.lifecycle` restricts this
    exit code to the first start.
    """
    metrics = Metrics.create()
    try:
        app = create_app(load_settings(), metrics)
        Reloader(app.extensions["glyph"]).start()
    except ProviderError as error:
        log.critical("the worker ends: %s", error)
        sys.exit(APP_LOAD_ERROR)
    except SystemExit as end:  # raised by a signal handler
        if not end.code:
            metrics.ended()
        raise
    return app


def create_app(settings: ServiceSettings, metrics: Metrics | None = None) -> Flask:
    """Create the application and load its model in this process.

    Without a model to serve, the application is live and not ready, and `/readyz` says why.

    Raises:
        ProviderError: the policy is `cuda` and CUDA does not work.
    """
    app = Flask("serving", static_folder=None)
    app.url_map.converters["default"] = _Segment
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    store = ModelStore.start(settings, metrics)
    app.extensions["glyph"] = store
    pipeline = app.extensions["glyph.pipeline"] = Pipeline(settings, store)
    predictions = Predictions(pipeline)

    @app.post("/predict")
    @app.post("/invocations")
    @app.post("/v1/models/<model>:predict")
    @app.post("/v1/models/<model>/versions/<version>:predict")
    @app.post("/v2/models/<model>/infer")
    @app.post("/v2/models/<model>/versions/<version>/infer")
    def _predict(**_: str) -> FlaskResponse:
        return _response(predictions.answer(request.environ, g.target))

    @app.get("/livez")
    def _livez() -> FlaskResponse:
        """Liveness: the process responds; restart it if this fails."""
        return _json({"live": True})

    @app.get("/readyz")
    @app.get("/healthz")
    @app.get("/ping")
    def _readyz() -> FlaskResponse:
        """Readiness: predictions are answered; send no traffic while this fails.

        SageMaker asks for `/ping`, and takes 200 within two seconds for readiness (docs.aws.amazon.com/sagemaker, Use
        Your Own Inference Code with Hosting Services).
        """
        return _json(store.report())

    # Before the other routes: where a setting names one of their paths, the setting is meant.
    if settings.predict_route is not None:
        app.add_url_rule(settings.predict_route, "_predict", _predict, methods=["POST"])
    if settings.health_route is not None:
        app.add_url_rule(settings.health_route, "_readyz", _readyz, methods=["GET"])

    app.register_blueprint(page.blueprint(store))
    app.register_blueprint(oip_metadata.blueprint(store))
    app.register_blueprint(triton_extensions.blueprint(settings, store))
    app.register_blueprint(model_status.blueprint(store))
    app.register_blueprint(api_docs.blueprint(settings, store))
    register_hooks(app, pipeline)
    app.after_request(_add_request_id)
    app.register_error_handler(ProblemError, _problem)
    app.register_error_handler(HTTPException, _http_problem)
    app.register_error_handler(Exception, _unexpected_error)
    return app


def _response(answer: Response) -> FlaskResponse:
    return FlaskResponse(answer.body, answer.status, answer.headers, content_type=answer.media_type)


def _json(document: dict[str, Any]) -> FlaskResponse:
    return FlaskResponse(orjson.dumps(document), mimetype=JSON, headers={"Cache-Control": "no-store"})


def _add_request_id(response: FlaskResponse) -> FlaskResponse:
    """Add X-Request-ID to a response, unless the pipeline has done so."""
    if "X-Request-ID" not in response.headers:
        response.headers["X-Request-ID"] = request_id(request_of(request.environ).headers)
    return response


def _problem(error: ProblemError) -> FlaskResponse:
    g.refusal = error.kind  # for the metrics
    wsgi_body.discard(request.environ)
    return _response(problem(error, request.path))


def _http_problem(error: HTTPException) -> FlaskResponse:
    """Map the exceptions of Flask and Werkzeug to problems."""
    if error.code == NotFoundError.status:
        return _problem(
            NotFoundError(
                f"there is nothing at {request.path[:100]}",
                remedy="POST images to /predict; GET /docs or /openapi.json lists all paths.",
            )
        )
    if error.code == MethodNotAllowedError.status:
        problem = MethodNotAllowedError(f"{request.path[:100]} does not allow {request.method[:20]}")
        problem.headers = {"Allow": ", ".join(sorted(getattr(error, "valid_methods", None) or ()))}
        return _problem(problem)
    return _problem(
        MalformedBodyError(
            f"the request cannot be processed: {error.name}", remedy="See the API description at /docs."
        )
    )


def _unexpected_error(error: Exception) -> FlaskResponse:
    """Log an unexpected exception, and return 500, or 503 if memory was exhausted, without its details."""
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return _problem(internal_error(error))
