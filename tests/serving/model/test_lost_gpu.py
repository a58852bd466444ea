"""A GPU that fails once costs a batch; one that fails for good costs the process, which another takes the place of."""

import json
import sys
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.support.management import await_, managed
from bench.support.models import publish_synthetic
from bench.support.pictures import Pixels, png
from bundle.repository import Bundle
from serving.errors import DeviceLostError, NotReadyError
from serving.model.engine import Engine, open_engine, open_version
from serving.model.store import ModelStore
from serving.settings import ServiceSettings
from tests.serving.losing import FILE
from tests.serving.management.test_management import workers_of
from tests.serving.posing import posing
from tests.serving.worker.wire import connected, post, read_answer


class Session:
    """Fails, or answers wrongly, for as long as it is to."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.fails: set[int] = set()
        """Sizes of the batches that fail."""
        self.wrong = 0.0

    def run(self, names: list[str], feeds: dict[str, Pixels]) -> Any:
        """Run, or fail."""
        if len(feeds["images"]) in self.fails:
            raise RuntimeError("CUDA failure 2: out of memory")
        logits, probabilities = self.session.run(names, feeds)
        return [logits, probabilities + np.float32(self.wrong)]


@pytest.fixture(name="session")
def fixture_session(bundle: Bundle) -> Session:
    """Return a session on the CPU."""
    return Session(open_engine(bundle, "cpu", 0).session)


@pytest.fixture(name="engine")
def fixture_engine(bundle: Bundle, session: Session) -> Engine:
    """Return an engine that says it is on CUDA."""
    with posing():
        return replace(open_engine(bundle, "cuda", 0), session=session)


IMAGES = np.zeros((64, 28, 28), np.uint8)


def test_a_batch_that_fails_alone_is_its_own_error(engine: Engine, session: Session) -> None:
    """The golden example is answered, so the next batch may be."""
    session.fails = {64}
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.infer(IMAGES)
    assert len(engine.infer(IMAGES[:2])) == 2


@pytest.mark.parametrize("ailment", ["fails", "wrong"])
def test_a_golden_example_that_fails_too_is_a_lost_gpu(
    engine: Engine, session: Session, ailment: str
) -> None:
    """By an error, or by another answer than the recorded one."""
    session.fails = {64, 1} if ailment == "fails" else {64}
    session.wrong = 0.001
    with pytest.raises(DeviceLostError, match=r"out of memory.*golden"):
        engine.infer(IMAGES)


def test_the_cpu_is_never_lost(bundle: Bundle, session: Session) -> None:
    """Its errors are of one batch, whatever else fails."""
    engine = replace(open_engine(bundle, "cpu", 0), session=session)
    session.fails = {64, 1}
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.infer(IMAGES)


def test_a_lost_state_stays_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer version is not even tried, for it would be loaded on the same GPU; nor does the end change it."""
    first = publish_synthetic(tmp_path)
    state = ModelStore.start(ServiceSettings(model=first.path.parent, provider="cpu"))
    answer = state.lose_device("CUDA failure 700")
    assert answer.status == HTTPStatus.SERVICE_UNAVAILABLE
    assert "CUDA failure 700" in answer.detail
    publish_synthetic(tmp_path)
    monkeypatch.setattr(ModelStore, "_open", lambda *_: pytest.fail("it was tried"))
    state.load()
    state.drain()
    assert state.versions() == []
    with pytest.raises(NotReadyError, match="the GPU was lost: CUDA failure 700"):
        state.report()


def test_a_version_that_is_loaded_while_the_gpu_is_lost_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the two comes first."""
    first = publish_synthetic(tmp_path)
    state = ModelStore.start(ServiceSettings(model=first.path.parent, provider="cpu"))
    publish_synthetic(tmp_path)

    def meanwhile(*arguments: Any) -> Engine:
        state.lose_device("CUDA failure 700")
        return open_version(*arguments)

    monkeypatch.setattr("serving.model.version_loader.open_version", meanwhile)
    state.load()
    assert state.versions() == []


@pytest.mark.parametrize("worker", ["inference", "gthread"])
def test_a_worker_that_lost_its_gpu_is_replaced(
    bundle: Bundle, tmp_path: Path, worker: str, digit: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests and `/readyz` are answered 503 with the reason until another is ready, and the log has it."""
    doomed = tmp_path / "doomed"
    doomed.write_text("")
    monkeypatch.setenv(FILE, str(doomed))
    command = [sys.executable, "-m", "gunicorn", "--config", "python:tests.serving.losing"]
    with managed(
        tmp_path, command=command, model=bundle.path.parent, worker=worker, workers=1, arithmetic="float32"
    ) as pod:
        service = pod.service
        (first,) = workers_of(service.process.pid)
        assert service.post(png(digit)).status == 200
        with connected(service.port) as kept, kept.makefile("rb") as stream:
            doomed.write_text(str(first))
            # At once, as a worker that ends closes the connection a moment after the first answer.
            kept.sendall(post(png(digit)) + b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n")
            answers = [read_answer(stream)[2] for _ in range(2)]
        for answer in map(json.loads, answers):
            assert answer["status"] == 503
            assert "the GPU was lost: CUDA fails (CUDA failure 700" in answer["detail"]
        await_(lambda: workers_of(service.process.pid) not in ([first], []))
        await_(lambda: pod.ask("/readyz").status == 200)
        assert service.post(png(digit)).status == 200
        assert "this worker ends, and the arbiter starts another" in service.log()
        pod.await_value(1, "glyph_worker_exits_total", how="died")
