"""Fixed buffers for each size of a batch, run on the CPU; test_cuda.py runs the same on a GPU."""

import ctypes
import gc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime
import pytest

from bundle.repository import Bundle
from serving import bound, cuda, engine
from serving.bound import OUTPUTS, BoundSession, lock_pages
from serving.engine import BUCKETS, open_engine
from serving.errors import ProviderError
from tests.pictures import Pixels

NAMES = list(OUTPUTS)


@pytest.fixture(scope="module", name="session")
def fixture_session(bundle: Bundle) -> Any:
    """Return a session of ONNX Runtime's."""
    return open_engine(bundle, "cpu", 0).session


def batch(count: int) -> Pixels:
    """Return as many images of noise, always the same for a number."""
    return np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)


@pytest.mark.parametrize("names", [NAMES, ["probabilities"]])
def test_it_answers_as_the_session_does(session: Any, names: list[str]) -> None:
    """Bit for bit, whatever size came before."""
    tested = BoundSession(session, "cpu", 0, 10)
    for count in (1, 64, 3, 1, 256, 64):
        expected = session.run(names, {"images": batch(count)})
        found = tested.run(names, {"images": batch(count)})
        assert [one.tobytes() for one in found] == [one.tobytes() for one in expected]


def test_each_size_has_a_graph_of_its_own(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA captures by this number, and would replay another size's graph else."""
    made: list[Any] = []
    options = onnxruntime.RunOptions

    def noting() -> Any:
        made.append(options())
        return made[-1]

    monkeypatch.setattr(onnxruntime, "RunOptions", noting)
    tested = BoundSession(session, "cpu", 0, 10)
    for count in (1, 64, 1):
        tested.run(NAMES, {"images": batch(count)})
    assert [one.get_run_config_entry("gpu_graph_id") for one in made] == ["1", "64"]


def test_an_answer_stays_what_it_was(session: Any) -> None:
    """The next run has the same buffers, and the images given are not kept."""
    tested = BoundSession(session, "cpu", 0, 10)
    images = batch(4)
    (before,) = tested.run(["probabilities"], {"images": images})
    kept = before.copy()
    images[:] = 255
    (after,) = tested.run(["probabilities"], {"images": images})
    assert before.tobytes() == kept.tobytes() != after.tobytes()


def test_threads_do_not_meet_in_a_buffer(session: Any) -> None:
    """Each of many that run at once gets the answers for its own images."""
    tested = BoundSession(session, "cpu", 0, 10)
    inputs = [np.roll(batch(8), shift, axis=1) for shift in range(24)]
    expected = [session.run(["logits"], {"images": images})[0].tobytes() for images in inputs]

    def run(images: Pixels) -> set[bytes]:
        return {tested.run(["logits"], {"images": images})[0].tobytes() for _ in range(40)}

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, inputs)) == [{one} for one in expected]


class Posing(onnxruntime.InferenceSession):  # type: ignore[misc]  # it ships no types
    """A session on the CPU that says it is on CUDA, and what it was asked for."""

    asked: Any = None

    def __init__(self, graph: bytes, options: Any, providers: Any) -> None:
        type(self).asked = providers
        del options
        super().__init__(graph, providers=["CPUExecutionProvider"])

    def get_providers(self) -> list[str]:
        """Return what is expected."""
        return ["CUDAExecutionProvider"]


@pytest.mark.parametrize("graphs", [True, False])
def test_cuda_is_asked_for_graphs_only_where_they_are_wanted(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, *, graphs: bool
) -> None:
    """And every size is run before the first request: here on the CPU, by a session that poses."""
    sizes: list[int] = []

    class OnCpu(BoundSession):
        def __init__(self, session: Any, device: str, device_id: int, classes: int) -> None:
            assert (device, device_id) == ("cuda", 3)
            super().__init__(session, "cpu", 0, classes)

        def run(self, names: list[str], feeds: dict[str, Pixels]) -> Any:
            sizes.append(len(feeds["images"]))
            return super().run(names, feeds)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Posing)
    monkeypatch.setattr(engine, "BoundSession", OnCpu)
    opened = open_engine(bundle, "cuda", 3, cuda_graphs=graphs)
    ((name, settings),) = Posing.asked
    assert name == "CUDAExecutionProvider"
    assert settings.get("enable_cuda_graph") == ("1" if graphs else None)
    assert isinstance(opened.session, OnCpu) is graphs
    assert tuple(sizes[: len(BUCKETS)]) == (BUCKETS if graphs else ())


@pytest.mark.skipif(cuda.missing_device(0) is None, reason="this machine has CUDA")
def test_what_cannot_be_captured_is_said_with_the_remedy(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here because there is no CUDA device to have buffers on."""
    monkeypatch.setattr(onnxruntime, "InferenceSession", Posing)
    with pytest.raises(ProviderError, match="GLYPH_CUDA_GRAPHS=false"):
        open_engine(bundle, "cuda", 0, cuda_graphs=True)


def test_on_the_cpu_the_setting_changes_nothing(bundle: Bundle) -> None:
    """The session is ONNX Runtime's own."""
    opened = open_engine(bundle, "cpu", 0, cuda_graphs=True)
    assert isinstance(opened.session, onnxruntime.InferenceSession)


class _Runtime:
    """CUDA's runtime, as far as it locks pages."""

    def __init__(self, status: int) -> None:
        self.status, self.locked, self.asked = status, set[int](), 0

    def cudaHostRegister(self, address: Any, size: Any, flags: Any) -> int:  # noqa: N802  its own name
        assert (size.value, flags.value) == (784, 0)
        self.locked |= {address.value} if self.status == 0 else set()
        return self.status

    def cudaHostUnregister(self, address: Any) -> int:  # noqa: N802
        self.locked.remove(address.value)
        return 0

    def cudaGetLastError(self) -> int:  # noqa: N802
        self.asked += 1
        return self.status


def test_pages_are_locked_while_an_array_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """And freed with it; who cannot lock them goes on without."""
    runtime = _Runtime(0)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: runtime)
    array = np.zeros(784, np.uint8)
    address = array.ctypes.data
    assert lock_pages(array)
    assert runtime.locked == {address}
    del array
    gc.collect()
    assert runtime.locked == set()
    runtime = _Runtime(2)
    assert not lock_pages(np.zeros(784, np.uint8))
    assert runtime.asked == len(bound.RUNTIMES)


def test_without_cuda_no_page_is_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library cannot be loaded, and that is no error."""
    monkeypatch.setattr(bound, "RUNTIMES", ("libnothing.so.1",))
    assert not lock_pages(np.zeros(784, np.uint8))
