"""The service and the batch scorer on a GPU; not run where the driver finds none.

It prints what memory they take, which k8s/components/nvidia asks for: `pytest tests/serving/model/test_cuda.py`.
"""

import contextlib
import csv
import http.client
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.load.wire import Message, open_inference_binary, tensors
from bench.support.models import Linear, publish_synthetic
from bench.support.pictures import Pixels, a_digit, png
from bench.support.processes import ROOT, Service, environment, running
from bundle.repository import Bundle
from serving.model import cuda
from serving.model.bound_session import allocate_pages, lock_pages
from serving.model.cuda_graph_thread import GraphSession
from serving.model.engine import BUCKETS, open_engine
from serving.scoring.backends.local import open_local
from serving.scoring.settings import ScoreSettings
from tests.gpu.memory import LOOK_SECONDS, measured

MISSING = cuda.missing_device_by_child(0)
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(MISSING is not None, reason=f"no CUDA: {MISSING}")]
VERSIONS = 5
CLIENTS = 4
PATIENCE_SECONDS = 30.0


def noise(count: int) -> Pixels:
    """Return as many images of noise, always the same for a number."""
    return np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)


def test_nothing_is_missing_where_there_is_a_gpu() -> None:
    """Driver, provider and libraries: what `make` installs is enough to use the GPU."""
    assert cuda.missing(0) is None


def test_a_cuda_engine_answers_as_numpy_does(bundle: Bundle, linear: Linear) -> None:
    """The session is on the GPU, proven there, and right at several batch sizes."""
    opened = open_engine(bundle, "cuda", 0)
    assert opened.session.get_providers()[0] == "CUDAExecutionProvider"
    for count in (1, 7, 300):
        images = noise(count)
        assert np.allclose(opened.infer(images).probabilities, linear.probabilities(images), atol=1e-4)


def test_without_cudnn_the_answers_are_the_same(bundle: Bundle) -> None:
    """No operator of the graph asks for it."""
    usual, without = open_engine(bundle, "cuda", 0), open_engine(bundle, "cuda", 0, cudnn=False)
    for count in (1, 7, 300):
        assert (
            usual.infer(noise(count)).probabilities.tobytes()
            == without.infer(noise(count)).probabilities.tobytes()
        )


def test_cuda_graphs_answer_as_the_session_does(bundle: Bundle) -> None:
    """Bit for bit, at every size that is captured and in pieces, and again after others; whichever threads ask."""
    plain = open_engine(bundle, "cuda", 0)
    captured = open_engine(bundle, "cuda", 0, cuda_graphs=True)
    assert isinstance(captured.session, GraphSession)
    counts = (1, 2, 7, 64, 300, *BUCKETS, 1)
    expected = [plain.infer(noise(count)).probabilities.tobytes() for count in counts]

    def ask(_: int) -> list[bytes]:
        return [captured.infer(noise(count)).probabilities.tobytes() for count in counts]

    assert ask(0) == expected
    with ThreadPoolExecutor(CLIENTS) as pool:
        assert list(pool.map(ask, range(CLIENTS))) == [expected] * CLIENTS


def test_pages_are_locked_until_they_are_unlocked() -> None:
    """And can be again, which they could not be if they still were; so can the pages beside them."""
    assert cuda.missing(0) is None  # which loads CUDA's runtime
    first, second = allocate_pages(784), allocate_pages(784)
    unlock, other = lock_pages(first), lock_pages(second)
    assert unlock is not None
    assert other is not None
    assert lock_pages(first) is None
    unlock()
    again = lock_pages(first)
    assert again is not None
    again()
    other()


def test_the_batch_scorer_gives_the_labels_that_the_cpu_gives(
    bundle: Bundle, linear: Linear, tmp_path: Path
) -> None:
    """Asked as it asks itself, by several threads at once; of images whose two best classes are not next to equal."""
    images = noise(9000)
    best = np.sort(linear.logits(images), axis=1)
    images = images[best[:, -1] - best[:, -2] > 1e-3]
    labels = {}
    for provider in ("cpu", "cuda"):
        engine = open_local(
            ScoreSettings.model_validate(
                {"input": ("-",), "output": tmp_path, "model": bundle.path.parent, "provider": provider}
            )
        )
        pieces = [images[start : start + engine.batch] for start in range(0, len(images), engine.batch)]
        with ThreadPoolExecutor(engine.concurrency) as pool:
            labels[provider] = np.concatenate([one.argmax(axis=1) for one in pool.map(engine.score, pieces)])
    assert len(images) > 8000
    assert np.array_equal(labels["cuda"], labels["cpu"])


