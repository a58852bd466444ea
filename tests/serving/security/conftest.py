"""Fixtures: a service with everything on that this directory tests, by both ways of serving."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.support.processes import Answer, Service, running
from bundle.repository import Bundle
from serving.token import line_of, new_token
from tests.serving.security.collector import Collector, collecting

ORIGIN = "https://app.example.org"


@dataclass(frozen=True)
class Guarded:
    """A service that asks for tokens, and one that it lets in."""

    service: Service
    token: str
    tokens: Path
    collector: Collector

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Ask with the token."""
        fields: dict[str, Any] = {"Authorization": f"Bearer {self.token}"} | headers
        return self.service.ask(method, path, body, **fields)


@pytest.fixture(scope="session", params=["inference", "gthread"])
def guarded(
    bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Guarded]:
    """Return a service with tokens, CORS for one origin, JSON logs, an access log, and traces."""
    directory = tmp_path_factory.mktemp("guarded")
    token, tokens = new_token(), directory / "tokens"
    tokens.write_text(f"# who may ask\n{line_of('till-7', token)}\n")
    with collecting() as collector, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        settings: dict[str, Any] = {
            "model": bundle.path.parent,
            "worker": request.param,
            "tokens_file": tokens,
            "docs_token": True,
            "cors_origins": f"https://other.example.org,{ORIGIN}",
            "log_format": "json",
            "access_log": True,
            "tracing": "otlp",
        }
        with running(directory, until="/readyz", **settings) as service:
            yield Guarded(service, token, tokens, collector)
