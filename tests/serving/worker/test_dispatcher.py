"""The dispatcher: which requests would hold the loop up, by what their decoding takes."""

from concurrent.futures import Future
from typing import Any

import orjson
import pytest

from bundle.repository import Bundle
from serving.predict.exchange import Request, Target
from serving.predict.pipeline import target_of
from serving.worker.blocking import FEW_FILES, LARGE_BODY, LARGE_PIXELS, blocks_loop
from tests.serving.worker.fakes import a_dispatcher, connect

OCTETS = {"content-type": "application/octet-stream"}
NPY = {"content-type": "application/x-npy"}
INFER, V1 = "/v2/models/mnist/infer", "/v1/models/mnist:predict"
LENGTH = "inference-header-content-length"


def target(path: str) -> Target:
    """Return what a path names."""
    found = target_of("POST", path)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("path", "headers", "size", "expected"),
    [
        ("/predict", {"content-type": "image/png"}, LARGE_BODY, False),
        ("/predict", {"content-type": "image/png"}, LARGE_BODY + 1, True),
        ("/predict", {"content-type": "application/json"}, LARGE_BODY + 1, True),
        ("/predict", {}, LARGE_BODY + 1, True),
        ("/predict", OCTETS, LARGE_BODY + 1, False),
        ("/predict", NPY, LARGE_PIXELS, False),
        ("/predict", OCTETS, LARGE_PIXELS + 1, True),
        ("/predict", OCTETS | {"content-encoding": "gzip"}, 1, True),
        (INFER, OCTETS | {LENGTH: "0"}, LARGE_PIXELS, False),
        (INFER, OCTETS | {LENGTH: "120"}, LARGE_PIXELS, False),
        (INFER, OCTETS | {LENGTH: str(LARGE_BODY + 1)}, LARGE_PIXELS, True),  # most of it is JSON
        (INFER, OCTETS | {LENGTH: "0" * 20 + "9" * 9}, LARGE_PIXELS, True),
        (INFER, OCTETS | {LENGTH: "-1"}, LARGE_PIXELS, True),
        (INFER, OCTETS, LARGE_BODY + 1, True),  # without the field all of it is JSON, whatever it is called
        (INFER, {LENGTH: "120"}, LARGE_BODY + 1, True),
        (V1, {}, LARGE_BODY, False),
        (V1, OCTETS, LARGE_BODY + 1, True),  # all of it is JSON, whatever it is called
        ("/invocations", {"content-type": "image/png"}, LARGE_BODY + 1, True),
        ("/invocations", OCTETS, LARGE_BODY + 1, False),
    ],
)
def test_pixels_may_be_more_than_what_has_to_be_decoded(
    path: str, headers: dict[str, str], size: int, expected: bool
) -> None:
    """Files, forms, JSON and compressed bodies go to a thread where four times as many pixels do not."""
    request = Request(method="POST", path=path, headers=headers, body=bytes(size))
    assert blocks_loop(request, target(path)) is expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", False),
        ("top=3", False),
        ("resize=fit", True),
        ("top=3&resize=mnist", True),
        ("r%65size=fit", True),
    ],
)
def test_files_to_be_resized_are_decoded_on_a_thread(query: str, expected: bool) -> None:
    """A file of a few hundred bytes may unpack to half a million pixels, however the query is spelt."""
    request = Request(
        method="POST", path="/predict", query=query, headers={"content-type": "image/png"}, body=b"."
    )
    assert blocks_loop(request, target("/predict")) is expected


def test_requests_for_the_application_wait_as_far_as_there_is_room(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond it the answer is 503 with Retry-After, counted as overloaded; an answered one makes room."""
    dispatcher = a_dispatcher(bundle, threads=2, queue_limit=3)
    begun: list[Future[bool]] = []

    def submit(*_: Any, **__: Any) -> Future[bool]:
        begun.append(Future())
        return begun[-1]

    monkeypatch.setattr(dispatcher.threads, "submit", submit)

    def ask(path: bytes = b"/docs") -> bytes:
        connection, transport = connect(dispatcher)
        connection.data_received(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path)
        return transport.written

    assert [ask() for _ in range(5)] == [b""] * 5
    refused = ask()
    assert refused.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 1\r\n" in refused
    assert b"urn:glyph:problem:overloaded" in refused
    assert b'{"error":' in ask(b"/v2")
    values = dispatcher.pipeline.store.metrics
    assert values._values[values._offset("glyph_refusals_total", "overloaded")] == 2
    assert len(begun) == 5
    begun[0].set_result(True)
    assert ask() == b""
    assert len(begun) == 6


FORM = {"content-type": "Multipart/Form-Data ; boundary=b"}
JSON = {"content-type": "application/json"}
FILE = b"x" * 1000


def a_form(count: int, line_end: bytes = b"\r\n") -> bytes:
    """Return a form of so many files."""
    part = [b"--b", b"Content-Disposition: form-data; name=a; filename=b", b"", FILE]
    return line_end.join([*part * count, b"--b--"])


def strings(count: int) -> bytes:
    """Return JSON of so many files."""
    return orjson.dumps({"instances": [FILE.decode()] * count})


@pytest.mark.parametrize(
    ("path", "headers", "body", "expected"),
    [
        ("/predict", FORM, a_form(FEW_FILES), False),
        ("/predict", FORM, a_form(FEW_FILES + 1), True),
        ("/predict", FORM, a_form(FEW_FILES + 1, b"\n"), True),
        ("/predict", FORM, a_form(FEW_FILES + 1, b"\r"), True),
        ("/predict", JSON, strings(FEW_FILES), False),
        ("/predict", JSON, strings(FEW_FILES + 1), True),
        ("/predict", JSON, orjson.dumps({"instances": [[[200] * 28] * 28] * 10}), False),
        ("/invocations", JSON, strings(FEW_FILES + 1), True),
        (V1, {}, strings(FEW_FILES), False),
        (V1, {}, strings(FEW_FILES + 1), True),  # it is JSON, whatever it is called
        (INFER, JSON, strings(FEW_FILES + 1), False),  # which has no files
        ("/predict", {"content-type": "image/png"}, a_form(FEW_FILES + 1) + strings(9), False),
    ],
)
def test_few_files_are_decoded_in_the_loop(
    path: str, headers: dict[str, str], body: bytes, expected: bool
) -> None:
    """Small files may be made to take a millisecond each, whatever their sizes: their number decides."""
    assert len(body) < LARGE_BODY
    request = Request(method="POST", path=path, headers=headers, body=body)
    assert blocks_loop(request, target(path)) is expected