def ask(service: Service, images: Pixels) -> tuple[int, bytes]:
    """Return the status of an answer, and the bits of its probabilities."""
    message = open_inference_binary(images)
    with contextlib.closing(service.connect()) as connection:
        connection.request("POST", "/v2/models/synthetic/infer", message.body, dict(message.headers))
        response = connection.getresponse()
        answer = Message(response.read(), {name.lower(): value for name, value in response.getheaders()})
    return response.status, tensors(answer).tobytes() if response.status == http.client.OK else b""


def test_reloads_under_traffic_with_cuda_graphs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every request is answered 200, with a plain session's bits at whichever size its batch was; all ends well."""
    bundle = publish_synthetic(tmp_path)
    image = noise(1)
    plain = open_engine(bundle, "cuda", 0)
    expected = {
        row.tobytes() for size in BUCKETS for row in plain.infer(np.repeat(image, size, axis=0)).probabilities
    }
    ended = threading.Event()

    def traffic(service: Service) -> set[tuple[int, bytes]]:
        found = set()
        while not ended.is_set():
            found.add(ask(service, image))
        return found

    settings: dict[str, Any] = {
        "provider": "cuda",
        "cuda_graphs": True,
        "reload_seconds": 0.2,
        "kept_versions": 0,
    }
    with (
        measured(capsys, "the service with CUDA graphs, while versions are loaded") as memory,
        running(tmp_path, until="/readyz", model=bundle.path.parent, **settings) as service,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        memory.pid = service.process.pid
        assert service.ask("GET", "/readyz").json()["provider"] == "cuda"
        asking = [pool.submit(traffic, service) for _ in range(CLIENTS)]
        try:
            for version in range(2, VERSIONS + 2):
                publish_synthetic(tmp_path)
                await_version(service, version)
        finally:
            ended.set()
        found = set[tuple[int, bytes]]().union(*(one.result() for one in asking))
    assert {status for status, _ in found} == {200}
    assert {bits for _, bits in found} <= expected
    assert "was sent SIG" not in service.log().replace("was sent SIGTERM", "")
    assert "failed" not in service.log()


def await_version(service: Service, version: int) -> None:
    """Wait until a version answers; the pause is between looks."""
    pause = threading.Event()
    for _ in range(int(PATIENCE_SECONDS / LOOK_SECONDS)):
        if service.ask("GET", "/readyz").json()["model"]["version"] == version:
            return
        pause.wait(LOOK_SECONDS)
    pytest.fail(f"version {version} was never served:\n{service.log()}")


def test_auto_serves_from_the_gpu(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a worker after the fork, one in all; `/readyz` says so."""
    settings: dict[str, Any] = {"provider": "auto", "workers": "none"}
    with (
        measured(capsys, "the service") as memory,
        running(tmp_path, until="/readyz", model=bundle.path.parent, **settings) as service,
    ):
        memory.pid = service.process.pid
        assert service.ask("GET", "/readyz").json()["provider"] == "cuda"
        assert service.post(png(a_digit())).status == 200
        assert service.log().count("Booting worker") == 1
    assert "was sent SIG" not in service.log().replace("was sent SIGTERM", "")


def test_a_job_of_the_batch_scorer(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends with 0, with a row for each image, and says which memory that takes."""
    pytest.importorskip("pyarrow", reason="the batch scorer's files need pyarrow")
    images = np.zeros((20_000, 28, 28), np.uint8)
    images[:, 4:24, 4:24] = noise(20_000)[:, 4:24, 4:24]
    np.save(tmp_path / "images.npy", images)
    output = tmp_path / "scores.csv"
    options = ("--input", str(tmp_path / "images.npy"), "--output", str(output), "--provider", "cuda")
    command = [sys.executable, "-m", "serving.score", "--model", str(bundle.path.parent), "--quiet", *options]
    with measured(capsys, "the batch scorer") as memory:
        process = subprocess.Popen(command, cwd=ROOT, env=environment())
        memory.pid = process.pid
        assert process.wait(2 * PATIENCE_SECONDS) == 0
    with output.open() as file:
        assert sum(1 for _ in csv.DictReader(file)) == len(images)
