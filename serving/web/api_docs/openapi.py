"""The API's description: `openapi.yaml`, completed from code and settings."""

from collections.abc import Iterable
from importlib.resources import files
from itertools import chain
from typing import Any

import orjson

from bundle import __version__
from bundle.images.hardening import MAX_FILE_BYTES, MAX_SIDE, SERVED_PIXELS
from serving.errors import (
    MalformedBodyError,
    MalformedRequestError,
    OverloadedError,
    ProblemError,
    RequestTimeoutError,
    problem_classes,
)
from serving.predict import pipeline
from serving.predict.exchange import JSON, Response
from serving.security import tokens
from serving.settings import ServiceSettings

BEFORE_READING = {MalformedBodyError, MalformedRequestError, OverloadedError, RequestTimeoutError}
"""Problems that may occur before a request is read completely, so that the response has no request id."""


def document(settings: ServiceSettings) -> dict[str, Any]:
    """Return the OpenAPI document; `settings` has the limits, and whether tokens are required."""
    api = _template()
    del api["x-image"]
    paths, schemas = api["paths"], api["components"]["schemas"]
    api["info"]["version"] = __version__
    _example(paths["/v2"])["version"] = __version__
    _example(paths["/metadata"])["limits"] = limits(settings)
    schemas["Instances"]["properties"]["instances"]["maxItems"] = settings.max_images
    schemas["RequestInput"]["properties"]["shape"]["prefixItems"][0]["maximum"] = settings.max_images
    by_kind = {kind.kind: kind for kind in problem_classes()}
    for path, operations in paths.items():
        for operation in operations.values():
            named = chain.from_iterable(operation.pop("x-problems", ()))
            errors = _error_responses(path, (by_kind[name] for name in named))
            operation["responses"] = operation["responses"] | errors
    if settings.tokens_file is not None:
        api["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        api["security"] = [{"bearer": []}]
        for path in tokens.public_paths(settings) & paths.keys():
            if "get" in paths[path]:  # a health route of the settings may be any path
                paths[path]["get"]["security"] = []
    return api


def limits(settings: ServiceSettings) -> dict[str, int]:
    """Return the limits of one request."""
    return {
        "body_bytes": settings.max_body_bytes,
        "image_bytes": MAX_FILE_BYTES,
        "image_pixels": SERVED_PIXELS,
        "image_side": MAX_SIDE,
        "files": settings.max_files,
        "images": settings.max_images,
    }


def _template() -> dict[str, Any]:
    """Return `openapi.yaml`, parsed."""
    import yaml  # imported only by a worker that serves the description

    # CSafeLoader is ten times as fast, if PyYAML was built with libyaml.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    file = files(__package__).joinpath("openapi.yaml")
    written: dict[str, Any] = loader(file.read_bytes()).get_single_data()
    return written


def _example(operations: dict[str, Any]) -> dict[str, Any]:
    """Return the example of an operation's response."""
    content = operations["get"]["responses"]["200"]["content"]
    value: dict[str, Any] = content[JSON]["examples"]["answer"]["value"]
    return value


def _error_responses(path: str, classes: Iterable[type[ProblemError]]) -> dict[str, Any]:
    """Return the error responses by status, with an example of each problem, made by the code that answers with it."""
    found: dict[int, list[tuple[type[ProblemError], Response]]] = {}
    for kind in classes:
        # Nobody has looked at the path of a request that cannot be read.
        answer = pipeline.problem(kind(), "" if kind is MalformedRequestError else path)
        found.setdefault(int(answer.status), []).append((kind, answer))
    return {str(status): _response(found[status]) for status in sorted(found)}


def _response(errors: list[tuple[type[ProblemError], Response]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for kind, answer in errors:
        schema = "ProtocolError" if answer.media_type == JSON else "Problem"
        entry = {"schema": {"$ref": f"#/components/schemas/{schema}"}, "examples": {}}
        examples = content.setdefault(answer.media_type, entry)["examples"]
        examples[kind.kind] = {"value": orjson.loads(answer.body)}
    fields = {name: name for _, answer in errors for name in answer.headers}
    whole = BEFORE_READING.isdisjoint(kind for kind, _ in errors)
    fields["X-Request-ID"] = "X-Request-ID" if whole else "X-Request-ID-if-read"
    return {
        "description": "; or: ".join(kind.title for kind, _ in errors),
        "headers": {name: {"$ref": f"#/components/headers/{place}"} for name, place in fields.items()},
        "content": content,
    }
