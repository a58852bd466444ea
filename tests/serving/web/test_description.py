"""What the service says of itself: that it is whole, that it is true, and that it needs no network."""

import base64
import io
import json
import socket
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
from PIL import Image
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from bench.support.pictures import SAMPLES, a_digit, png
from bench.support.processes import Service, running
from bundle import __version__
from bundle.images.decoding import PARSERS
from bundle.repository import Bundle
from serving import errors
from serving.errors import problem_classes
from serving.predict.load_shedding import AdmissionControl, body_timeout, check_deadline
from serving.predict.pipeline import internal_error
from serving.settings import ServiceSettings
from serving.web import api_docs
from serving.web.api_docs import STYLE
from serving.web.api_docs.openapi import document
from serving.web.app import create_app

UNDESCRIBED = {"/assets/<name>", STYLE}
"""The files of pages are no operations."""
UNANSWERED = {errors.MethodNotAllowedError}
"""Described operations are asked by their own methods."""
PNG = {"Content-Type": "image/png"}
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
TEXT_PART = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n7\r\n'
FILE_PART = b'--b\r\nContent-Disposition: form-data; name="image"; filename="7.png"\r\n\r\n7\r\n'
DIGIT = SAMPLES["image/png"]
LARGEST = 8 << 20


def animated() -> bytes:
    """Return a GIF of two frames."""
    buffer = io.BytesIO()
    frames = [Image.fromarray(pixels) for pixels in (a_digit(), a_digit().T)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


REFUSED: dict[type[errors.ProblemError], tuple[str, bytes, dict[str, str]]] = {
    errors.EmptyBodyError: ("/predict", b"", PNG),
    errors.MalformedBodyError: ("/predict", b'{"instances": [', {"Content-Type": "application/json"}),
    errors.BadQueryError: ("/predict?top=0", DIGIT, PNG),
    errors.BadTimeoutError: ("/predict", DIGIT, PNG | {"X-Request-Timeout-Ms": "soon"}),
    errors.BodyTooLargeError: ("/predict", bytes(LARGEST + 1), PNG),
    errors.TooManyFilesError: ("/predict", FILE_PART * 257 + b"--b--\r\n", FORM),
    errors.TooManyImagesError: ("/predict", bytes(784 * 2000), {"Content-Type": "application/octet-stream"}),
    errors.ImageTooLargeError: ("/predict", DIGIT.ljust((1 << 20) + 1, b"\0"), PNG),
    errors.UnsupportedMediaTypeError: ("/predict", SAMPLES["image/jpeg"], PNG),
    errors.UnsupportedCodingError: ("/predict", DIGIT, PNG | {"Content-Encoding": "br"}),
    errors.NotAFileError: ("/predict", TEXT_PART + b"--b--\r\n", FORM),
    errors.NoFileError: ("/predict", b"--b--\r\n", FORM),
    errors.BrokenImageError: ("/predict", DIGIT[:100], PNG),
    errors.WrongSizeError: ("/predict", png(np.zeros((32, 32), np.uint8)), PNG),
    errors.UnsupportedImageError: ("/predict", animated(), {"Content-Type": "image/gif"}),
    errors.InvalidInstanceError: (
        "/predict",
        json.dumps({"instances": [[0] * 5 + [300] + [0] * 778]}).encode(),
        {"Content-Type": "application/json"},
    ),
    errors.ModelControlError: ("/v2/repository/models/synthetic/load", b"", {}),
    errors.NotFoundError: (
        "/v2/models/synthetic/versions/9/infer",
        bytes(784),
        {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "0"},
    ),
}
"""What the application refuses: path, body and header fields."""
RAISED: dict[type[errors.ProblemError], Callable[[], object]] = {
    errors.OverloadedError: lambda: AdmissionControl(limit=0, limit_bytes=1).enter(),
    errors.DeadlineExceededError: lambda: check_deadline(1.0, now=2.0),
    errors.RequestTimeoutError: lambda: raised(body_timeout(ServiceSettings().body_timeout_seconds)),
    errors.ProblemError: lambda: raised(internal_error()),
}
"""What takes a crowd, a slow client or a fault to be answered: the functions that say it."""


def raised(error: errors.ProblemError) -> None:
    """Raise it."""
    raise error


@pytest.fixture(scope="session")
def application(bundle: Bundle) -> Any:
    """Return the application in this process."""
    return create_app(ServiceSettings(model=bundle.path.parent, provider="cpu"))


@pytest.fixture(scope="session")
def api(application: Any) -> dict[str, Any]:
    """Return the description."""
    document: dict[str, Any] = application.test_client().get("/openapi.json").get_json()
    return document


def operations(api: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield path, method and operation of each."""
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def validator(api: dict[str, Any], schema: dict[str, Any]) -> Any:
    """Return a validator of a schema whose references are the description's."""
    return jsonschema_rs.Draft202012Validator({**schema, "components": api["components"]})


def test_the_description_is_openapi_and_knows_every_route(api: dict[str, Any], application: Any) -> None:
    """By OpenAPI's own schema of documents; every rule of the application is there, and no other."""
    OPENAPI_31_VALIDATOR.validate(api)
    described = {(path, method.upper()) for path, method, _ in operations(api)}
    routes = {
        (rule.rule.replace("<", "{").replace(">", "}"), method)
        for rule in application.url_map.iter_rules()
        if rule.rule not in UNDESCRIBED
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert described == routes
    identifiers = [operation["operationId"] for _, _, operation in operations(api)]
    assert len(set(identifiers)) == len(identifiers)


def test_every_error_is_described_with_an_example(api: dict[str, Any]) -> None:
    """Each class of the tree has its own, and is in an operation's answers, under its own status."""
    classes = set(problem_classes())
    assert [kind for kind in classes if not {"detail", "remedy"} <= vars(kind).keys()] == []
    shown = {
        (name, int(status))
        for _, _, operation in operations(api)
        for status, answer in operation["responses"].items()
        for content in answer["content"].values()
        for name in content.get("examples", ())
        if int(status) >= 400
    }
    for kind in classes - UNANSWERED:
        assert (kind.kind, int(kind.status)) in shown, kind


def example(api: dict[str, Any], path: str, kind: type[errors.ProblemError], status: int) -> Any:
    """Return what an operation is described to answer where it is refused for this."""
    (operation,) = api["paths"][path].values()
    contents = operation["responses"][str(status)]["content"].values()
    (found,) = (content["examples"][kind.kind] for content in contents if kind.kind in content["examples"])
    return found["value"]


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_is_answered_as_its_example(
    application: Any, api: dict[str, Any], kind: type[errors.ProblemError]
) -> None:
    """Word for word, with the header fields that are described; members beside the example say which image it was."""
    url, body, fields = REFUSED[kind]
    answer = application.test_client().post(url, data=body, headers=fields)
    path = url.partition("?")[0].replace("synthetic", "{model}").replace("9", "{version}")
    shown = example(api, path, kind, answer.status_code)
    assert {name: answer.get_json()[name] for name in shown} == shown
    described = api["paths"][path]["post"]["responses"][str(answer.status_code)]["headers"]
    assert set(kind().headers) <= set(described)
    assert kind().headers.items() <= dict(answer.headers).items()


@pytest.mark.parametrize("kind", RAISED)
def test_what_is_said_without_a_request_is_said_as_its_example(kind: type[errors.ProblemError]) -> None:
    """Of an overload, the place in the queue is the operator's to choose."""
    with pytest.raises(kind) as caught:
        RAISED[kind]()
    limit = ServiceSettings().queue_limit
    assert caught.value.detail.replace("0 requests are", f"{limit} requests are") == kind.detail
    assert caught.value.remedy == kind.remedy
    assert set(caught.value.headers) == set(kind().headers)


def test_what_cannot_be_read_is_answered_as_its_example(
    bundle: Bundle, api: dict[str, Any], tmp_path: Path
) -> None:
    """On whatever path, as problem details, since nobody has looked at the path; and without an id."""
    answers = {}
    with running(tmp_path, model=bundle.path.parent) as service:
        for path in ("/predict", "/v2"):
            with socket.create_connection(("127.0.0.1", service.port), timeout=30) as client:
                client.sendall(f"POST {path} HTTP/1.1\r\n\r\n".encode())
                answers[path] = client.makefile("rb").read()
    for path, answer in answers.items():
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert errors.PROBLEM_MEDIA_TYPE.encode() in head
        assert json.loads(body) == example(api, path, errors.MalformedRequestError, 400)
        (operation,) = api["paths"][path].values()
        reference = operation["responses"]["400"]["headers"]["X-Request-ID"]["$ref"]
        header = api["components"]["headers"][reference.rpartition("/")[2]]
        assert b"x-request-id" in head.lower() or not header.get("required")


def test_who_may_not_ask_is_answered_as_the_example(bundle: Bundle, tmp_path: Path) -> None:
    """Without a token, with half of one, and where the file of tokens is broken."""
    tokens = tmp_path / "tokens"
    tokens.write_text("# nobody\n")
    settings = ServiceSettings(model=bundle.path.parent, provider="cpu", tokens_file=tokens)
    api, client = document(settings), create_app(settings).test_client()
    tokens.unlink()
    broken = create_app(settings).test_client()
    for asked, authorization, kind in (
        (client, {}, errors.UnauthorizedError),
        (client, {"Authorization": "Bearer "}, errors.BearerMalformedError),
        (broken, {"Authorization": "Bearer a"}, errors.AuthorizationUnavailableError),
    ):
        for path in ("/predict", "/metadata", "/v2"):
            method = next(iter(api["paths"][path])).upper()
            answer = asked.open(path, method=method, headers=authorization)
            assert answer.get_json() == example(api, path, kind, answer.status_code)
            described = api["paths"][path][method.lower()]["responses"][str(answer.status_code)]["headers"]
            assert ("WWW-Authenticate" in answer.headers) <= ("WWW-Authenticate" in described)


def test_without_a_model_the_answer_is_the_example(tmp_path: Path) -> None:
    """Which names the place where none was found."""
    settings = ServiceSettings(model=tmp_path, provider="cpu")
    api, client = document(settings), create_app(settings).test_client()
    not_ready = set()
    for path, method, _ in operations(api):
        url = path.replace("{model}", "mnist").replace("{version}", "1")
        body = b"" if path == "/v2/repository/index" else DIGIT
        answer = client.open(url, method=method.upper(), data=body, headers=PNG)
        if answer.status_code != 200:
            said = json.loads(answer.data.replace(bytes(tmp_path), b"/models"))
            assert said == example(api, path, errors.NotReadyError, 503), path
            assert answer.headers["Retry-After"]
            not_ready.add(path)
    assert {"/predict", "/metadata", "/samples", "/readyz", "/v2/models/{model}/infer"} < not_ready


@pytest.mark.parametrize(
    ("kind", "query", "body", "fields"),
    [
        (errors.MalformedBodyError, "", b"{", {}),
        (errors.BadQueryError, "?top=3", b"{}", {}),
        (errors.BadTimeoutError, "", b"{}", {"X-Request-Timeout-Ms": "soon"}),
        (errors.BodyTooLargeError, "", bytes(LARGEST + 1), {}),
        (errors.TooManyImagesError, "", bytes(784 * 2000), {"Inference-Header-Content-Length": "0"}),
        (errors.UnsupportedCodingError, "", b"{}", {"Content-Encoding": "br"}),
        (errors.InvalidInstanceError, "", b"{}", {}),
    ],
)
def test_what_inference_is_refused_for_is_described(
    application: Any,
    api: dict[str, Any],
    kind: type[errors.ProblemError],
    query: str,
    body: bytes,
    fields: dict[str, str],
) -> None:
    """Under the status that it has there, in the protocol's form."""
    answer = application.test_client().post(f"/v2/models/synthetic/infer{query}", data=body, headers=fields)
    described = api["paths"]["/v2/models/{model}/infer"]["post"]["responses"][str(answer.status_code)]
    content = described["content"][answer.mimetype]
    assert kind.kind in content["examples"]
    assert validator(api, content["schema"]).is_valid(answer.get_json())


def test_a_method_that_a_path_does_not_answer_is_said_in_the_examples_words(application: Any) -> None:
    """It is described nowhere, since OpenAPI describes the methods that there are."""
    answer = application.test_client().get("/predict")
    detail, remedy = errors.MethodNotAllowedError.detail, errors.MethodNotAllowedError.remedy
    assert (answer.get_json()["detail"], answer.get_json()["remedy"]) == (detail, remedy)


def test_every_problem_is_compared_with_what_is_answered() -> None:
    """By one of the tests above."""
    others = {
        errors.MalformedRequestError,
        errors.MethodNotAllowedError,
        errors.NotReadyError,
        errors.UnauthorizedError,
        errors.BearerMalformedError,
        errors.AuthorizationUnavailableError,
    }
    assert {*REFUSED, *RAISED, *others} == set(problem_classes())


def test_the_document_lists_what_is_decoded_and_shows_one_image_in_all_its_forms(api: dict[str, Any]) -> None:
    """It is written by hand: media types, and the 7 as a file, as rows and as one list."""
    body = api["paths"]["/predict"]["post"]["requestBody"]["content"]
    names = [name for name in body if name.startswith("image/")]
    assert set(names) == set(PARSERS)
    listed = ", ".join(names)
    assert body["multipart/form-data"]["encoding"]["image"]["contentType"] == listed
    samples = api["components"]["schemas"]["Samples"]["properties"]["samples"]
    assert listed in samples["items"]["properties"]["png"]["description"]
    shown = api["paths"]["/metadata"]["get"]["responses"]["200"]["content"]["application/json"]["examples"]
    assert shown["answer"]["value"]["input"]["media_types"] == names
    examples = {
        name: found["value"]["instances"] for name, found in body["application/json"]["examples"].items()
    }
    (rows,), (flat,), (png_file, b64, url) = examples["pixels"], examples["flat"], examples["files"]
    with Image.open(io.BytesIO(base64.b64decode(png_file))) as image:
        assert np.asarray(image.convert("L")).tolist() == rows
    assert [pixel for row in rows for pixel in row] == flat
    assert b64 == {"b64": png_file}
    assert url == f"data:image/png;base64,{png_file}"


def test_the_limits_that_are_described_are_the_settings(bundle: Bundle) -> None:
    """As /metadata has them."""
    settings = ServiceSettings(model=bundle.path.parent, max_images=7, max_files=3, max_body_bytes=99_999)
    api = document(settings)
    schemas = api["components"]["schemas"]
    assert schemas["Instances"]["properties"]["instances"]["maxItems"] == 7
    assert schemas["RequestInput"]["properties"]["shape"]["prefixItems"][0]["maximum"] == 7
    shown = api["paths"]["/metadata"]["get"]["responses"]["200"]["content"]["application/json"]["examples"]
    assert shown["answer"]["value"]["limits"] == {
        "body_bytes": 99_999,
        "image_bytes": 1 << 20,
        "image_pixels": 1 << 19,
        "image_side": 4096,
        "files": 3,
        "images": 7,
    }
    assert api["info"]["version"] == __version__


def test_every_example_is_what_its_schema_says(api: dict[str, Any]) -> None:
    """Of requests and of answers."""
    count = 0
    for path, _, operation in operations(api):
        bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
        for media_type, content in (item for body in bodies for item in body.get("content", {}).items()):
            for name, example in content.get("examples", {}).items():
                assert validator(api, content["schema"]).is_valid(example["value"]), (path, media_type, name)
                count += 1
    assert count > 50


def test_every_json_example_is_answered_as_it_is_described(service: Service, api: dict[str, Any]) -> None:
    """Sent as it stands; the answer has the schema of its status."""
    for path, method, operation in operations(api):
        url = path.replace("{model}", "synthetic").replace("{version}", "1")
        examples = (
            operation.get("requestBody", {})
            .get("content", {})
            .get("application/json", {})
            .get("examples", {})
        )
        for body in [example["value"] for example in examples.values()] or [None]:
            if method == "post" and body is None:
                continue
            sent = None if body is None else json.dumps(body)
            answer = service.ask(method.upper(), url, sent, Content_Type="application/json")
            assert answer.status == 200, (url, answer.body)
            media_type = answer.headers["Content-Type"].partition(";")[0]
            content = operation["responses"]["200"]["content"][media_type]
            if media_type == "application/json":
                assert validator(api, content["schema"]).is_valid(answer.json()), url


def test_the_description_says_so_where_tokens_are_asked_for(bundle: Bundle, tmp_path: Any) -> None:
    """And which paths are open all the same."""
    tokens = tmp_path / "tokens"
    tokens.write_text("# nobody\n")
    for docs_token in (False, True):
        settings = ServiceSettings(
            model=bundle.path.parent, provider="cpu", tokens_file=tokens, docs_token=docs_token
        )
        api = document(settings)
        OPENAPI_31_VALIDATOR.validate(api)
        assert api["security"] == [{"bearer": []}]
        client = create_app(settings).test_client()
        for path, method, operation in operations(api):
            is_open = client.open(path, method=method.upper()).status_code != 401
            assert operation.get("security") == ([] if is_open else None), path


class Links(HTMLParser):
    """Collects what a page loads and where it leads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.tags.add(tag)
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.text += data


def test_the_documentation_page_needs_no_network(service: Service, api: dict[str, Any]) -> None:
    """It shows every operation, error and schema, and loads nothing but its own style sheet."""
    answer = service.ask("GET", "/docs")
    page = Links()
    page.feed(answer.body.decode())
    assert not any(":" in link or link.startswith("/") for link in page.found if link != "data:,"), page.found
    assert not page.tags & {"script", "img", "iframe", "style"}
    style = service.ask("GET", STYLE)
    assert (style.status, style.headers["Content-Type"]) == (200, "text/css; charset=utf-8")
    assert b"url(" not in style.body
    assert b"@import" not in style.body
    for path, _, operation in operations(api):
        assert path in page.text
        assert f"#{operation['operationId']}" in page.found
        for status, described in operation["responses"].items():
            assert status in page.text
            for name in (
                name for content in described["content"].values() for name in content.get("examples", ())
            ):
                assert name in page.text
    assert all(name in page.text for name in api["components"]["schemas"])


def test_the_documentation_is_made_once(application: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has it already gets 304, and nobody has it rendered anew."""
    client = application.test_client()
    first = {path: client.get(path) for path in ("/docs", "/openapi.json", STYLE)}
    monkeypatch.setattr(api_docs, "pretty", None)
    monkeypatch.setattr(api_docs, "render_template", None)
    for path, answer in first.items():
        assert client.get(path).data == answer.data
        again = client.get(path, headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.data) == (304, b"")
        assert answer.headers["Cache-Control"] == "no-cache"
    assert first["/docs"].headers["ETag"] != first["/openapi.json"].headers["ETag"]


def test_metadata_is_the_manifests(service: Service, bundle: Bundle) -> None:
    """The input contract, the classes, the accuracy and the calibration."""
    found = service.ask("GET", "/metadata").json()
    manifest = json.loads((bundle.path / "manifest.json").read_bytes())
    assert found["classes"] == manifest["classes"]
    assert found["test"] == manifest["test"]
    assert found["validation"] == manifest["validation"]
    assert found["calibration"] == {"method": "temperature scaling", "temperature": manifest["temperature"]}
    assert found["model"] == {"name": "synthetic", "version": 1, "digest": manifest["digest"]}
    contract = {key: found["input"][key] for key in manifest["input"]}
    assert contract == manifest["input"]
    assert found["input"]["conversions"]["alpha"].startswith("is composited on black")
    assert found["provider"] == "cpu"
    assert found["limits"] == {
        "body_bytes": 8 << 20,
        "image_bytes": 1 << 20,
        "image_pixels": 1 << 19,
        "image_side": 4096,
        "files": 256,
        "images": 1024,
    }
