"""The service on a GPU; not run where the driver finds none."""

from pathlib import Path

import numpy as np
import pytest

from bundle.repository import Bundle
from serving import cuda
from serving.bound import BoundSession, lock_pages
from serving.engine import open_engine
from tests.pictures import a_digit, png
from tests.serving.models import Linear
from tests.serving.processes import running

MISSING = cuda.missing_device_by_child(0)
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(MISSING is not None, reason=f"no CUDA: {MISSING}")]


def test_nothing_is_missing_where_there_is_a_gpu() -> None:
    """Driver, provider and libraries: what `make` installs is enough to use the GPU."""
    assert cuda.missing(0) is None


def test_a_cuda_engine_answers_as_numpy_does(bundle: Bundle, linear: Linear) -> None:
    """The session is on the GPU, proven there, and right at several batch sizes."""
    opened = open_engine(bundle, "cuda", 0)
    assert opened.session.get_providers()[0] == "CUDAExecutionProvider"
    for count in (1, 7, 300):
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        assert np.allclose(opened.infer(images).probabilities, linear.probabilities(images), atol=1e-4)


def test_cuda_graphs_answer_as_the_session_does(bundle: Bundle) -> None:
    """Bit for bit, at every size that is captured and in pieces, and again after others."""
    plain = open_engine(bundle, "cuda", 0)
    captured = open_engine(bundle, "cuda", 0, cuda_graphs=True)
    assert isinstance(captured.session, BoundSession)
    for count in (1, 2, 7, 64, 300, 1):
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        assert captured.infer(images).probabilities.tobytes() == plain.infer(images).probabilities.tobytes()


def test_pages_are_locked_for_as_long_as_an_array_lives() -> None:
    """And can be again, which they could not be if they still were."""
    array = np.zeros(1 << 20, np.uint8)
    assert lock_pages(array)
    assert not lock_pages(array)
    del array
    assert lock_pages(np.zeros(1 << 20, np.uint8))


@pytest.mark.parametrize("policy", ["cuda", "auto"])
def test_both_policies_serve_from_the_gpu(policy: str, bundle: Bundle, tmp_path: Path) -> None:
    """In a worker after the fork, and `/readyz` says so."""
    with running(tmp_path, until="/readyz", model=bundle.path.parent, provider=policy) as service:
        assert service.ask("GET", "/readyz").json()["provider"] == "cuda"
        assert service.post(png(a_digit())).status == 200
