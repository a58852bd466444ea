"""What one request may cost: it stops when its time is over, and want of memory is the service's own trouble."""

import ast
import base64
import gzip
import logging
import time
from collections.abc import Callable
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest

from bench.support.pictures import SAMPLES, a_digit, png
from bench.support.processes import Part, form
from bundle.images import decoding
from bundle.images.decoding import PARSERS
from bundle.repository import Bundle
from serving.model.store import ModelStore
from serving.predict import content_coding, load_shedding, native
from serving.predict.bodies import json_documents, multipart
from serving.predict.exchange import JSON, Request, Response
from serving.predict.pipeline import Pipeline
from serving.settings import ServiceSettings
from serving.web.app import create_app

FILES = 60


@pytest.fixture(scope="module")
def pipeline(bundle: Bundle) -> Pipeline:
    """Return the prediction routes of a service that is not started."""
    settings = ServiceSettings(model=bundle.path.parent, provider="cpu")
    return Pipeline(settings, ModelStore.start(settings))


def ask(pipeline: Pipeline, body: bytes, media_type: str, path: str = "/predict", **fields: str) -> Response:
    """Return the answer to a request that has just arrived."""
    headers = {"content-type": media_type, **{name.replace("_", "-"): text for name, text in fields.items()}}
    request = Request(method="POST", path=path, headers=headers, body=body)
    return pipeline.answer(pipeline.open(request, time.perf_counter()))


def a_form() -> tuple[bytes, str]:
    """Return a form of many files."""
    return form(*[Part(SAMPLES["image/bmp"], content_type="image/bmp")] * FILES)


def files_in_json() -> tuple[bytes, str]:
    """Return JSON of many files."""
    text = base64.b64encode(SAMPLES["image/bmp"]).decode()
    return orjson.dumps({"instances": [text] * FILES}), JSON


def numbers_in_json() -> tuple[bytes, str]:
    """Return JSON of many images as numbers."""
    return orjson.dumps({"instances": [a_digit().tolist()] * FILES}), JSON


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str], list[float]]:
    """Let a tenth of a second pass at each call of a function, and return a list of when it was called."""
    late = 0.0

    def now() -> float:
        return time.perf_counter() + late

    monkeypatch.setattr(load_shedding, "time", SimpleNamespace(perf_counter=now, monotonic=time.monotonic))

    def slow(owner: Any, name: str) -> list[float]:
        calls: list[float] = []
        function = getattr(owner, name)

        def slowly(*arguments: Any, **options: Any) -> Any:
            nonlocal late
            calls.append(late)
            late += 0.1
            return function(*arguments, **options)

        monkeypatch.setattr(owner, name, slowly)
        return calls

    return slow


@pytest.mark.parametrize(
    ("body", "owner", "name"),
    [
        (a_form, decoding, "decode"),
        (a_form, multipart, "_upload"),
        (files_in_json, decoding, "decode"),
        (numbers_in_json, json_documents, "pixel_bytes"),
    ],
)
def test_the_deadline_is_looked_at_between_images(
    body: Callable[[], tuple[bytes, str]],
    owner: Any,
    name: str,
    pipeline: Pipeline,
    passing: Callable[[Any, str], list[float]],
) -> None:
    """Of sixty images that take 0.1 s each, half a second's worth is decoded: not all, to be thrown away then."""
    calls = passing(owner, name)
    answer = ask(pipeline, *body(), x_request_timeout_ms="500")
    assert answer.status == HTTPStatus.GATEWAY_TIMEOUT
    assert len(calls) == 5


@pytest.mark.parametrize(
    ("owner", "name", "unwanted"),
    [(content_coding, "_inflate", native), (json_documents, "read", json_documents)],
)
def test_the_deadline_is_looked_at_between_steps(
    owner: Any,
    name: str,
    unwanted: Any,
    pipeline: Pipeline,
    passing: Callable[[Any, str], list[float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A body that was unpacked or parsed too late goes no further."""
    calls = passing(owner, name)
    after = "prepare" if unwanted is native else "pixel_bytes"
    monkeypatch.setattr(unwanted, after, lambda *_: pytest.fail("it went further"))
    if owner is content_coding:
        answer = ask(
            pipeline,
            gzip.compress(png(a_digit())),
            "image/png",
            x_request_timeout_ms="50",
            content_encoding="gzip",
        )
    else:
        tensor = {
            "name": "images",
            "datatype": "UINT8",
            "shape": [1, 28, 28],
            "data": a_digit().ravel().tolist(),
        }
        path = f"/v2/models/{pipeline.store.engine().bundle.manifest.name}/infer"
        answer = ask(pipeline, orjson.dumps({"inputs": [tensor]}), JSON, path, x_request_timeout_ms="50")
    assert answer.status == HTTPStatus.GATEWAY_TIMEOUT
    assert len(calls) == 1


def exhausted(*_: Any, **__: Any) -> Any:
    """Fail as everything does that asks for memory when there is none."""
    raise MemoryError


def a_npy() -> tuple[bytes, str]:
    """Return one image as a .npy file."""
    head = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1, 28, 28)}\n"
    return b"\x93NUMPY\1\0" + len(head).to_bytes(
        2, "little"
    ) + head + a_digit().tobytes(), "application/x-npy"


NO_MEMORY: dict[str, tuple[Callable[[], tuple[bytes, str]], Any, str]] = {
    "file": (lambda: (SAMPLES["image/gif"], "image/gif"), PARSERS, "image/gif"),
    "form": (a_form, PARSERS, "image/bmp"),
    "files in JSON": (files_in_json, PARSERS, "image/bmp"),
    "numbers in JSON": (numbers_in_json, json_documents, "pixel_bytes"),
    "npy": (a_npy, ast, "literal_eval"),
}


@pytest.mark.parametrize("kind", NO_MEMORY)
def test_want_of_memory_is_a_503_with_a_line_in_the_log(
    kind: str, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It was the client's 422, or 400, and nobody heard of it."""
    body, owner, name = NO_MEMORY[kind]
    if owner is PARSERS:
        monkeypatch.setitem(owner, name, exhausted)
    else:
        monkeypatch.setattr(owner, name, exhausted)
    with caplog.at_level(logging.ERROR):
        answer = ask(pipeline, *body())
    assert answer.status == HTTPStatus.SERVICE_UNAVAILABLE
    assert answer.headers["Retry-After"] == "5"
    assert orjson.loads(answer.body)["type"] == "urn:glyph:problem:overloaded"
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [MemoryError]


def test_an_engine_without_memory_is_a_503(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same holds beyond the decoding; any other failure is a 500."""
    monkeypatch.setattr(native, "images_of", exhausted)
    assert ask(pipeline, png(a_digit()), "image/png").status == HTTPStatus.SERVICE_UNAVAILABLE
    monkeypatch.setattr(native, "images_of", lambda _: np.zeros(0)[1])
    assert ask(pipeline, png(a_digit()), "image/png").status == HTTPStatus.INTERNAL_SERVER_ERROR


def test_another_route_without_memory_is_a_503(bundle: Bundle) -> None:
    """What Flask answers says the same."""
    app = create_app(ServiceSettings(model=bundle.path.parent, provider="cpu"))
    app.view_functions |= dict.fromkeys(app.view_functions, exhausted)
    answer = app.test_client().get("/livez")
    assert answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE
    assert answer.headers["Retry-After"] == "5"
