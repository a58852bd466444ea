"""Fixtures: one bundle that no test changes, and services that serve it, which many tests ask."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bench.support.management import Managed, await_, managed
from bench.support.models import Linear, a_linear, publish_synthetic
from bench.support.pictures import a_digit
from bench.support.processes import Service, running
from bundle.repository import Bundle

WORKER_CLASSES = ("inference", "gthread")
AILING = (sys.executable, "-m", "gunicorn", "--config", "python:tests.serving.ailing")


@pytest.fixture(scope="session")
def linear() -> Linear:
    """Return what the served graph computes, in NumPy."""
    return a_linear()


@pytest.fixture
def digit() -> npt.NDArray[np.uint8]:
    """Return an image that no other test has changed."""
    return a_digit()


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a published bundle that no test changes."""
    return publish_synthetic(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session", params=["inference", "gthread"])
def service(
    bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Service]:
    """Return one ready service that many tests ask; each of them asks both ways of serving."""
    directory = tmp_path_factory.mktemp("service")
    with running(directory, until="/readyz", model=bundle.path.parent, worker=request.param) as started:
        yield started


@pytest.fixture
def ailment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that says what ails the workers of an `AILING` service; nothing so far."""
    path = tmp_path / "ailment"
    path.write_text("")
    monkeypatch.setenv("AILMENT", str(path))
    return path


@pytest.fixture(scope="package")
def both_services(
    bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, Service]]:
    """Return two services of the same model: the inference worker and Gunicorn's threads."""
    directory = tmp_path_factory.mktemp("services")
    common: dict[str, Any] = {"until": "/readyz", "model": bundle.path.parent, "log_level": "error"}
    with (
        running(directory, worker="inference", **common) as worker,
        running(directory, worker="gthread", **common) as threads,
    ):
        yield worker, threads


@pytest.fixture(params=WORKER_CLASSES)
def worker_class(request: pytest.FixtureRequest) -> str:
    """Return the setting `worker`: every test that takes it runs under both worker classes."""
    return str(request.param)


@pytest.fixture(scope="session", params=WORKER_CLASSES)
def pod(
    bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Managed]:
    """Return a service whose two workers are ready."""
    directory = tmp_path_factory.mktemp("pod")
    with managed(directory, model=bundle.path.parent, workers=2, worker=request.param) as started:
        await_(lambda: started.ask("/readyz").json()["workers"] == {"ready": 2})
        yield started
