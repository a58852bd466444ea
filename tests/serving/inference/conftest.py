"""Fixtures: both ways of serving, side by side."""

from collections.abc import Iterator

import pytest

from bench.support.processes import Service, running
from bundle.repository import Bundle


@pytest.fixture(scope="package")
def doors(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Service]]:
    """Return two services of the same model: the inference worker and Gunicorn's threads."""
    directory = tmp_path_factory.mktemp("doors")
    common = {"until": "/readyz", "model": bundle.path.parent, "log_level": "error"}
    with (
        running(directory, worker="inference", **common) as worker,  # type: ignore[arg-type]
        running(directory, worker="gthread", **common) as threads,  # type: ignore[arg-type]
    ):
        yield worker, threads
