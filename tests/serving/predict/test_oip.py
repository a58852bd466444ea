"""The Open Inference Protocol by hand: what its text says, and what its clients never send."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bench.support.models import Linear
from bench.support.processes import Answer, Service
from bundle.repository import Bundle
from serving.system.cpus import multiplies_bytes

Pixels = npt.NDArray[np.uint8]
INFER = "/v2/models/synthetic/infer"
LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="session")
def images() -> Pixels:
    """Return two images."""
    return np.random.default_rng(41).integers(0, 256, (2, 28, 28), dtype=np.uint8)


def an_input(images: Pixels, **members: Any) -> dict[str, Any]:
    """Return an input tensor with flat data."""
    tensor = {
        "name": "images",
        "shape": list(images.shape),
        "datatype": "UINT8",
        "data": images.ravel().tolist(),
    }
    return {key: value for key, value in (tensor | members).items() if value is not ...}


def infer(service: Service, document: Any, binary: bytes = b"", length: int | str | None = None) -> Answer:
    """Post an inference request, its tensors behind it."""
    head = document if isinstance(document, bytes) else json.dumps(document).encode()
    fields: dict[str, Any] = (
        {} if length is None and not binary else {LENGTH: str(len(head) if length is None else length)}
    )
    return service.ask("POST", INFER, head + binary, **fields)


def outputs_of(answer: Answer) -> dict[str, npt.NDArray[np.float32]]:
    """Return the output tensors by name, whether they are in the JSON or behind it."""
    assert answer.status == 200, answer.body
    length = int(answer.headers[LENGTH] or len(answer.body))
    document, behind = json.loads(answer.body[:length]), answer.body[length:]
    outputs = {}
    for tensor in document["outputs"]:
        assert tensor["datatype"] == "FP32"
        if "data" in tensor:
            values = np.array(tensor["data"], np.float32)
        else:
            size = tensor["parameters"]["binary_data_size"]
            values, behind = np.frombuffer(behind[:size], "<f4"), behind[size:]
        outputs[tensor["name"]] = values.reshape(tensor["shape"])
    assert not behind
    return outputs


def assert_error(answer: Answer, status: int, *words: str) -> None:
    """Check that an error has the protocol's form and these words."""
    assert answer.status == status, answer.body
    assert answer.headers["Content-Type"] == "application/json"
    document = answer.json()
    assert list(document) == ["error"]
    assert all(word in document["error"] for word in words), document


@pytest.mark.parametrize("way", ["numbers", "binary", "raw"])
def test_a_blank_image_is_warned_of_in_a_parameter_of_the_response(
    service: Service, images: Pixels, way: str
) -> None:
    """The protocol has no member for warnings; without one there are no parameters, as before."""
    answers = []
    images = images.copy()
    images[:, [0, -1]] = 0
    for sent in (images, np.stack([images[0], images[0] * 0])):
        if way == "numbers":
            answer = infer(service, {"inputs": [an_input(sent)]})
        elif way == "binary":
            tensor = an_input(sent, data=..., parameters={"binary_data_size": sent.size})
            answer = infer(service, {"inputs": [tensor]}, sent.tobytes())
        else:
            answer = infer(service, b"", sent.tobytes(), 0)
        assert outputs_of(answer).keys() == {"logits", "probabilities"}
        answers.append(json.loads(answer.body[: int(answer.headers[LENGTH] or len(answer.body))]))
    assert "parameters" not in answers[0]
    assert answers[1]["parameters"]["warnings"].startswith("image 1: looks blank")


