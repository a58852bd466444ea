"""Bodies that nobody foresaw, in this process: whatever they are, the answer is never a 5xx."""

import io
import json
import time
import zlib
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.support.pictures import SAMPLES
from bundle.repository import Bundle
from serving.model.store import ModelStore
from serving.predict.exchange import Request, Response
from serving.predict.pipeline import Pipeline
from serving.settings import ServiceSettings

EXAMPLES = settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
BLANK = [0] * 784

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(0, 255)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["images", "UINT8", "logits", "data:image/png;base64,", "iVBORw0KGgo="])
)
MEMBERS = ("instances", "b64", "inputs", "outputs", "parameters", "id", "name", "data", "shape", "datatype")
PARAMETERS = ("binary_data_size", "binary_data", "binary_data_output", "classification")
names = st.text(max_size=8) | st.sampled_from(MEMBERS + PARAMETERS)
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(names, inner, max_size=4),
    max_leaves=15,
)


@pytest.fixture(scope="module")
def pipeline(bundle: Bundle) -> Pipeline:
    """Return the pipeline of a ready service."""
    chosen = ServiceSettings(model=bundle.path.parent, provider="cpu")
    return Pipeline(chosen, ModelStore.start(chosen))


@st.composite
def mutated(draw: st.DrawFn, document: Any) -> Any:
    """Return a document in which something is another thing, missing, or more."""
    document = json.loads(json.dumps(document))
    holder, steps = document, draw(st.integers(0, 5))
    for _ in range(steps):
        keys = list(holder) if isinstance(holder, dict) else list(range(min(len(holder), 3)))
        if not keys:
            break
        key = draw(st.sampled_from(keys))
        if isinstance(holder[key], dict | list) and draw(st.booleans()):
            holder = holder[key]
            continue
        if isinstance(holder, dict) and draw(st.booleans()):
            del holder[key]
        else:
            holder[key] = draw(anything)
        break
    return document


def as_json(document: Any) -> bytes:
    """Return JSON as careless programs write it: with NaN and infinities, and lone surrogates escaped."""
    return json.dumps(document).encode()


def ask(pipeline: Pipeline, path: str, body: bytes, **headers: str) -> Response:
    """Answer a request as a worker does, and check what holds for every answer."""
    path, _, query = path.partition("?")
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    request = Request(method="POST", path=path, query=query, headers=fields, body=body)
    answer = pipeline.answer(pipeline.open(request, time.perf_counter()))
    assert answer.status < 500, (answer.status, answer.body)
    if answer.status != 200:
        document = json.loads(answer.body)
        assert document.get("error") or document["remedy"]
    return answer


@EXAMPLES
@given(document=anything | mutated({"instances": [BLANK, [[0] * 28] * 28, {"b64": "iVBORw0KGgo="}]}))
def test_any_json(pipeline: Pipeline, document: Any) -> None:
    """Right in its form or not, of numbers or of anything."""
    ask(pipeline, "/predict", as_json(document), content_type="application/json")


TENSOR = {"name": "images", "shape": [1, 28, 28], "datatype": "UINT8"}
REQUESTS: list[dict[str, Any]] = [
    {"id": "1", "inputs": [TENSOR | {"data": BLANK}], "outputs": [{"name": "logits", "parameters": {}}]},
    {"inputs": [TENSOR | {"data": [[[0] * 28] * 28]}], "parameters": {"binary_data_output": True}},
    {"inputs": [TENSOR | {"parameters": {"binary_data_size": 784}}]},
]


