"""Every protocol by both worker classes: the same status, fields and bytes, timing aside."""

import base64
import gzip
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from bench.support.pictures import png
from bench.support.processes import PNG, Part, Service, form, running
from bundle.repository import Bundle

OF_TIME = {"date", "server-timing"}
IMAGES = np.random.default_rng(53).integers(0, 256, (7, 28, 28), dtype=np.uint8)
FILE = png(IMAGES[0])
FORM, FORM_TYPE = form(Part(FILE), Part(png(255 - IMAGES[1]), filename="other.png"))
INSTANCES = {"instances": [*IMAGES.tolist(), base64.b64encode(FILE).decode(), IMAGES[2].ravel().tolist()]}
TENSOR = {"name": "images", "shape": [7, 28, 28], "datatype": "UINT8"}
INFERENCE = json.dumps({"id": "7", "inputs": [TENSOR | {"data": IMAGES.ravel().tolist()}]}).encode()
INFER = "/v2/models/synthetic/infer"


def npy() -> bytes:
    """Return the images as NumPy saves them."""
    buffer = io.BytesIO()
    np.save(buffer, IMAGES)
    return buffer.getvalue()


REQUESTS: list[tuple[str, str, bytes | None, dict[str, Any]]] = [
    ("POST", "/predict", FILE, {"Content_Type": PNG}),
    ("POST", "/predict?top=2&threshold=0.9", FORM, {"Content_Type": FORM_TYPE}),
    ("POST", "/predict", json.dumps(INSTANCES).encode(), {"Content_Type": "application/json"}),
    ("POST", "/predict", npy(), {"Content_Type": "application/x-npy"}),
    (
        "POST",
        "/predict",
        gzip.compress(IMAGES.tobytes(), mtime=0),
        {
            "Content_Type": "application/octet-stream",
            "Content_Encoding": "gzip",
        },
    ),
    ("POST", "/predict?top=x", FILE, {"Content_Type": PNG}),
    ("POST", "/predict", b"{", {"Content_Type": "application/json"}),
    ("POST", "/predict", FILE, {"Content_Type": PNG, "Content_Encoding": "br"}),
    ("POST", "/predict", FILE[:70], {"Content_Type": PNG}),
    ("POST", "/predict", bytes((8 << 20) + 1), {"Content_Type": PNG}),
    ("POST", INFER, INFERENCE, {}),
    ("POST", INFER, IMAGES.tobytes(), {"Inference_Header_Content_Length": "0"}),
    ("POST", "/v2/models/synthetic/versions/1/infer", INFERENCE, {}),
    ("POST", "/v2/models/synthetic/versions/9/infer", INFERENCE, {}),
    ("POST", INFER, b"[]", {}),
    ("POST", "/v2/models/an%20other/infer?top=1", INFERENCE, {}),
    ("GET", INFER, None, {}),
    *(
        ("GET", path, None, {})
        for path in ("/v2", "/v2/models/synthetic", "/v2/health/ready", "/metadata", "/openapi.json", "/docs")
    ),
    *(
        ("GET", path, None, {})
        for path in ("/livez", "/readyz", "/predict", "/nowhere", "/v2/nowhere", "/assets/docs.css")
    ),
]


@pytest.fixture(scope="module")
def both_services(
    bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, Service]]:
    """Return two services of the same model."""
    directory = tmp_path_factory.mktemp("services")
    settings: dict[str, Any] = {"until": "/readyz", "model": bundle.path.parent}
    with (
        running(directory, worker="inference", **settings) as worker,
        running(directory, worker="gthread", **settings) as threads,
    ):
        yield worker, threads


def test_both_worker_classes_answer_the_same_bytes(both_services: tuple[Service, Service]) -> None:
    """Predictions, metadata, pages and errors."""
    statuses = set()
    for method, path, body, fields in REQUESTS:
        more: dict[str, Any] = {"X_Request_ID": "one"} | fields
        first, second = (service.ask(method, path, body, **more) for service in both_services)
        assert (first.status, first.body) == (second.status, second.body), (method, path)
        found = [
            sorted(
                (name.lower(), value) for name, value in answer.headers.items() if name.lower() not in OF_TIME
            )
            for answer in (first, second)
        ]
        assert found[0] == found[1], (method, path)
        statuses.add(first.status)
    assert statuses == {200, 400, 404, 405, 413, 415, 422}