def test_the_protocols_own_objects(service: Service, bundle: Bundle) -> None:
    """Each path answers the object that the text names, and no more than it."""
    assert set(service.ask("GET", "/v2").json()) == {"name", "version", "extensions"}
    assert service.ask("GET", "/v2/").status == 200
    assert service.ask("GET", "/v2/health/live").json() == {"live": True}
    assert service.ask("GET", "/v2/health/ready").json()["ready"] is True
    shape = {"datatype": "FP32", "shape": [-1, 10]}
    expected = {
        "name": "synthetic",
        "versions": ["1"],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, 28, 28]}],
        "outputs": [{"name": "logits", **shape}, {"name": "probabilities", **shape}],
        "properties": {
            "digest": bundle.manifest.digest,
            "execution_provider": "CPUExecutionProvider",
            "arithmetic": "integer" if multiplies_bytes() else "float32",
        },
    }
    for path in ("/v2/models/synthetic", "/v2/models/synthetic/versions/1"):
        assert service.ask("GET", path).json() == expected
        assert service.ask("GET", f"{path}/ready").json() == {"name": "synthetic", "ready": True}


def test_an_inference_answers_all_outputs_or_those_named(
    service: Service, images: Pixels, linear: Linear
) -> None:
    """In the order in which they are named; flat data and nested are the same; the id comes back."""
    answer = infer(service, {"id": "42", "inputs": [an_input(images)]})
    assert list(answer.json()) == ["model_name", "model_version", "id", "outputs"]
    assert (answer.json()["model_name"], answer.json()["model_version"], answer.json()["id"]) == (
        "synthetic",
        "1",
        "42",
    )
    found = outputs_of(answer)
    assert list(found) == ["logits", "probabilities"]
    assert np.allclose(found["probabilities"], linear.probabilities(images), atol=1e-5)
    assert np.allclose(found["logits"], linear.logits(images), atol=1e-3)

    nested = an_input(images, data=images.tolist())
    answer = infer(service, {"inputs": [nested], "outputs": [{"name": "probabilities"}, {"name": "logits"}]})
    assert list(outputs_of(answer)) == ["probabilities", "logits"]
    assert "id" not in answer.json()
    again = outputs_of(
        service.ask("POST", "/v2/models/synthetic/versions/1/infer", json.dumps({"inputs": [nested]}))
    )
    assert all((again[name] == found[name]).all() for name in found)


def test_a_byte_order_mark_before_the_json_is_ignored(service: Service, images: Pixels) -> None:
    """It counts as the JSON's where a tensor follows."""
    expected = outputs_of(infer(service, {"inputs": [an_input(images)]}))
    tensor = an_input(images, data=..., parameters={"binary_data_size": images.size})
    head = b"\xef\xbb\xbf" + json.dumps({"inputs": [tensor]}).encode()
    assert (outputs_of(infer(service, head, images.tobytes()))["logits"] == expected["logits"]).all()


def test_tensors_travel_as_bytes(service: Service, images: Pixels) -> None:
    """In, out, both; an output's own wish goes before the request's; a raw tensor is answered in bytes."""
    expected = outputs_of(infer(service, {"inputs": [an_input(images)]}))
    tensor = an_input(images, data=..., parameters={"binary_data_size": images.size})
    wishes: list[tuple[dict[str, Any], int]] = [
        ({}, 0),
        ({"parameters": {"binary_data_output": True}}, 2),
        ({"outputs": [{"name": "logits", "parameters": {"binary_data": True}}]}, 1),
        (
            {
                "parameters": {"binary_data_output": True},
                "outputs": [
                    {"name": "logits", "parameters": {"binary_data": False}},
                    {"name": "probabilities"},
                ],
            },
            1,
        ),
    ]
    for wish, binary in wishes:
        for answer in (
            infer(service, {"inputs": [tensor], **wish}, images.tobytes()),
            infer(service, {"inputs": [an_input(images)], **wish}),
        ):
            found = outputs_of(answer)
            assert answer.body.count(b"binary_data_size") == binary
            assert answer.headers["Content-Type"] == (
                "application/octet-stream" if binary else "application/json"
            )
            assert all((found[name] == expected[name]).all() for name in found)
    raw = infer(service, b"", images.tobytes(), 0)
    found = outputs_of(raw)
    assert raw.body.count(b"binary_data_size") == 2
    assert all((found[name] == expected[name]).all() for name in expected)


