"""Client of a service's management port, and parser of its metrics."""

import contextlib
import http.client
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from bench.support.processes import (
    ANSWER_SECONDS,
    START_SECONDS,
    Answer,
    Service,
    ServiceError,
    free_port,
    running,
)

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Samples:
    """Return every sample of an exposition, by name and labels, read by Prometheus's own parser."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Managed:
    """A service that has a management port."""

    def __init__(self, service: Service, port: int) -> None:
        self.service = service
        self.port = port

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Send one request to the management port."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def samples(self) -> Samples:
        """Return every sample of `/metrics`, by name and labels."""
        answer = self.ask("/metrics")
        if answer.status != 200:
            raise ServiceError(f"/metrics answers {answer.status}: {answer.body!r}")
        return parsed(answer.body.decode())

    def value(self, name: str, /, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels, 0 if there are none."""
        wanted = set(labels.items())
        return sum(value for (found, has), value in self.samples().items() if found == name and wanted <= has)

    def await_value(self, expected: float, name: str, /, **labels: str) -> None:
        """Ask until a metric has this value."""
        await_(lambda: self.value(name, **labels) == expected, lambda: self.value(name, **labels))


def await_(condition: Callable[[], bool], shown: Callable[[], object] = lambda: "") -> None:
    """Ask until a condition holds; the pause is between tries."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise ServiceError(f"it never came to be; last was {shown()}")
        time.sleep(0.02)


@contextlib.contextmanager
def managed(directory: Path, *, until: str = "/readyz", **settings: object) -> Iterator[Managed]:
    """Start a service with a management port, as `running` does."""
    port = free_port()
    values: Mapping[str, Any] = {"management_port": port} | settings
    with running(directory, until=until, **values) as service:
        asked = Managed(service, port)
        await_(lambda: _answers(asked))
        yield asked


def _answers(asked: Managed) -> bool:
    with contextlib.suppress(OSError):
        return asked.ask("/livez").status == 200
    return False
