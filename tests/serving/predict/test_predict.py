"""`POST /predict`: every kind of body, the query, ids, timing and codings, over HTTP."""

import base64
import gzip
import io
import json
import re
import tracemalloc
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from bench.support.models import CLASSES, Linear
from bench.support.pictures import encoded, png
from bench.support.processes import PNG, Answer, Part, Service, form
from bundle.repository import Bundle
from serving.errors import BodyTooLargeError
from serving.predict import content_coding
from serving.predict.exchange import Request

Pixels = npt.NDArray[np.uint8]
JSON = "application/json"
OCTETS = "application/octet-stream"
NPY = "application/x-npy"


@pytest.fixture(scope="session")
def images() -> Pixels:
    """Return three different images, which look neither inverted nor scaled."""
    images = np.random.default_rng(31).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    images[:, [0, -1]] = images[:, :, [0, -1]] = 0
    return images


def npy(array: npt.NDArray[Any]) -> bytes:
    """Return an array as NumPy itself saves it."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def ask_json(service: Service, *instances: Any) -> Answer:
    """Post instances."""
    return service.post(json.dumps({"instances": instances}).encode(), JSON)


def assert_answers(answer: Answer, images: Pixels, linear: Linear) -> list[dict[str, Any]]:
    """Check that the predictions are what NumPy computes, in order, and return them."""
    assert answer.status == 200, answer.body
    predictions: list[dict[str, Any]] = answer.json()["predictions"]
    found = [list(prediction["probabilities"].values()) for prediction in predictions]
    assert np.allclose(found, linear.probabilities(images), atol=1e-5)
    return predictions


def assert_problem(answer: Answer, status: int, kind: str, *words: str) -> dict[str, Any]:
    """Check a problem document's status, kind and words, and return it."""
    document: dict[str, Any] = answer.json()
    assert (answer.status, document["type"]) == (status, f"urn:glyph:problem:{kind}"), document
    text = f"{document['detail']} {document['remedy']}"
    assert all(word in text for word in words), text
    return document


def test_json_takes_numbers_and_files_in_one_list(service: Service, images: Pixels, linear: Linear) -> None:
    """What an instance is, its JSON type says; a float that is whole is a number like others."""
    encoded = base64.b64encode(png(images[0])).decode()
    answer = ask_json(
        service,
        images[0].tolist(),
        images[1].ravel().tolist(),
        images[2].astype(float).tolist(),
        encoded,
        {"b64": encoded},
        f"data:image/png;base64,{encoded}",
    )
    predictions = assert_answers(answer, images[[0, 1, 2, 0, 0, 0]], linear)
    assert all(prediction["warnings"] == [] for prediction in predictions)


def test_npy_of_other_types_and_shapes_is_read_where_nothing_is_in_doubt(
    service: Service, images: Pixels, linear: Linear
) -> None:
    """Floats of either range, one image without an axis of images, a channel's axis."""
    for array in (
        (images / 255).astype(np.float32),
        images.astype(">f8"),
        images[:, None],
        np.asfortranarray(images[..., None]),
        images.reshape(3, 784).astype(np.int64),
    ):
        assert_answers(service.post(npy(array), NPY), images, linear)
    assert_answers(service.post(npy(images[0]), NPY), images[:1], linear)


@pytest.mark.parametrize("path", ["/predict", "/v2/models/synthetic/infer"])
def test_octets_of_another_type_are_refused(service: Service, digit: Pixels, path: str) -> None:
    """They were answered as four images, or eight, or as noise; raw tensors of the protocol, too."""
    for array, found in (
        ((digit / 255).astype(np.float32), "1 image of float32 (little-endian) from 0 to 1"),
        (digit.astype(np.float64), "1 image of float64"),
        (np.stack([digit] * 3 + [np.full_like(digit, 255)], axis=-1), "1 image of RGBA"),
        (np.frombuffer(png(digit).ljust(784, b"\0"), np.uint8), "image/png"),
    ):
        answer = service.ask(
            "POST", path, array.tobytes(), Content_Type=OCTETS, Inference_Header_Content_Length="0"
        )
        assert answer.status in (400, 422)
        assert found in answer.body.decode()


