"""The page at `/`: draw, choose or drop an image, and see what the model answers.

Static HTML, CSS and JavaScript modules without a framework or a build step; `assets/main.js` is the one to
open first. The page is a client like any other: it asks `POST /predict` and `GET /metadata`. What only it
needs, samples of the served model's own classes, is answered here.
"""

import base64
import hashlib
import io
import logging
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import orjson
from flask import Blueprint, Response, request
from PIL import Image

from bundle.errors import BundleError
from bundle.golden import GoldenExamples
from bundle.manifest import GOLDEN_FILE
from bundle.repository import Bundle
from serving.errors import NotFoundError
from serving.messages import JSON
from serving.state import ModelState

log = logging.getLogger("glyph.serving")

PAGE = "index.html"
MEDIA_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
MAX_SAMPLES = 20


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page, read once."""

    content: bytes
    media_type: str
    digest: str


def blueprint(state: ModelState) -> Blueprint:
    """Return the routes `/`, `/assets/NAME` and `/samples`; the page's files are read here, once."""
    routes = Blueprint("page", __name__)
    assets = {asset.name: _read(asset.name, asset.read_bytes()) for asset in _directory().iterdir()}

    @routes.get("/")
    def _page() -> Response:
        return _send(assets[PAGE])

    @routes.get("/assets/<name>")
    def _asset(name: str) -> Response:
        if name == PAGE or name not in assets:
            raise NotFoundError(f"the page has no file {name[:100]!r}", remedy="Open the page at / instead.")
        return _send(assets[name])

    @routes.get("/samples")
    def _samples() -> Response:
        """Answer images of the served model's classes, one for each where it has one."""
        bundle = state.engine().bundle
        response = Response(mimetype=JSON)
        response.set_etag(bundle.manifest.digest)
        response.cache_control.no_cache = True
        # No golden example is read or encoded for who has them already.
        if request.if_none_match.contains(bundle.manifest.digest):
            response.make_conditional(request)
            return response
        try:
            found = samples(bundle)
        except BundleError as error:  # its files are gone; what is loaded answers all the same
            log.warning("no samples: %s", error)
            return Response(orjson.dumps({"samples": []}), mimetype=JSON)
        response.set_data(orjson.dumps({"samples": found}))
        return response

    return routes


def samples(bundle: Bundle) -> list[dict[str, Any]]:
    """Return samples in the classes' order, `[{"label": "7", "png": "<base64>"}, ...]`.

    They are golden examples, real images of the data set; the label is what the model says of them.
    """
    golden = GoldenExamples.from_bytes(bundle.read(GOLDEN_FILE), bundle.manifest)
    first: dict[int, int] = {}
    for example, index in enumerate(golden.probabilities.argmax(axis=1).tolist()):
        first.setdefault(index, example)
    chosen = sorted(first.items())[:MAX_SAMPLES]
    return [
        {"label": bundle.manifest.classes[index], "png": _png(golden.images[example])}
        for index, example in chosen
    ]


def _directory() -> Any:
    return files(__name__) / "assets"


def _read(name: str, content: bytes) -> Asset:
    return Asset(content, MEDIA_TYPES[name.rpartition(".")[2]], hashlib.sha256(content).hexdigest()[:32])


def _send(asset: Asset) -> Response:
    """Answer a file; a browser keeps it and asks each time whether it is still the same."""
    response = Response(asset.content, mimetype=asset.media_type)
    response.set_etag(asset.digest)
    response.cache_control.no_cache = True
    response.make_conditional(request)
    return response


def _png(pixels: Any) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
