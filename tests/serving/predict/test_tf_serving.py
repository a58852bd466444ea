"""TensorFlow Serving's predict API by hand: what its text says of requests, answers and errors."""

import base64
import gzip
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bench.support.management import Managed
from bench.support.models import Linear
from bench.support.pictures import png
from bench.support.processes import Answer, Service

Pixels = npt.NDArray[np.uint8]
PREDICT = "/v1/models/synthetic:predict"
CURL = "application/x-www-form-urlencoded"
"""The content type of curl's -d, as in the examples of TensorFlow Serving."""


def predict(service: Service, body: Any, path: str = PREDICT, **headers: Any) -> Answer:
    """Post a body, without a content type unless one is given."""
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return service.ask("POST", path, sent, **headers)


def b64(image: Pixels) -> dict[str, str]:
    """Return an image as TensorFlow Serving's clients send binary values."""
    return {"b64": base64.b64encode(png(image)).decode()}


def test_rows_are_answered_by_predictions_and_columns_by_outputs(
    service: Service, digit: Pixels, linear: Linear
) -> None:
    """In order, as the probabilities of one output; whatever form an image has, and whoever names the input."""
    images = np.stack([digit, 255 - digit, digit.T])
    expected = linear.probabilities(images)
    forms: list[list[Any]] = [
        images.tolist(),
        images[..., None].tolist(),
        images.reshape(3, 784).tolist(),
        [b64(image) for image in images],
        [images[0].tolist(), b64(images[1]), images[2].ravel().tolist()],
    ]
    bodies: list[tuple[dict[str, Any], str]] = [({"instances": form}, "predictions") for form in forms]
    bodies += [({"instances": [{"images": image} for image in form]}, "predictions") for form in forms]
    bodies += [({"inputs": form}, "outputs") for form in forms]
    bodies += [({"inputs": {"images": form}}, "outputs") for form in forms]
    for body, member in bodies:
        answer = predict(service, body)
        assert answer.status == 200, answer.body
        assert answer.headers["Content-Type"] == "application/json"
        assert list(answer.json()) == [member]
        assert np.allclose(answer.json()[member], expected, atol=1e-5)


def test_a_body_is_json_whatever_it_is_called_and_members_of_others_are_ignored(
    service: Service, digit: Pixels
) -> None:
    """Curl's -d, KServe's client and Vertex AI; compressed too, and of a version."""
    body = {"instances": [digit.tolist()]}
    plain = predict(service, body).body
    whole = json.dumps(body).encode()
    for answer in (
        predict(service, body, Content_Type=CURL),
        predict(service, body, Content_Type="application/json"),
        predict(service, gzip.compress(whole), Content_Encoding="gzip"),
        predict(service, body | {"signature_name": "serving_default", "parameters": {"a": None}}),
        predict(service, body, "/v1/models/synthetic/versions/1:predict"),
        predict(service, body, "/v1/models/synthetic%3Apredict"),
    ):
        assert (answer.status, answer.body) == (200, plain)


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        (PREDICT, b"", 400, "the request has no body"),
        (PREDICT, b"{", 400, "the body is not JSON"),
        (PREDICT, [], 400, "neither 'instances' nor 'inputs'"),
        (PREDICT, {"instances": [[0] * 784], "inputs": [[0] * 784]}, 400, "both 'instances' and 'inputs'"),
        (PREDICT, {"instances": []}, 400, "'instances' is a list of 0"),
        (PREDICT, {"inputs": {"b64": "AAAA"}}, 400, "'inputs' is an object"),
        (PREDICT, {"inputs": [[0] * 784], "top": 3}, 400, "unknown member 'top'"),
        (PREDICT, {"instances": [[0] * 784], "signature_name": 3}, 400, "'signature_name' is 3"),
        (PREDICT, {"instances": [[0] * 783]}, 400, "a list of 783"),
        (PREDICT, {"instances": [{"b64": "AAAA"}]}, 415, "is no supported image"),
        (PREDICT, {"instances": [{"image": [0] * 784}]}, 400, "the instance is an object"),
        (PREDICT, {"instances": [[0] * 784] * 1025}, 413, "1025 instances"),
        (f"{PREDICT}?top=3", {"instances": [[0] * 784]}, 400, "takes no query parameters"),
        ("/v1/models/other:predict", {"instances": [[0] * 784]}, 404, "The served model is 'synthetic'"),
        ("/v1/models/synthetic/versions/9:predict", {"instances": [[0] * 784]}, 404, "version 9"),
        ("/v1/models/synthetic/versions/x:predict", {"instances": [[0] * 784]}, 404, "'x' is not a version"),
        ("/v1/models/synthetic:explain", {"instances": [[0] * 784]}, 404, "nothing at"),
    ],
)
def test_an_error_has_the_protocols_form(
    service: Service, path: str, body: Any, status: int, words: str
) -> None:
    """One member, `error`, which says what to do; 422 is 400, as for the protocol's other errors."""
    answer = predict(service, body, path)
    assert answer.status == status, answer.body
    assert list(answer.json()) == ["error"]
    assert words in answer.json()["error"]


def test_the_models_status_is_kserves_and_tensorflow_servings(service: Service) -> None:
    """Both clients find their own members."""
    status = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    expected = {"name": "synthetic", "ready": True, "model_version_status": [status]}
    for path in ("/v1/models/synthetic", "/v1/models/synthetic/versions/1"):
        assert service.ask("GET", path).json() == expected
    assert service.ask("GET", "/v1/models").json() == {"models": ["synthetic"]}
    for path in ("/v1/models/other", "/v1/models/synthetic/versions/9", "/v1/models/a:b"):
        answer = service.ask("GET", path)
        assert (answer.status, list(answer.json())) == (404, ["error"])


def test_deadlines_and_metrics_are_those_of_predict(pod: Managed, digit: Pixels) -> None:
    """A deadline that is no number is refused; each route is counted under its own template."""
    body = json.dumps({"instances": [digit.tolist()]}).encode()
    path, template = "/v1/models/synthetic:predict", "/v1/models/{model}:predict"
    before = pod.value("glyph_http_requests_total", route=template, status="200")
    assert predict(pod.service, body, path).status == 200
    refused = predict(pod.service, body, path, X_Request_Timeout_Ms="soon")
    assert (refused.status, "soon" in refused.json()["error"]) == (400, True)
    pod.await_value(before + 1, "glyph_http_requests_total", route=template, status="200")
    assert pod.value("glyph_http_requests_total", route=template, status="400") >= 1
    assert pod.service.ask("POST", "/invocations", png(digit), Content_Type="image/png").status == 200
    assert pod.value("glyph_http_requests_total", route="/invocations", status="200") >= 1
