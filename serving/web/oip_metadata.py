"""Open Inference Protocol: health, and metadata of the server and the model.

Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md. `pipeline.problem` gives errors below
`/v2` the protocol's form.
"""

from typing import Any

import orjson
from flask import Blueprint, Response

from bundle import __version__
from bundle.manifest import IMAGE_SIZE
from serving.model.engine import PROVIDER_NAMES, Engine
from serving.model.store import ModelStore
from serving.predict.exchange import JSON
from serving.predict.oip import INPUT, OUTPUTS
from serving.predict.pipeline import engine_of
from serving.web import triton_extensions

EXTENSIONS = ["binary_tensor_data", *triton_extensions.EXTENSIONS]
PLATFORM = "onnx_onnxv1"


def blueprint(store: ModelStore) -> Blueprint:
    """Return the routes."""
    routes = Blueprint("oip", __name__)

    @routes.get("/v2", strict_slashes=False)
    def _server() -> Response:
        return _json({"name": "glyph", "version": __version__, "extensions": EXTENSIONS})

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
        return _json(_metadata(engine_of(store, model, version), store.versions()))

    @routes.get("/v2/models/<model>/ready")
    @routes.get("/v2/models/<model>/versions/<version>/ready")
    def _model_ready(model: str, version: str | None = None) -> Response:
        engine_of(store, model, version)
        store.report()
        return _json({"name": model, "ready": True})

    return routes


def _metadata(engine: Engine, versions: list[int]) -> dict[str, Any]:
    manifest = engine.bundle.manifest
    return {
        "name": manifest.name,
        "versions": [str(loaded) for loaded in versions],
        "platform": PLATFORM,
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, IMAGE_SIZE, IMAGE_SIZE]}],
        "outputs": [
            {"name": name, "datatype": "FP32", "shape": [-1, len(manifest.classes)]} for name in OUTPUTS
        ],
        # Strings by name (open_inference_rest.yaml).
        "properties": {
            "digest": manifest.digest,
            "execution_provider": PROVIDER_NAMES[engine.provider],
            "arithmetic": engine.precision,
            **({"resize": manifest.input.resize} if manifest.input.resize else {}),
        },
    }


def _json(document: dict[str, Any]) -> Response:
    return Response(orjson.dumps(document), mimetype=JSON, headers={"Cache-Control": "no-store"})