def test_the_whole_body_may_be_json_and_say_so(service: Service, images: Pixels) -> None:
    """The header with the body's own length is what no header is."""
    document = json.dumps({"inputs": [an_input(images)]}).encode()
    assert infer(service, document, length=len(document)).body == infer(service, document).body


REFUSED: list[tuple[dict[str, Any], list[str]]] = [
    ({"inputs": []}, ["'inputs' is a list of 0"]),
    ({"inputs": ...}, ["'inputs' is missing"]),
    ({"inputs": {}}, ["'inputs' is an object"]),
    ({"inputs": [1]}, ["the input is 1"]),
    ({"name": "image"}, ["did you mean 'images'?"]),
    ({"name": 7}, ["name is 7"]),
    ({"datatype": "FP32"}, ['"FP32"', "UINT8", "numpy.rint(255 * array)"]),
    ({"datatype": ...}, ["missing"]),
    ({"shape": [2, 784]}, ["[2, 784]", "[N, 28, 28]"]),
    ({"shape": [2, 28, 28, 1]}, ["[N, 28, 28]"]),
    ({"shape": [0, 28, 28]}, ["N at least 1"]),
    ({"shape": [-1, 28, 28]}, ["[-1, 28, 28]"]),
    ({"shape": [True, 28, 28]}, ["[true, 28, 28]"]),
    ({"shape": [2.5, 28, 28]}, ["[2.5, 28, 28]"]),
    ({"shape": "2"}, ["[N, 28, 28]"]),
    ({"shape": [3, 28, 28]}, ["1568 elements", "2352"]),
    ({"data": ...}, ["'data' of 'images' is missing"]),
    ({"data": []}, ["0 elements"]),
    ({"data": "AAAA"}, ["'data'"]),
    ({"data": [[1, 2], [3, 4]]}, ["the nesting of"]),
    ({"data": [[0] * 784] * 2}, ["the nesting of"]),
    ({"data": [256] * 1568}, ["pixel 0 is 256"]),
    ({"data": [0.5] * 1568}, ["pixel 0 is 0.5"]),
    ({"data": [True] * 1568}, ["pixel 0 is true"]),
    ({"data": [[[0] * 28] * 28, [[None] * 28] * 28]}, ["pixel 784 is null"]),
    ({"parameters": 1}, ["the parameters of the input is 1"]),
    ({"parameters": {"a": []}}, ["'a'", "a string, a number or a boolean"]),
    ({"parameters": {"shared_memory_region": "x"}}, ["'shared_memory_region'", "unsupported extension"]),
    ({"parameters": {"binary_data_size": 1568}}, ["'data' and 'binary_data_size'"]),
    ({"id": 42}, ["'id' is 42"]),
    ({"outputs": {}}, ["'outputs' is an object"]),
    ({"outputs": [{"name": "label"}]}, ["logits, probabilities"]),
    ({"outputs": [{"name": "probability"}]}, ["did you mean 'probabilities'?"]),
    ({"outputs": [{"name": "logits"}] * 2}, ["at most once"]),
    ({"outputs": ["logits"]}, ['an output is "logits"']),
    (
        {"outputs": [{"name": "logits", "parameters": {"binary_data": 1}}]},
        ["'binary_data' is 1", "true or false"],
    ),
    (
        {"outputs": [{"name": "logits", "parameters": {"classification": 3}}]},
        ["'classification'", "unsupported extension"],
    ),
]


@pytest.mark.parametrize(("change", "words"), REFUSED)
def test_a_request_that_is_not_the_protocols_is_refused(
    service: Service, images: Pixels, change: dict[str, Any], words: list[str]
) -> None:
    """With 400 and what it should be."""
    of_tensor = {key: value for key, value in change.items() if key in ("name", "datatype", "shape", "data")}
    if "outputs" not in change and "parameters" in change:
        of_tensor["parameters"] = change["parameters"]
    document: dict[str, Any] = {"inputs": [an_input(images, **of_tensor)]}
    document |= {key: value for key, value in change.items() if key not in of_tensor}
    document = {key: value for key, value in document.items() if value is not ...}
    assert_error(infer(service, document), 400, *words)


