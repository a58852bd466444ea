"""What the service says of itself: that it is whole, that it is true, and that it needs no network."""

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import jsonschema_rs
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from bundle.repository import Bundle
from serving import description, errors
from serving.app import create_app
from serving.description import STYLE
from serving.description.errors import EXAMPLES
from serving.settings import ServiceSettings
from tests.serving.processes import Service

UNDESCRIBED = {"/assets/<name>", STYLE}
"""The files of pages are no operations."""
UNANSWERED = {errors.MethodNotAllowedError}
"""Described operations are asked by their own methods."""


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


def problem_classes(base: type[errors.ProblemError]) -> Iterator[type[errors.ProblemError]]:
    """Yield a class and all below it."""
    yield base
    for child in base.__subclasses__():
        yield from problem_classes(child)


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
    """Each class of the tree is in an operation's answers, under its own status."""
    classes = set(problem_classes(errors.ProblemError))
    assert set(EXAMPLES) == classes
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
    tokens.write_text("")
    settings = ServiceSettings(model=bundle.path.parent, provider="cpu", tokens_file=tokens)
    api = create_app(settings).test_client().get("/openapi.json").get_json()
    OPENAPI_31_VALIDATOR.validate(api)
    assert api["security"] == [{"bearer": []}]
    assert api["paths"]["/livez"]["get"]["security"] == []
    assert "security" not in api["paths"]["/predict"]["post"]


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
    monkeypatch.setattr(description, "pretty", None)
    monkeypatch.setattr(description, "render_template", None)
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
    assert found["limits"] == {"body_bytes": 8 << 20, "image_bytes": 1 << 20, "files": 256, "images": 1024}
