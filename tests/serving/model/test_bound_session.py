"""Fixed buffers for each size of a batch, run on the CPU; test_cuda.py runs the same on a GPU."""

import ctypes
import mmap
from typing import Any

import numpy as np
import onnxruntime
import pytest

from bench.support.pictures import Pixels
from bundle.repository import Bundle
from serving.errors import ProviderError
from serving.model import bound_session, cuda
from serving.model.bound_session import OUTPUTS, BoundSession, allocate_pages, lock_pages
from serving.model.cuda_graph_thread import GraphSession
from serving.model.engine import BUCKETS, open_engine
from tests.serving.posing import BoundOnCpu, Posing, posing

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
    tested = BoundSession(session, "cpu", 0, 10, 256)
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
    tested = BoundSession(session, "cpu", 0, 10, 256)
    for count in (1, 64, 1):
        tested.run(NAMES, {"images": batch(count)})
    assert [one.get_run_config_entry("gpu_graph_id") for one in made] == ["1", "64"]


def test_an_answer_stays_what_it_was(session: Any) -> None:
    """The next run has the same buffers, and the images given are not kept."""
    tested = BoundSession(session, "cpu", 0, 10, 256)
    images = batch(4)
    (before,) = tested.run(["probabilities"], {"images": images})
    kept = before.copy()
    images[:] = 255
    (after,) = tested.run(["probabilities"], {"images": images})
    assert before.tobytes() == kept.tobytes() != after.tobytes()


def test_all_sizes_have_one_block_of_pages_that_is_locked_once(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA locks pages: a second lock of one of them fails, and memory of others in it would be locked too."""
    runtime = _Runtime(0)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: runtime)
    on_cpu = onnxruntime.OrtValue.ortvalue_from_shape_and_type
    monkeypatch.setattr(
        onnxruntime.OrtValue, "ortvalue_from_shape_and_type", lambda shape, kind, *_: on_cpu(shape, kind)
    )
    tested = BoundSession(session, "cuda", 0, 10, 256)
    for count in (256, 64, 3, 1):
        tested.run(NAMES, {"images": batch(count)})
    ((address, size),) = runtime.locked.items()
    assert address % mmap.PAGESIZE == size % mmap.PAGESIZE == 0
    for buffers in tested._buffers.values():
        start = buffers.pixels.ctypes.data
        assert address <= start <= start + buffers.pixels.nbytes <= address + size
    tested.close()
    assert runtime.locked == {}


@pytest.mark.parametrize("graphs", [True, False])
def test_cuda_is_asked_for_graphs_only_where_they_are_wanted(bundle: Bundle, *, graphs: bool) -> None:
    """And every size is captured before the first request, the largest first, whose memory the others find."""
    with posing():
        opened = open_engine(bundle, "cuda", 3, cuda_graphs=graphs)
        assert isinstance(opened.session, GraphSession) is graphs
        assert BoundOnCpu.sizes[: len(BUCKETS)] == (BUCKETS[::-1] if graphs else ())
    ((name, settings),) = Posing.asked
    assert name == "CUDAExecutionProvider"
    assert settings["device_id"] == "3"
    assert settings.get("enable_cuda_graph") == ("1" if graphs else None)


@pytest.mark.parametrize("cudnn", [True, False])
def test_cudnn_can_be_left_out(bundle: Bundle, *, cudnn: bool) -> None:
    """By the provider's option; a version of ONNX Runtime without it would refuse the name."""
    with posing():
        open_engine(bundle, "cuda", 0, cudnn=cudnn)
    assert Posing.asked[0][1].get("enable_cudnn") == (None if cudnn else "0")


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
        self.status, self.locked, self.asked = status, dict[int, int](), 0

    def cudaHostRegister(self, address: Any, size: Any, flags: Any) -> int:  # noqa: N802  its own name
        assert flags.value == 0
        assert address.value not in self.locked
        self.locked |= {address.value: size.value} if self.status == 0 else {}
        return self.status

    def cudaHostUnregister(self, address: Any) -> int:  # noqa: N802
        del self.locked[address.value]
        return 0

    def cudaGetLastError(self) -> int:  # noqa: N802
        self.asked += 1
        return self.status


def test_pages_are_locked_until_they_are_unlocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who cannot lock them goes on without."""
    runtime = _Runtime(0)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: runtime)
    array = allocate_pages(784)
    unlock = lock_pages(array)
    assert unlock is not None
    assert runtime.locked == {array.ctypes.data: mmap.PAGESIZE}
    unlock()
    assert runtime.locked == {}
    runtime = _Runtime(2)
    assert lock_pages(allocate_pages(784)) is None
    assert runtime.asked == len(bound_session.CUDA_RUNTIMES)


def test_without_cuda_no_page_is_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library cannot be loaded, and that is no error."""
    monkeypatch.setattr(bound_session, "CUDA_RUNTIMES", ("libnothing.so.1",))
    assert lock_pages(allocate_pages(784)) is None
