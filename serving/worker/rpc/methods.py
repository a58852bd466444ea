"""What each method answers that makes no prediction: health and metadata, as over REST."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from serving.errors import NotFoundError, NotReadyError
from serving.model.store import ModelStore
from serving.predict.model_metadata import SERVER_METADATA, model_metadata
from serving.predict.oip import GRPC_PATH
from serving.predict.pipeline import engine_of
from serving.worker.rpc.messages import message_class

HEALTH_PATH = "/grpc.health.v1.Health/"
WATCH = f"{HEALTH_PATH}Watch"
SERVICES = ("", GRPC_PATH.strip("/"))
"""What can be asked for in a health check: the whole server, or this service of it."""
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3

HealthRequest = message_class("grpc.health.v1.HealthCheckRequest")
HealthResponse = message_class("grpc.health.v1.HealthCheckResponse")


@dataclass(frozen=True, slots=True)
class Method:
    """A method: the class of its request, the path of REST whose token rule it has, and its answer."""

    request: Any
    twin: str
    answer: Callable[[ModelStore, Any], Any]


def health(store: ModelStore, service: str) -> int:
    """Return the health of a service, of which all have that of the process."""
    if service not in SERVICES:
        return SERVICE_UNKNOWN
    return SERVING if _ready(store) else NOT_SERVING


def _ready(store: ModelStore) -> bool:
    try:
        store.report()
    except NotReadyError:
        return False
    return True


def _check(store: ModelStore, request: Any) -> Any:
    found = health(store, request.service)
    if found == SERVICE_UNKNOWN:
        raise NotFoundError(
            f"there is no service '{request.service[:80]}'", remedy=f"Ask for '' or '{SERVICES[1]}'."
        )
    return HealthResponse(status=found)


def _message(name: str) -> Any:
    return message_class(f"inference.{name}")


def _model_ready(store: ModelStore, request: Any) -> Any:
    """Answer for a model; one that is not served is not found, and while nothing is served none is ready."""
    try:
        engine_of(store, request.name, request.version or None)
    except NotReadyError:
        return _message("ModelReadyResponse")(ready=False)
    return _message("ModelReadyResponse")(ready=_ready(store))


def _model_metadata(store: ModelStore, request: Any) -> Any:
    found = model_metadata(engine_of(store, request.name, request.version or None), store.versions())
    del found["properties"]  # which the protocol has over REST alone
    return _message("ModelMetadataResponse")(**found)


METHODS = {
    f"{HEALTH_PATH}Check": Method(HealthRequest, "/readyz", _check),
    f"{GRPC_PATH}ServerLive": Method(
        _message("ServerLiveRequest"),
        "/v2/health/live",
        lambda _store, _request: _message("ServerLiveResponse")(live=True),
    ),
    f"{GRPC_PATH}ServerReady": Method(
        _message("ServerReadyRequest"),
        "/v2/health/ready",
        lambda store, _request: _message("ServerReadyResponse")(ready=_ready(store)),
    ),
    f"{GRPC_PATH}ServerMetadata": Method(
        _message("ServerMetadataRequest"),
        "/v2",
        lambda _store, _request: _message("ServerMetadataResponse")(**SERVER_METADATA),
    ),
    f"{GRPC_PATH}ModelReady": Method(_message("ModelReadyRequest"), "/v2/models/ready", _model_ready),
    f"{GRPC_PATH}ModelMetadata": Method(_message("ModelMetadataRequest"), "/v2/models", _model_metadata),
}
"""By path."""