def test_octets_and_npy_are_taken_as_they_are(service: Service, images: Pixels, linear: Linear) -> None:
    """In C's order and in Fortran's, and in each version of the format."""
    assert_answers(service.post(images.tobytes(), OCTETS), images, linear)
    assert_answers(service.post(npy(images), NPY), images, linear)
    assert_answers(service.post(npy(np.asfortranarray(images)), NPY), images, linear)
    for version in ((2, 0), (3, 0)):
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, images, version=version)
        assert_answers(service.post(buffer.getvalue(), NPY), images, linear)


@pytest.mark.parametrize(
    ("instance", "words"),
    [
        ([[0] * 28] * 27, ["list of 27", "28 lists of 28"]),
        ([0] * 783, ["list of 783"]),
        ([0] * 28, ["list of 28", "another list"]),
        ([0] * 783 + [256], ["pixel 783 is 256", "0 to 255"]),
        ([-1] + [0] * 783, ["pixel 0 is -1"]),
        ([0, 0.5] + [0] * 782, ["pixel 1 is 0.5", "multiply them by 255"]),
        ([10**30] + [0] * 783, ["pixel 0 is", "0 to 255"]),
        ([True] + [7] * 783, ["pixel 0 is true"]),
        ([None] + [0] * 783, ["pixel 0 is null"]),
        (["1"] + [0] * 783, ['pixel 0 is "1"']),
        (7, ["the instance is 7"]),
        (None, ["the instance is null"]),
        ({"b65": ""}, ["the instance is an object"]),
        ("no base64!", ["not base64"]),
        ("iVBORw0KG", ["not base64", "RFC 4648"]),
    ],
)
def test_an_instance_that_is_no_image_is_refused(service: Service, instance: Any, words: list[str]) -> None:
    """The answer names the instance, what it is, and what it should be."""
    answer = ask_json(service, [0] * 784, instance)
    assert assert_problem(answer, 422, "invalid-instance", *words)["instance"] == 1


def test_a_file_in_json_is_refused_as_a_file_is(service: Service, images: Pixels) -> None:
    """Broken, of another size, or not what its data URL declares."""
    whole = png(images[0])
    small = base64.b64encode(png(images[0][:14, :14])).decode()
    assert_problem(ask_json(service, base64.b64encode(whole[:60]).decode()), 422, "broken-image")
    assert assert_problem(ask_json(service, [0] * 784, small), 422, "wrong-size")["instance"] == 1
    url = f"data:image/jpeg;base64,{base64.b64encode(whole).decode()}"
    assert_problem(ask_json(service, url), 415, "unsupported-media-type", "image/png")
    assert_problem(ask_json(service, "data:text/html,x"), 415, "unsupported-media-type")


@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "007", "0x7", "1e-400"]
)
def test_numbers_that_json_does_not_have_are_refused(service: Service, number: str) -> None:
    """Or that no float64 holds; 1e-400 is 0, which is a pixel."""
    body = f'{{"instances": [[{", ".join([number] + ["0"] * 783)}]]}}'.encode()
    answer = service.post(body, JSON)
    assert answer.status == (200 if number == "1e-400" else 400), answer.body


@pytest.mark.parametrize(
    ("body", "status", "kind", "word"),
    [
        (b"{", 400, "malformed-body", "not JSON"),
        (b"\xff\xfe{\x00", 400, "malformed-body", "UTF-8"),
        (b"[" * 5000 + b"]" * 5000, 400, "malformed-body", "16 levels"),
        (b'{"a": ' * 17 + b"1" + b"}" * 17, 400, "malformed-body", "16 levels"),
        (b"[" + b"[]," * 900_000 + b"[]]", 413, "too-many-images", "values"),
        (b"[" + b'"",' * 900_000 + b'""]', 413, "too-many-images", "values"),
        (b'{"instances": [' + b"0," * 1100 + b"0]}", 413, "too-many-images", "1101"),
        (b'{"instances": []}', 422, "invalid-instance", "a list of 0"),
        (b"[]", 422, "invalid-instance", "has no 'instances'"),
        (b'{"instance": [1]}', 422, "invalid-instance", "has no 'instances'"),
        (b'{"instances": [[0]], "instanzes": 1}', 422, "invalid-instance", "did you mean 'instances'"),
        (b"", 400, "empty-body", "no body"),
    ],
)
def test_json_beyond_its_limits_or_its_form_is_refused(
    service: Service, body: bytes, status: int, kind: str, word: str
) -> None:
    """How deep it is and how much it holds is known before it is parsed."""
    assert_problem(service.post(body, JSON), status, kind, word)


