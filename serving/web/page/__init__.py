"""The page at `/`: draw, choose or drop an image, and see the model's prediction.

Static HTML, CSS and JavaScript modules without a framework or a build step; read `assets/main.js` first. The page is
an ordinary client of `POST /predict` and `GET /metadata`, and of `GET /samples`: images of the served model's classes.
"""

import base64
import io
import logging
from importlib.resources import files
from typing import Any

import orjson
from flask import Blueprint, Response
from PIL import Image

from bundle.errors import BundleError
from bundle.golden import GoldenExamples
from bundle.manifest import GOLDEN_FILE
from bundle.repository import Bundle
from serving.errors import NotFoundError
from serving.model.store import ModelStore
from serving.predict.exchange import JSON
from serving.web.constant import Constant, constant, send

log = logging.getLogger("glyph.serving")

PAGE = "index.html"
MEDIA_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
MAX_SAMPLES = 20


def blueprint(store: ModelStore) -> Blueprint:
    """Return the routes `/`, `/assets/NAME` and `/samples`; the page's files are read once, here."""
    routes = Blueprint("page", __name__)
    assets = {
        asset.name: constant(asset.read_bytes(), MEDIA_TYPES[asset.name.rpartition(".")[2]])
        for asset in _directory().iterdir()
    }
    made: dict[str, Constant] = {}
    """The samples of the last version for which they were requested, by its digest."""

    @routes.get("/")
    def _page() -> Response:
        return send(assets[PAGE])

    @routes.get("/assets/<name>")
    def _asset(name: str) -> Response:
        if name == PAGE or name not in assets:
            raise NotFoundError(f"the page has no file {name[:100]!r}", remedy="Open the page at / instead.")
        return send(assets[name])

    @routes.get("/samples")
    def _samples() -> Response:
        """Return an image of each class for which the bundle has one."""
        bundle = store.engine().bundle
        digest = bundle.manifest.digest
        answer = made.get(digest)
        if answer is None:
            try:
                found = samples(bundle)
            except BundleError as error:  # the files were removed; the loaded model works without them
                log.warning("no samples: %s", error)
                return Response(orjson.dumps({"samples": []}), mimetype=JSON)
            made.clear()
            answer = made[digest] = Constant(orjson.dumps({"samples": found}), JSON, digest)
        return send(answer)

    return routes


def samples(bundle: Bundle) -> list[dict[str, Any]]:
    """Return samples in the classes' order, `[{"label": "7", "png": "<base64>"}, ...]`.

    They are golden examples, which are images of the data set; the label is the model's prediction.
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


def _png(pixels: Any) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