@EXAMPLES
@given(
    document=st.sampled_from(REQUESTS).flatmap(mutated) | anything,
    binary=st.sampled_from([b"", bytes(784)]) | st.binary(max_size=30),
    length=st.none() | st.integers(-3, 3),
)
def test_any_inference_request(pipeline: Pipeline, document: Any, binary: bytes, length: int | None) -> None:
    """With tensors behind it or none, and lengths that are right or nearly so."""
    head = as_json(document)
    fields = {} if length is None else {"inference_header_content_length": str(max(0, len(head) + length))}
    answer = ask(pipeline, "/v2/models/synthetic/infer", head + binary, **fields)
    if answer.status == 200:
        size = int(answer.headers.get("Inference-Header-Content-Length", len(answer.body)))
        assert json.loads(answer.body[:size])["outputs"]


@EXAMPLES
@given(
    start=st.binary(max_size=200) | st.sampled_from([b"\x93NUMPY\x01\0v\0", b"\x93NUMPY\x03\0v\0\0\0"]),
    header=st.dictionaries(
        st.sampled_from(["descr", "fortran_order", "shape"]) | st.text(max_size=4),
        st.sampled_from(["|u1", "<f8", True, False, (1, 28, 28), (-1, 28, 28), (2**70, 28, 28)]) | anything,
        max_size=4,
    ),
    data=st.sampled_from([b"", bytes(784)]) | st.binary(max_size=20),
)
def test_any_npy(pipeline: Pipeline, start: bytes, header: dict[str, Any], data: bytes) -> None:
    """Headers that are Python's literals, of anything."""
    text = repr(header).encode("utf-8", errors="replace")
    sized = start[:8] + len(text).to_bytes(2 if start[6:7] != b"\3" else 4, "little") + text
    for body in (start + data, start + text + data, sized + data):
        ask(pipeline, "/predict", body, content_type="application/x-npy")


@EXAMPLES
@given(data=st.data())
def test_damaged_bodies(pipeline: Pipeline, data: st.DataObject) -> None:
    """What was right, with some bytes changed, cut, doubled, or compressed and then damaged."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, 28, 28), np.uint8))
    whole = [
        ("application/json", as_json({"instances": [BLANK]})),
        ("application/x-npy", buffer.getvalue()),
        ("application/octet-stream", bytes(1568)),
        (
            'multipart/form-data; boundary="b"',
            b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--b--\r\n',
        ),
        *SAMPLES.items(),
    ]
    media_type, body = data.draw(st.sampled_from(whole))
    fields = {"content_type": media_type}
    if data.draw(st.booleans()):
        fields["content_encoding"] = "deflate"
        body = zlib.compress(body)
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(0, 4))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    start, end = (data.draw(st.integers(0, len(damaged))) for _ in range(2))
    body = bytes(
        data.draw(st.sampled_from([damaged, damaged[:end], damaged[start:], damaged + damaged[start:end]]))
    )
    ask(pipeline, "/predict", body, **fields)
    ask(pipeline, "/v2/models/synthetic/infer", body, **fields)


@EXAMPLES
@given(
    query=st.text(max_size=30)
    | st.dictionaries(st.sampled_from(["top", "threshold"]), st.text(max_size=12)).map(
        lambda fields: "&".join(f"{name}={quote(value)}" for name, value in fields.items())
    ),
    content_type=st.text(max_size=40)
    | st.sampled_from(["multipart/form-data; boundary=", "application/json; a=\xff"]),
    coding=st.sampled_from(["", "gzip", "deflate", "gzip, br"]) | st.text(max_size=10),
    identifier=st.text(max_size=200),
    length=st.text(max_size=12),
    body=st.binary(max_size=100),
)
def test_any_fields(
    pipeline: Pipeline, query: str, content_type: str, coding: str, identifier: str, length: str, body: bytes
) -> None:
    """Queries and header fields of anything; what is sent back is fit to be sent."""
    fields = {"content_type": content_type, "content_encoding": coding, "x_request_id": identifier}
    for path in ("/predict", "/v2/models/synthetic/infer", "/v2/models/x/versions/1/infer"):
        answer = ask(pipeline, f"{path}?{query}", body, inference_header_content_length=length, **fields)
        for name, value in answer.headers.items():
            assert (name + value).isascii()
            assert (name + value).isprintable()
