"""Status of the model in TensorFlow Serving's REST API and KServe's V1 protocol: `/v1/models`.

One object has the members of both: KServe's `name` and `ready`, TensorFlow Serving's `model_version_status`. Sources as
for `serving/predict/tf_serving.py`; a model that is not ready is 503, as KServe answers.
"""

from typing import Any

import orjson
from flask import Blueprint, Response

from serving.model.store import ModelStore
from serving.predict.exchange import JSON
from serving.predict.pipeline import engine_of


def blueprint(store: ModelStore) -> Blueprint:
    """Return the routes."""
    routes = Blueprint("model_status", __name__)

    @routes.get("/v1/models")
    def _models() -> Response:
        return _json({"models": [store.engine().bundle.manifest.name]})

    @routes.get("/v1/models/<model>")
    @routes.get("/v1/models/<model>/versions/<version>")
    def _model(model: str, version: str | None = None) -> Response:
        engine = engine_of(store, model, version)
        store.report()  # raises NotReadyError, also while the process is ending
        shown = store.versions() if version is None else [engine.bundle.version]
        return _json(
            {
                "name": model,
                "ready": True,
                "model_version_status": [_available(loaded) for loaded in reversed(shown)],
            }
        )

    return routes


def _available(version: int) -> dict[str, Any]:
    """Return the `ModelVersionStatus` of a loaded version (tensorflow_serving/apis/get_model_status.proto)."""
    return {
        "version": str(version),
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }


def _json(document: dict[str, Any]) -> Response:
    return Response(orjson.dumps(document), mimetype=JSON, headers={"Cache-Control": "no-store"})