def test_unknown_parameters_are_left_to_others(service: Service, images: Pixels) -> None:
    """The protocol lets each server have its own."""
    document = {
        "inputs": [an_input(images)],
        "parameters": {"priority": 1, "sequence_id": "a", "own": 0.5, "x": True},
    }
    assert infer(service, document).status == 200


def test_lengths_that_do_not_agree_are_refused(service: Service, images: Pixels) -> None:
    """The header's, the parameter's, the tensor's."""
    tensor = an_input(images, data=..., parameters={"binary_data_size": images.size})
    document, pixels = {"inputs": [tensor]}, images.tobytes()
    for length in ("-1", "x", "99999999", "", "1e2", "٣"):
        answer = infer(service, document, pixels, length.encode().decode("latin-1"))
        assert_error(answer, 400, LENGTH)
    assert_error(infer(service, document, pixels[:-1]), 400, "'binary_data_size' is 1568, but 1567 bytes")
    assert_error(infer(service, document, pixels + b"\0"), 400, "1569 bytes")
    assert_error(infer(service, document), 400, "0 bytes")
    assert_error(infer(service, {"inputs": [an_input(images)]}, b"x"), 400, "1 bytes follow")
    small = an_input(images, data=..., parameters={"binary_data_size": 784})
    assert_error(infer(service, {"inputs": [small]}, pixels[:784]), 400, "784 elements", "1568")
    assert_error(infer(service, document, pixels, 10), 400, "not JSON")
    assert_error(infer(service, b"", pixels[:-1], 0), 400, "1567 bytes")
    assert_error(infer(service, b"", b"", 0), 400, "0 bytes")
    assert_error(infer(service, b""), 400, "not JSON")
    assert_error(infer(service, b"[1]"), 400, "the request is a list of 1")
    assert_error(infer(service, {"inputs": [an_input(images, shape=[1025, 28, 28])]}), 413, "1025")


@pytest.mark.parametrize(
    ("method", "path", "status", "word"),
    [
        ("GET", "/v2/models/another", 404, "no model 'another'"),
        ("GET", "/v2/models/another/ready", 404, "no model 'another'"),
        ("GET", "/v2/models/synthetic/versions/2", 404, "versions that are: 1"),
        ("GET", "/v2/models/synthetic/versions/2/ready", 404, "version 2 is not loaded"),
        ("GET", "/v2/models/synthetic/versions/01", 404, "'01' is not a version"),
        ("POST", "/v2/models/synthetic/versions/latest/infer", 404, "'latest' is not a version"),
        ("POST", "/v2/models/synthetic/versions/99999999999999999/infer", 404, "not loaded"),
        ("POST", "/v2/models/another/infer", 404, "'synthetic'"),
        ("POST", "/v2/models/sy%2Fnthetic/infer", 404, ""),
        ("GET", "/v2/models/synthetic/infer", 405, "GET"),
        ("POST", "/v2/health/live", 405, "POST"),
        ("GET", "/v2/repository/nothing", 404, "/v2/repository/nothing"),
        ("GET", "/v2/models/synthetic/trace/setting", 404, "nothing at"),
        ("POST", f"{INFER}?top=3", 400, "no query parameter"),
    ],
)
def test_errors_have_the_protocols_form(
    service: Service, method: str, path: str, status: int, word: str
) -> None:
    """Whatever is wrong below /v2, also where there is nothing."""
    assert_error(service.ask(method, path), status, word)


def test_broken_bodies_have_the_protocols_form(service: Service) -> None:
    """Too large, or in an unsupported coding."""
    assert_error(service.ask("POST", INFER, bytes((8 << 20) + 1)), 413, "8388608")
    assert_error(service.ask("POST", INFER, b"x", Content_Encoding="br"), 415, "gzip")
