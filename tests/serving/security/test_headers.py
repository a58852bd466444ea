"""Header fields: what pages may do, which origins may ask, and what a preflight is answered."""

import re
from typing import Any

import pytest

from bench.support.pictures import a_digit, png
from bench.support.processes import PNG, Service
from bundle.repository import Bundle
from common.errors import ConfigurationError
from serving.security.response_headers import Headers
from serving.settings import ServiceSettings, load_settings
from serving.web.app import create_app
from tests.serving.security.conftest import ORIGIN, Guarded

PREFLIGHT: dict[str, Any] = {
    "Access_Control_Request_Method": "POST",
    "Access_Control_Request_Headers": "authorization",
}


def shared(answer: Any) -> dict[str, str]:
    """Return the CORS fields of an answer."""
    return {
        name.lower(): value for name, value in answer.headers.items() if name.lower().startswith("access-")
    }


def test_by_default_no_origin_is_shared_with(service: Service) -> None:
    """No field of CORS, whoever asks, and a preflight is a plain OPTIONS."""
    body = png(a_digit())
    for answer in (
        service.ask("POST", "/predict", body, Content_Type=PNG, Origin=ORIGIN),
        service.ask("GET", "/readyz", Origin=ORIGIN),
        service.ask("OPTIONS", "/predict", Origin=ORIGIN, **PREFLIGHT),
    ):
        assert answer.status == 200
        assert shared(answer) == {}
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_an_origin_of_the_list_may_read_answers_and_refusals(guarded: Guarded) -> None:
    """The origin is named, never all of them, and caches are told that the answer depends on it."""
    body = png(a_digit())
    answers = [
        guarded.ask("POST", "/predict", body, Content_Type=PNG, Origin=ORIGIN),
        guarded.ask("POST", "/predict", b"", Content_Type=PNG, Origin=ORIGIN),
        guarded.service.ask("POST", "/predict", body, Content_Type=PNG, Origin=ORIGIN),
        guarded.ask("GET", "/v2", Origin=ORIGIN),
        guarded.service.ask("GET", "/nowhere", Origin=ORIGIN),
    ]
    assert [answer.status for answer in answers] == [200, 400, 401, 200, 401]
    for answer in answers:
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert "Origin" in re.split(r",\s*", answer.headers["Vary"])
        assert "Access-Control-Allow-Credentials" not in answer.headers
        exposed = answer.headers["Access-Control-Expose-Headers"].lower()
        assert {"x-request-id", "retry-after", "server-timing"} <= set(re.split(r",\s*", exposed))


@pytest.mark.parametrize(
    "origin", ["https://evil.example.org", "null", f"{ORIGIN}.evil.example", ORIGIN.upper()]
)
def test_another_origin_gets_no_permission(guarded: Guarded, origin: str) -> None:
    """The request is answered, and the browser keeps the answer from the page."""
    for answer in (
        guarded.ask("POST", "/predict", png(a_digit()), Content_Type=PNG, Origin=origin),
        guarded.service.ask("OPTIONS", "/predict", Origin=origin, **PREFLIGHT),
    ):
        assert answer.status == 200
        assert shared(answer) == {}
        assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize(
    ("path", "method"), [("/predict", "POST"), ("/v2/models/synthetic/infer", "POST"), ("/v2", "GET")]
)
def test_a_preflight_needs_no_token_and_names_methods_and_fields(
    guarded: Guarded, path: str, method: str
) -> None:
    """What the Fetch standard checks before it sends the request: origin, method, fields."""
    answer = guarded.service.ask("OPTIONS", path, Origin=ORIGIN, **PREFLIGHT)
    assert 200 <= answer.status < 300
    fields = shared(answer)
    assert fields["access-control-allow-origin"] == ORIGIN
    assert method in re.split(r",\s*", fields["access-control-allow-methods"])
    allowed = set(re.split(r",\s*", fields["access-control-allow-headers"].lower()))
    assert {"authorization", "content-type", "x-request-id", "inference-header-content-length"} <= allowed
    assert "*" not in allowed  # it would not stand for Authorization
    assert int(fields["access-control-max-age"]) > 0


def test_every_origin_can_be_allowed() -> None:
    """The star is answered as such, and no answer depends on who asked."""
    fields = Headers(ServiceSettings(cors_origins=("*",))).of({"origin": ORIGIN})
    assert fields["Access-Control-Allow-Origin"] == "*"
    assert "Vary" not in fields


@pytest.mark.parametrize(
    "value", ["app.example.org", "https://app.example.org/", "https://a b", "https://*.example.org"]
)
def test_what_no_browser_sends_as_an_origin_is_refused_at_the_start(value: str) -> None:
    """It would never match, and the operator would wonder."""
    with pytest.raises(ConfigurationError, match="GLYPH_CORS_ORIGINS"):
        load_settings({"GLYPH_CORS_ORIGINS": value})


def test_every_html_page_may_load_nothing_but_its_own_files(bundle: Bundle) -> None:
    """All routes that answer HTML: no inline script, no frame, no other host, no referrer."""
    app = create_app(ServiceSettings(model=bundle.path.parent, provider="cpu"))
    pages = 0
    for rule in app.url_map.iter_rules():
        if "GET" not in (rule.methods or ()) or rule.arguments:
            continue
        answer = app.test_client().get(rule.rule)
        assert answer.headers["X-Content-Type-Options"] == "nosniff", rule.rule
        if answer.mimetype != "text/html":
            continue
        pages += 1
        policy = dict(
            part.strip().partition(" ")[::2] for part in answer.headers["Content-Security-Policy"].split(";")
        )
        assert policy["default-src"] == "'none'"
        assert policy["frame-ancestors"] == "'none'"
        assert policy["base-uri"] == "'none'"
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert "http" not in answer.headers["Content-Security-Policy"]
        assert policy["script-src"] == "'self'"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert_no_inline(answer.text)
    assert pages >= 1


def assert_no_inline(html: str) -> None:
    """Check that a page has nothing that its policy would stop."""
    assert not re.search(r"<script(?![^>]*\bsrc=)", html)
    assert not re.search(r"<style\b|\sstyle=|\son[a-z]+=|javascript:", html)
    assert not re.search(r'(?:src|href)="(?:https?:)?//', html)
