"""Versions by their numbers, while two of them are loaded; and readiness as the protocol tells it."""

import json
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from bench.support.models import publish_synthetic
from serving.settings import ServiceSettings
from serving.web.app import create_app


@pytest.fixture
def client(tmp_path: Path) -> FlaskClient:
    """Return an application that has loaded version 1, and then version 2."""
    first = publish_synthetic(tmp_path)
    app = create_app(ServiceSettings(model=first.path.parent, provider="cpu"))
    publish_synthetic(tmp_path, polarity="black-on-white")
    app.extensions["glyph"].load()
    return app.test_client()


def infer(client: FlaskClient, path: str) -> Any:
    """Ask for an inference of a blank image."""
    data = {"name": "images", "shape": [1, 28, 28], "datatype": "UINT8", "data": [0] * 784}
    return client.post(f"/v2/models/synthetic{path}/infer", data=json.dumps({"inputs": [data]})).get_json()


def test_each_loaded_version_answers_by_its_number(client: FlaskClient) -> None:
    """The newest where none is named; each has its own digest."""
    assert infer(client, "")["model_version"] == "2"
    for version in ("1", "2"):
        path = f"/v2/models/synthetic/versions/{version}"
        assert infer(client, f"/versions/{version}")["model_version"] == version
        assert client.get(path).get_json()["versions"] == ["1", "2"]
        assert client.get(f"{path}/ready").status_code == 200
    assert infer(client, "/versions/3") == {
        "error": "version 3 is not loaded. Ask for one of the versions that are: 1, 2."
    }
    digests = {
        client.get(f"/v2/models/synthetic/versions/{version}").get_json()["properties"]["digest"]
        for version in (1, 2)
    }
    assert len(digests) == 2


def test_a_service_that_is_ending_is_not_ready_and_still_answers(client: FlaskClient) -> None:
    """The load balancer is to send no more; what is under way is answered."""
    client.application.extensions["glyph"].drain()
    for path in ("/v2/health/ready", "/v2/models/synthetic/ready", "/v2/models/synthetic/versions/1/ready"):
        answer = client.get(path)
        assert answer.status_code == 503
        assert "the service is ending" in answer.get_json()["error"]
        assert answer.headers["Retry-After"]
    assert client.get("/v2/health/live").status_code == 200
    assert infer(client, "")["model_version"] == "2"


def test_a_service_without_a_model_is_live_and_not_ready(tmp_path: Path) -> None:
    """Every path that needs one says why."""
    client = create_app(ServiceSettings(model=tmp_path / "synthetic", provider="cpu")).test_client()
    assert client.get("/v2/health/live").get_json() == {"live": True}
    assert client.get("/v2").status_code == 200
    for path in ("/v2/health/ready", "/v2/models/synthetic", "/v2/models/synthetic/versions/1/ready"):
        answer = client.get(path)
        assert answer.status_code == 503
        assert "no model is served" in answer.get_json()["error"]
    assert client.get("/metadata").status_code == 503
    assert client.get("/openapi.json").status_code == 200
    assert client.get("/docs").status_code == 200
