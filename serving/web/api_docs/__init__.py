"""`/metadata`, the API's description at `/openapi.json`, and the same as HTML at `/docs`.

Read `openapi.yaml` first, which is the source of the description; `openapi.py` completes it from the code.
"""

import functools
from importlib.resources import files
from typing import Any

import orjson
from flask import Blueprint, Response, render_template

from bundle.images.decoding import CONVERSIONS, PARSERS
from serving.model.engine import Engine
from serving.model.store import ModelStore
from serving.predict.exchange import JSON
from serving.settings import ServiceSettings
from serving.web.api_docs.openapi import document, limits
from serving.web.constant import Constant, constant, send

STYLE = "/assets/docs.css"
"""Below `/assets/`, which is public even if tokens are required."""


def blueprint(settings: ServiceSettings, store: ModelStore) -> Blueprint:
    """Return the routes; the description and its page are made at their first request."""
    routes = Blueprint("description", __name__, template_folder="templates")
    style = constant(files(__name__).joinpath("assets/style.css").read_bytes(), "text/css")

    described = functools.cache(lambda: document(settings))
    as_json = functools.cache(lambda: constant(orjson.dumps(described()), JSON))

    @functools.cache  # its links are relative, so it is the same below every path prefix
    def page() -> Constant:
        shown = {
            "api": described(),
            "pretty": pretty,
            "in_words": in_words,
            "resolved": resolved,
            "style": STYLE,
        }
        return constant(render_template("docs.html", **shown).encode(), "text/html")

    @routes.get("/metadata")
    def _metadata() -> Response:
        return _json(orjson.dumps(metadata(store.engine(), settings)))

    @routes.get("/openapi.json")
    def _openapi() -> Response:
        return send(as_json())

    @routes.get("/docs")
    def _docs() -> Response:
        return send(page())

    @routes.get(STYLE)
    def _style() -> Response:
        return send(style)

    return routes


def metadata(engine: Engine, settings: ServiceSettings) -> dict[str, Any]:
    """Return the model's input contract, classes, accuracy and calibration, and the limits of a request."""
    manifest = engine.bundle.manifest
    contract = manifest.input.model_dump()
    return {
        "model": {"name": manifest.name, "version": engine.bundle.version, "digest": manifest.digest},
        "created": manifest.created,
        "provider": engine.provider,
        "arithmetic": engine.precision,
        "input": contract | {"media_types": list(PARSERS), "conversions": CONVERSIONS},
        "classes": manifest.classes,
        "validation": manifest.validation.model_dump(),
        "test": manifest.test.model_dump(),
        "calibration": {"method": "temperature scaling", "temperature": manifest.temperature},
        "limits": limits(settings),
    }


def resolved(node: dict[str, Any], api: dict[str, Any]) -> dict[str, Any]:
    """Resolve a `$ref` of the description; return a node without one unchanged."""
    while "$ref" in node:
        found: Any = api
        for name in node["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        node = found
    return node


def in_words(schema: dict[str, Any]) -> str:
    """Return the schema of a parameter as one line: `integer, minimum 1`."""
    words = [str(value) if name == "type" else f"{name} {_text(value)}" for name, value in schema.items()]
    return ", ".join(words).replace('"', "")


def pretty(value: Any) -> str:
    """Return indented JSON, with lists of numbers on one line and long lists shortened."""
    return "\n".join(_lines(value))


def _lines(value: Any) -> list[str]:
    if isinstance(value, dict) and value:
        opening, members, closing = "{", [(f"{_text(k)}: ", v) for k, v in value.items()], "}"
    elif isinstance(value, list) and value:
        if all(isinstance(item, int | float) for item in value):
            shown = ", ".join(map(_text, value[:12]))
            return [f"[{shown}]" if len(value) <= 12 else f"[{shown}, ... {len(value)} in all]"]
        opening, members, closing = "[", [("", item) for item in value], "]"
        if len(members) > 4 and all(isinstance(item, list) for item in value):
            members = [*members[:2], ("", f"... {len(value)} lists in all")]
    else:
        text = _text(value)
        return [text if len(text) <= 90 else f'{text[:84]}..."']
    lines = [opening]
    for place, (name, member) in enumerate(members, 1):
        inner = _lines(member)
        inner[-1] += "," if place < len(members) else ""
        lines += [f"  {name}{inner[0]}", *(f"  {line}" for line in inner[1:])]
    return [*lines, closing]


def _text(value: Any) -> str:
    return orjson.dumps(value).decode()


def _json(body: bytes) -> Response:
    return Response(body, mimetype=JSON, headers={"Cache-Control": "no-store"})
