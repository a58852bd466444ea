"""Captured steps, on a fake of CUDA graphs: byte-identical to eager steps, also after interruptions."""

import gc
import shutil
import weakref
from pathlib import Path

import pytest
import torch

from bench.support.runs import StopAfter, small_run
from tests.training.recorded import KINDS, RICH, STEPS, resumed, trained
from tests.training.tape import FAILED_CAPTURE, TapedGraphs, imitate_cuda_graphs
from training.errors import DeviceError, InterruptedRunError
from training.loop import cuda_graph
from training.loop import fit as fitting
from training.loop.cuda_graph import WARM_UP_STEPS, CudaGraphStep
from training.loop.fit import Run, fit
from training.loop.state import TrainingState


class Circle:
    """Garbage that only the collector frees."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU record steps, on one thread."""
    torch.set_num_threads(1)
    imitate_cuda_graphs(monkeypatch)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))
def test_captured_steps_give_the_bytes_of_eager_ones(tmp_path: Path, kind: dict[str, str]) -> None:
    """Whatever the optimizer and the precision: the rate is the same number, read at the same place."""
    eager = trained(tmp_path / "eager", cuda_graphs=False, **kind)
    assert trained(tmp_path / "recorded", **kind) == eager
    done = TapedGraphs.last
    assert (done.warm_ups, done.recordings, done.replays) == (WARM_UP_STEPS, 1, 45 - WARM_UP_STEPS)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("then", [True, False])
@pytest.mark.parametrize("kind", KINDS[::2], ids=lambda kind: kind["optimizer"])
def test_graphs_may_be_turned_on_and_off_in_between(
    tmp_path: Path, kind: dict[str, str], first: bool, then: bool
) -> None:
    """Ended after any step and gone on with, recorded or not, the run ends at the bytes of the whole one."""
    whole = trained(tmp_path / "whole", **kind)
    for steps in STEPS:
        assert resumed(tmp_path / str(steps), steps, first=first, then=then, **kind) == whole


@pytest.mark.parametrize("kind", KINDS[::2], ids=lambda kind: kind["optimizer"])
def test_a_rate_that_was_saved_as_a_float_is_not_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: dict[str, str]
) -> None:
    """As by an eager run of an older version: a recorded run that goes on from it has the schedule's rates."""
    with monkeypatch.context() as older:
        older.setattr(cuda_graph, "supports_cuda_graphs", lambda _: False)
        with pytest.raises(InterruptedRunError):
            fit(small_run(tmp_path / "recorded", StopAfter(4), **RICH, **kind))
    shutil.copytree(tmp_path / "recorded", tmp_path / "eager")
    eager = trained(tmp_path / "eager", resume=True, cuda_graphs=False, **kind)
    assert trained(tmp_path / "recorded", resume=True, **kind) == eager
    assert TapedGraphs.last.replays > 0


def test_a_set_smaller_than_a_batch_is_captured(tmp_path: Path) -> None:
    """Its one batch is full: 500 images are recorded in batches of 512 that the settings ask for."""
    fit(small_run(tmp_path, batch_size=512, epochs=6))
    assert TapedGraphs.last.replays == 6 - WARM_UP_STEPS


def test_the_full_batch_is_captured_whichever_comes_first() -> None:
    """The first batch of a resumed run may be an epoch's last: those of its size run eagerly, as ever."""
    taken: list[int] = []
    step = CudaGraphStep(lambda batch: taken.append(len(batch)), 8, torch.device("cpu"))
    for size in (3, 8, 8, 8, 3, 8, 8):
        step(torch.arange(size))
    assert taken == [3, 8, 8, 8, 3, 8]  # the last replay calls nothing: nothing was computed
    assert (TapedGraphs.last.recordings, TapedGraphs.last.replays) == (1, 2)


def test_no_garbage_is_collected_while_recording() -> None:
    """It was collected before, and the collector is as it was afterwards."""
    circles: weakref.WeakSet[Circle] = weakref.WeakSet()
    alive: list[int] = []

    def step(_: torch.Tensor) -> None:
        alive.append(len(circles))

    recorded = CudaGraphStep(step, 1, torch.device("cpu"))
    gc.disable()
    try:
        for _ in range(WARM_UP_STEPS):
            circles.add(Circle())
            recorded(torch.arange(1))
        recorded(torch.arange(1))
        assert not gc.isenabled()
    finally:
        gc.enable()
    assert alive == [1, 2, 3, 0]
    again = CudaGraphStep(step, 1, torch.device("cpu"))
    for _ in range(WARM_UP_STEPS + 1):
        again(torch.arange(1))
    assert not TapedGraphs.last.collects
    assert gc.isenabled()


def test_a_step_that_cannot_be_captured_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that waits for the device ends in one sentence: what failed first, and --no-cuda-graphs."""
    original = fitting.train_step

    def waiting(run: Run, state: TrainingState, called: torch.nn.Module, batch: torch.Tensor) -> None:
        original(run, state, called, batch)
        state.total_loss.item()

    monkeypatch.setattr(fitting, "train_step", waiting)
    with pytest.raises(DeviceError, match="--no-cuda-graphs") as caught:
        fit(small_run(tmp_path))
    assert "(operation not permitted when stream is capturing)" in str(caught.value)
    assert FAILED_CAPTURE not in str(caught.value)
    assert gc.isenabled()
    fit(small_run(tmp_path, cuda_graphs=False))


def test_too_little_memory_to_capture_stays_that_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search takes it for a trial that needs too much memory; it names the way out, too."""

    def capture(self: TapedGraphs, work: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(TapedGraphs, "capture", capture)
    step = CudaGraphStep(lambda _: None, 1, torch.device("cpu"))
    for _ in range(WARM_UP_STEPS):
        step(torch.arange(1))
    with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate 2.00 GiB.*--no-cuda-graphs"):
        step(torch.arange(1))