def test_brackets_in_strings_are_not_counted(service: Service) -> None:
    """Nor do escaped quotes and backslashes end a string."""
    body = json.dumps({"instances": ["[" * 40 + '\\"' + '"[{,' * 40]}).encode()
    assert_problem(service.post(body, JSON), 422, "invalid-instance", "not base64")


@pytest.mark.parametrize(
    ("array", "status", "word"),
    [
        (np.full((2, 28, 28), 256), 422, "int64 from 256 to 256"),
        (np.ones((2, 28, 28), np.float32), 422, "numpy.rint(255 * array)"),
        (np.zeros((28, 28, 3), np.uint8), 422, "[28, 28, 3]"),
        (np.zeros((784, 2), np.uint8), 422, "array.T"),
        (np.zeros((0, 28, 28), np.uint8), 422, "[0, 28, 28]"),
        (np.zeros((1025, 28, 28), np.uint8), 413, "1025"),
        (np.array([{}], dtype=object), 422, "|O"),
        (np.zeros((2, 28, 28), [("a", "u1")]), 422, "dtype"),
    ],
)
def test_another_array_is_refused(service: Service, array: npt.NDArray[Any], status: int, word: str) -> None:
    """The answer says which it is, and how to make the right one; no pickle is ever opened."""
    answer = service.post(npy(array), NPY)
    assert answer.status == status
    assert word in answer.json()["detail"] + answer.json()["remedy"]


def test_what_is_no_npy_file_is_refused(service: Service, images: Pixels) -> None:
    """Cut off, lengthened, of a later version, with a header that is a program."""
    whole = npy(images)
    header = b"{'descr': __import__('os').system('exit'), 'fortran_order': False, 'shape': (1, 28, 28)}\n"
    forged = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(784)
    deep = b"\x93NUMPY\x01\x00" + (900).to_bytes(2, "little") + b"(" * 900
    for body in (
        b"PK\3\4",
        whole[:40],
        whole[:-1],
        whole + b"\0",
        b"\x93NUMPY\x09" + whole[7:],
        forged,
        deep,
    ):
        assert_problem(service.post(body, NPY), 400, "malformed-body")


def test_octets_of_another_length_are_refused(service: Service, images: Pixels) -> None:
    """A file that is declared as pixels is recognised."""
    assert_problem(service.post(bytes(785), OCTETS), 422, "invalid-instance", "785 bytes", "784")
    whole = png(images[0])
    assert len(whole) % 784
    assert_problem(service.post(whole, OCTETS), 422, "invalid-instance", "Content-Type: image/png")
    assert_problem(service.post(bytes(784 * 1025), OCTETS), 413, "too-many-images")


