"""CUDA graphs: the training step recorded once and replayed, so that Python launches one thing a step.

A step of this network is a few dozen kernels of microseconds each; launched one by one they wait for
Python. What changes from step to step (the batch's indices, the learning rate, the epoch) lies in
tensors that the graph reads, at addresses that stay. Source: "CUDA semantics", PyTorch's notes.
"""

from collections.abc import Callable

import torch

WARM_UP_STEPS = 3
"""Real steps taken before recording: libraries allocate and choose their kernels in the first ones."""

Step = Callable[[torch.Tensor], None]
"""Takes the indices of a batch, `int64[b]`, and moves the weights."""


class CapturedStep:
    """A step that runs eagerly a few times, is then recorded, and from there on replayed.

    Batches of another size than the first, the last of an epoch as a rule, run eagerly. The results
    are those of eager steps, since the same kernels run on the same numbers.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: torch.Tensor | None = None
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._taken = 0

    def __call__(self, batch: torch.Tensor) -> None:
        """Take one step on a batch of indices on the device, `int64[b]`."""
        if self._batch is None:
            self._batch = batch.clone()
        if len(batch) != len(self._batch):
            self._step(batch)
        elif self._taken < WARM_UP_STEPS:
            self._warm_up(batch)
        else:
            self._batch.copy_(batch)
            if self._graph is None:
                self._graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self._graph, stream=self._stream):
                    self._step(self._batch)
            self._graph.replay()

    def _warm_up(self, batch: torch.Tensor) -> None:
        """Step on the side stream that will record, as recording asks for."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            self._step(batch)
        current.wait_stream(self._stream)
        self._taken += 1
