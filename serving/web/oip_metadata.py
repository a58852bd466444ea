"""Open Inference Protocol: health, and metadata of the server and the model.

Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md. `pipeline.problem` gives errors below
`/v2` the protocol's form.
"""

from typing import Any

import orjson
from flask import Blueprint, Response

from serving.model.store import ModelStore
from serving.predict.exchange import JSON
from serving.predict.model_metadata import EXTENSIONS, SERVER_METADATA, model_metadata
from serving.predict.pipeline import engine_of
from serving.web import triton_extensions

_SERVER = {**SERVER_METADATA, "extensions": [*EXTENSIONS, *triton_extensions.EXTENSIONS]}
"""Triton's extensions have no counterpart over gRPC here."""


def blueprint(store: ModelStore) -> Blueprint:
    """Return the routes."""
    routes = Blueprint("oip", __name__)

    @routes.get("/v2", strict_slashes=False)
    def _server() -> Response:
        return _json(_SERVER)

    @routes.get("/v2/health/live")
    def _live() -> Response:
        return _json({"live": True})

    @routes.get("/v2/health/ready")
    def _ready() -> Response:
        store.report()  # raises NotReadyError, also while the process is ending
        return _json({"ready": True, "live": True})

    @routes.get("/v2/models/<model>")
    @routes.get("/v2/models/<model>/versions/<version>")
    def _model(model: str, version: str | None = None) -> Response:
        return _json(model_metadata(engine_of(store, model, version), store.versions()))

    @routes.get("/v2/models/<model>/ready")
    @routes.get("/v2/models/<model>/versions/<version>/ready")
    def _model_ready(model: str, version: str | None = None) -> Response:
        engine_of(store, model, version)
        store.report()
        return _json({"name": model, "ready": True})

    return routes


def _json(document: dict[str, Any]) -> Response:
    return Response(orjson.dumps(document), mimetype=JSON, headers={"Cache-Control": "no-store"})