def test_pixels_that_were_scaled_or_look_inverted_are_answered_with_a_warning(
    service: Service, digit: Pixels
) -> None:
    """They are answered all the same."""
    both = np.stack([digit // 255 | (digit > 9), 255 - digit])
    predictions = service.post(both.tobytes(), OCTETS).json()["predictions"]
    assert "no pixel is above 1" in predictions[0]["warnings"][0]
    assert "looks inverted" in predictions[1]["warnings"][0]
    assert ask_json(service, *both.tolist()).json()["predictions"] == predictions


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_blank_image_is_answered_with_a_warning_whatever_the_way_in(service: Service, level: int) -> None:
    """As a file of any size of body, as numbers, in a form, and among images with content."""
    blank = np.full((1, 28, 28), level, np.uint8)
    plain, other = png(blank[0]), encoded(Image.fromarray(blank[0]), "BMP")
    bodies = [
        (plain, PNG),
        (other, "image/bmp"),
        (blank.tobytes(), OCTETS),
        (np.repeat(blank, 100, axis=0).tobytes(), OCTETS),
        (npy(blank), NPY),
        form(Part(plain), Part(other, content_type="image/bmp")),
        (json.dumps({"instances": [*blank.tolist(), base64.b64encode(other).decode()]}).encode(), JSON),
    ]
    for body, content_type in bodies:
        answer = service.post(body, content_type)
        assert answer.status == 200, answer.body
        for prediction in answer.json()["predictions"]:
            (said,) = prediction["warnings"]
            assert said.startswith("looks blank"), content_type


def test_top_lists_the_most_probable_first(service: Service, images: Pixels, linear: Linear) -> None:
    """As many as asked for; more than there are is all."""
    probabilities = linear.probabilities(images)
    for top in (1, 3, 10, 4000):
        answer = service.ask("POST", f"/predict?top={top}", images.tobytes(), Content_Type=OCTETS)
        for prediction, row in zip(answer.json()["predictions"], probabilities, strict=True):
            expected = [CLASSES[index] for index in np.argsort(-row)[:top]]
            assert list(prediction["probabilities"]) == expected
            assert prediction["label"] == expected[0]


def test_below_the_threshold_there_is_no_label(service: Service, images: Pixels, linear: Linear) -> None:
    """The probability still says how near it was; one that is reached exactly is enough."""
    best = np.sort(linear.probabilities(images).max(axis=1))
    threshold = (best[0] + best[1]) / 2
    answer = service.ask("POST", f"/predict?threshold={threshold:.9f}", images.tobytes(), Content_Type=OCTETS)
    labels = {round(p["probability"], 5): (p["label"], p["index"]) for p in answer.json()["predictions"]}
    assert [label is None for label, _ in (labels[key] for key in sorted(labels))] == [True, False, False]
    assert all((label is None) == (index is None) for label, index in labels.values())
    exact = answer.json()["predictions"][0]["probability"]
    answer = service.ask("POST", f"/predict?threshold={exact!r}", images[:1].tobytes(), Content_Type=OCTETS)
    assert answer.json()["predictions"][0]["label"] is not None


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("topp=3", ["'topp'", "Did you mean 'top'?"]),
        ("format=json", ["'format'", "Known are: resize, threshold, top."]),
        ("top=0", ["'top' is '0'"]),
        ("top=3.5", ["'top' is '3.5'"]),
        ("top=", ["'top' is ''"]),
        ("top=%D9%A3", ["'top' is"]),
        ("top=1&top=2", ["repeated"]),
        ("threshold=1.1", ["'threshold' is '1.1'"]),
        ("threshold=nan", ["'threshold' is 'nan'"]),
        ("threshold=-0.1", ["'threshold' is"]),
        ("threshold=1_0", ["'threshold' is"]),
        ("top=%FF", ["UTF-8"]),
        ("&".join(f"a{i}=1" for i in range(99)), ["more than 8 parameters"]),
    ],
)
def test_a_query_that_is_not_understood_is_refused(
    service: Service, digit: Pixels, query: str, words: list[str]
) -> None:
    """It is never ignored, and the nearest known parameter is named."""
    answer = service.ask("POST", f"/predict?{query}", png(digit), Content_Type=PNG)
    assert_problem(answer, 400, "bad-query", *words)


@pytest.mark.parametrize("path", ["/predict", "/v2/models/synthetic/infer", "/livez", "/nowhere", "/v2/x"])
def test_every_answer_has_its_requests_id(service: Service, path: str) -> None:
    """Errors too; a client's own is taken over if it is well formed, and is another each time if not."""
    assert service.ask("POST", path, b"x", X_Request_ID="a-1.b~2").headers["X-Request-ID"] == "a-1.b~2"
    for bad in ("", "with space", "x" * 129, 'quo"te', "semi;colon"):
        first, second = (service.ask("POST", path, b"x", X_Request_ID=bad) for _ in range(2))
        ids = [first.headers["X-Request-ID"], second.headers["X-Request-ID"]]
        assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids), ids
        assert ids[0] != ids[1]


def test_a_body_that_cannot_be_read_is_refused_with_its_id(service: Service) -> None:
    """Too large, or in chunks that are none."""
    answer = service.ask("POST", "/predict", bytes((8 << 20) + 1), Content_Type=OCTETS, X_Request_ID="large")
    assert (answer.status, answer.headers["X-Request-ID"]) == (413, "large")


