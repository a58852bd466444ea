"""Triton's extensions of the Open Inference Protocol: model configuration, statistics, and the model repository.

Sources: triton-inference-server/server, docs/protocol/extension_model_configuration.md, extension_statistics.md and
extension_model_repository.md.
"""

from typing import Any

import orjson
from flask import Blueprint, Response, request

from bundle.errors import BundleError
from bundle.repository import published
from bundle.triton import MAX_BATCH, model_config
from serving.errors import InvalidInstanceError, ModelControlError
from serving.model.store import ModelStore
from serving.predict.bodies import json_documents
from serving.predict.exchange import JSON
from serving.predict.pipeline import engine_of
from serving.settings import ServiceSettings
from serving.web.inference_statistics import statistics

EXTENSIONS = ("model_configuration", "model_repository", "statistics")
NOT_LOADED = "it is published and not loaded: a newer one is served, or another one is pinned (GLYPH_VERSION)"


def blueprint(settings: ServiceSettings, store: ModelStore) -> Blueprint:
    """Return the routes."""
    routes = Blueprint("triton", __name__)

    @routes.get("/v2/models/<model>/config")
    @routes.get("/v2/models/<model>/versions/<version>/config")
    def _config(model: str, version: str | None = None) -> Response:
        manifest = engine_of(store, model, version).bundle.manifest
        most = min(MAX_BATCH, settings.max_images)
        return _json(model_config(manifest.name, len(manifest.classes), most))

    @routes.get("/v2/models/stats")
    @routes.get("/v2/models/<model>/stats")
    @routes.get("/v2/models/<model>/versions/<version>/stats")
    def _stats(model: str | None = None, version: str | None = None) -> Response:
        engine = engine_of(store, model, version)
        served, numbers = store.engine().bundle, store.metrics.of_service()
        shown = store.versions() if version is None else [engine.bundle.version]
        name = served.manifest.name
        return _json({"model_stats": [statistics(numbers, name, each, served.version) for each in shown]})

    @routes.post("/v2/repository/index")
    def _index() -> Response:
        return _json(_listed(settings, store, only_ready=_only_ready(request.get_data())))

    @routes.post("/v2/repository/models/<model>/load")
    @routes.post("/v2/repository/models/<model>/unload")
    def _control(model: str) -> Response:
        engine_of(store, model)  # another model is not found
        raise ModelControlError

    return routes


def _only_ready(body: bytes) -> bool:
    """Return the member `ready` of a request for the index, whose body may be empty.

    Raises:
        ProblemError: the body is no such request.
    """
    document = json_documents.read(body, 1) if body else {}
    ready = document.get("ready", False) if isinstance(document, dict) else None
    if not isinstance(ready, bool):
        raise InvalidInstanceError(
            "the body is no request for the index",
            remedy='Send {"ready": true} or {"ready": false}, or no body.',
        )
    return ready


def _listed(settings: ServiceSettings, store: ModelStore, *, only_ready: bool) -> list[dict[str, str]]:
    """Return the published versions of the model in ascending order, with their states and reasons."""
    loaded, facts = store.versions(), store.published_facts()
    refused = {each["version"]: each["reason"] for each in facts["refused"]}
    name = (
        facts["model"]["name"] if "model" in facts else settings.served_name or settings.model_directory.name
    )
    try:
        found = published(settings.model_directory)
    except BundleError:  # the directory cannot be read at the moment
        found = []
    entries = []
    for version in sorted({*found, *loaded}):
        if version in loaded:
            entries.append({"name": name, "version": str(version), "state": "READY", "reason": ""})
        elif not only_ready:
            reason = refused.get(version, NOT_LOADED)
            entries.append({"name": name, "version": str(version), "state": "UNAVAILABLE", "reason": reason})
    return entries


def _json(document: Any) -> Response:
    return Response(orjson.dumps(document), mimetype=JSON, headers={"Cache-Control": "no-store"})
