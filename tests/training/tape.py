"""A stand-in for CUDA graphs that runs on the CPU: what a step calls is recorded, and called again.

As in a graph, the numbers of Python are those of the recording, tensors are read where they lie, results are
written where the recording's lay, and to wait for the device while recording is an error.
"""

import gc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from training.loop import cuda_graph
from training.model import noise_layers

FAILED_CAPTURE = "operation failed due to a previous error during capture"


class Tape(TorchDispatchMode):
    """Notes every operation below autograd and autocast, in the backward pass too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do it and note it."""
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing\nmore lines")
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        """Do it all again."""
        for func, args, kwargs, out in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)  # what changes its argument, or is a view of it, lies there already


class TapedGraphs:
    """Records as `training.loop.cuda_graph.CudaGraphs` does, and counts; the last one made is `last`."""

    last: "TapedGraphs"
    capturing = False

    def __init__(self) -> None:
        TapedGraphs.last = self
        self.warm_ups = self.recordings = self.replays = 0
        self.collects = True
        """Whether the garbage collector was on while it recorded."""

    def warm_up(self, work: Callable[[], None]) -> None:
        """Do the work."""
        work()
        self.warm_ups += 1

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Do the work, which counts as the first replay, and return what does it again."""
        self.recordings += 1
        self.collects = gc.isenabled()
        tape = Tape()
        TapedGraphs.capturing = True
        try:
            with tape:
                work()
        except RuntimeError:
            raise RuntimeError(FAILED_CAPTURE)  # noqa: B904  # as torch, whose end of the recording fails too
        finally:
            TapedGraphs.capturing = False

        def replay() -> None:
            if self.replays:
                tape.replay()
            self.replays += 1

        return replay


def imitate_cuda_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let training on the CPU record its steps as it would on a GPU; torch's optimizers take it for one."""
    stream = SimpleNamespace(is_capturing=lambda: TapedGraphs.capturing)
    monkeypatch.setattr(cuda_graph, "CudaGraphs", TapedGraphs)
    monkeypatch.setattr(cuda_graph, "supports_cuda_graphs", lambda _: True)
    monkeypatch.setattr(noise_layers.Dropout, "forward", torch.nn.Dropout.forward)  # as on a GPU
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
