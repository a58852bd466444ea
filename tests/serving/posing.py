"""Sessions with CUDA graphs where there is no GPU: they compute on the CPU, and note which threads use them."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnxruntime
import pytest

from bench.support.pictures import Pixels
from serving.model import engine
from serving.model.bound_session import BoundSession
from serving.model.cuda_graph_thread import graph_thread


class Posing(onnxruntime.InferenceSession):  # type: ignore[misc]  # it ships no types
    """A session on the CPU that says it is on CUDA."""

    asked: Any = None
    """The providers that the last one was asked for."""
    used: tuple[tuple[str, str], ...] = ()
    """What was called, and the name of the thread that called it: `freed` when it was freed."""

    def __init__(self, graph: bytes, options: Any, providers: Any, **more: Any) -> None:
        del options
        assert more == {"enable_fallback": 0}
        Posing.asked = providers
        note("made")
        super().__init__(graph, providers=["CPUExecutionProvider"])

    def __del__(self) -> None:
        """Note who frees it."""
        note("freed")

    def get_providers(self) -> list[str]:
        """Return what is expected."""
        note("get_providers")
        return ["CUDAExecutionProvider"]

    def io_binding(self) -> Any:
        """Return what a session returns."""
        note("io_binding")
        return super().io_binding()

    def run_with_iobinding(self, iobinding: Any, run_options: Any = None) -> None:
        """Run as a session does."""
        note("run_with_iobinding")
        super().run_with_iobinding(iobinding, run_options)


def note(what: str) -> None:
    """Note that the calling thread has done this."""
    Posing.used += ((what, threading.current_thread().name),)


class BoundOnCpu(BoundSession):
    """Buffers in the host's memory, in the place of a GPU's."""

    sizes: tuple[int, ...] = ()
    """Of all batches that were run, in their order."""

    def __init__(self, session: Any, device: str, device_id: int, classes: int, largest: int) -> None:
        assert device == "cuda"
        self.device_id = device_id
        super().__init__(session, "cpu", 0, classes, largest)

    def run(self, names: list[str], feeds: dict[str, Pixels]) -> Any:
        """Run, and note the size."""
        BoundOnCpu.sizes += (len(feeds["images"]),)
        return super().run(names, feeds)


def settle() -> None:
    """Wait until what nobody refers to any more is freed."""
    gc.collect()
    graph_thread().call(lambda: None)


@contextmanager
def posing() -> Iterator[None]:
    """Let sessions that are opened inside pose as CUDA's."""
    settle()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "InferenceSession", Posing)
        patch.setattr(engine, "BoundSession", BoundOnCpu)
        patch.setattr(Posing, "used", ())
        patch.setattr(BoundOnCpu, "sizes", ())
        yield