def test_server_timing_tells_the_phases_and_the_batch(service: Service, images: Pixels) -> None:
    """In the grammar of W3C's Server Timing; the durations are milliseconds within the request's own."""
    answer = service.post(images.tobytes(), OCTETS)
    field = answer.headers["Server-Timing"]
    assert re.fullmatch(
        r"[a-z]+;dur=[0-9]+\.[0-9]+(, [a-z]+;dur=[0-9]+\.[0-9]+)*, batch;desc=\"[0-9]+\"", field
    )
    durations = dict(re.findall(r"([a-z]+);dur=([0-9.]+)", field))
    assert {"decode", "infer", "encode"} <= set(durations) <= {"decode", "queue", "infer", "encode"}
    assert 0 < sum(map(float, durations.values())) < 60_000
    assert field.endswith('batch;desc="3"')
    assert "infer" not in service.post(b"x", OCTETS).headers.get("Server-Timing", "")


@pytest.mark.parametrize(
    ("coding", "make"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("X-GZIP", gzip.compress)]
)
def test_a_compressed_body_is_decoded(
    service: Service, images: Pixels, linear: Linear, coding: str, make: Any
) -> None:
    """Whatever it is compressed from; a gzip body may have several members (RFC 1952, section 2.2)."""
    answer = service.ask(
        "POST", "/predict", make(images.tobytes()), Content_Type=OCTETS, Content_Encoding=coding
    )
    assert_answers(answer, images, linear)
    body, content_type = form(Part(png(images[0])), Part(png(images[1])))
    answer = service.ask("POST", "/predict", make(body), Content_Type=content_type, Content_Encoding=coding)
    assert_answers(answer, images[:2], linear)
    if "gzip" in coding.lower():
        body = b"".join(gzip.compress(image.tobytes()) for image in images)
        answer = service.ask("POST", "/predict", body, Content_Type=OCTETS, Content_Encoding=coding)
        assert_answers(answer, images, linear)


def test_a_compressed_body_is_bounded_and_whole(service: Service, images: Pixels) -> None:
    """A bomb, one cut off, one that goes on, one of another coding, and one of countless empty members."""

    def ask(body: bytes, coding: str) -> Answer:
        return service.ask("POST", "/predict", body, Content_Type=OCTETS, Content_Encoding=coding)

    bomb = bytes(100 << 20)
    assert_problem(ask(gzip.compress(bomb, 1), "gzip"), 413, "body-too-large", "after gzip decoding")
    assert_problem(ask(zlib.compress(bomb, 1), "deflate"), 413, "body-too-large")
    whole = gzip.compress(images.tobytes())
    for body in (whole[:-9], whole[:50], whole + b"tail", zlib.compress(b"x"), gzip.compress(b"") * 100_000):
        assert_problem(ask(body, "gzip"), 400, "malformed-body", "not gzip")
    for body in (whole, zlib.compress(b"x") + b"y", zlib.compress(images.tobytes())[:-5]):
        assert_problem(ask(body, "deflate"), 400, "malformed-body", "RFC 1950")
    for coding in ("br", "gzip, gzip", "zstd"):
        assert_problem(ask(whole, coding), 415, "unsupported-coding", coding)
    assert_problem(ask(gzip.compress(b""), "gzip"), 400, "empty-body")


def test_a_bomb_never_takes_more_memory_than_the_limit() -> None:
    """It is decoded one byte beyond it and no further."""
    request = Request(
        method="POST",
        path="/predict",
        headers={"content-encoding": "gzip"},
        body=gzip.compress(bytes(100 << 20), 1),
    )
    tracemalloc.start()
    with pytest.raises(BodyTooLargeError):
        content_coding.decode(request, 1 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_the_answer_names_the_model(service: Service, bundle: Bundle, digit: Pixels) -> None:
    """By name, version and digest."""
    manifest = bundle.manifest
    expected = {"name": "synthetic", "version": 1, "digest": manifest.digest}
    assert service.post(png(digit)).json()["model"] == expected
