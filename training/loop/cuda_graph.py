"""CUDA graphs: the training step is captured once and replayed, so that a step is a single launch from Python.

A step of this network has a few dozen kernels of microseconds each, and launched one by one they wait for Python.
What changes from step to step (the batch's indices, the learning rate, the epoch) is in tensors that the graph reads
at fixed addresses. Source: "CUDA semantics", PyTorch's notes.
"""

import gc
from collections.abc import Callable
from functools import partial

import torch

from training.errors import DeviceError

WARM_UP_STEPS = 3
"""Eager steps before the capture, in which libraries allocate memory and choose their kernels."""
REASON_LENGTH = 300

Step = Callable[[torch.Tensor], None]
"""Takes the indices of a batch, `int64[b]`, and updates the weights."""


def supports_cuda_graphs(device: torch.device) -> bool:
    """Return whether steps on this device can be captured as CUDA graphs."""
    return device.type == "cuda"


class CudaGraphs:
    """Captures work as CUDA graphs, on a stream of its own."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()

    def warm_up(self, work: Callable[[], None]) -> None:
        """Do the work eagerly on the stream of the capture, which a capture requires."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            work()
        current.wait_stream(self._stream)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture the work without doing it, and return the function that replays it.

        Raises:
            RuntimeError: the work synchronises with the device, or does another thing that a capture does not permit.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            work()
        return graph.replay


class CudaGraphStep:
    """A training step that runs eagerly a few times, is then captured, and is replayed from then on.

    Batches of another size, usually the last of an epoch, run eagerly. The results are those of eager steps, because
    the same kernels run on the same numbers.
    """

    def __init__(self, step: Step, size: int, device: torch.device) -> None:
        """Prepare to capture.

        Args:
            step: the eager step.
            size: images in a full batch. The size of the first batch would not do: a run that is resumed in the middle
                of an epoch may start with the epoch's last, smaller batch.
            device: of the batches.
        """
        self._step, self._size = step, size
        self._graphs = CudaGraphs()
        self._batch = torch.empty(size, dtype=torch.int64, device=device)
        self._replay: Callable[[], None] | None = None
        self._taken = 0

    def __call__(self, batch: torch.Tensor) -> None:
        """Take one step on a batch of indices on the device, `int64[b]`.

        Raises:
            DeviceError: the step cannot be captured.
            torch.OutOfMemoryError: there is not enough memory for a captured step beside the eager ones.
        """
        if len(batch) != self._size:
            self._step(batch)
        elif self._taken < WARM_UP_STEPS:
            self._graphs.warm_up(partial(self._step, batch))
            self._taken += 1
        else:
            self._batch.copy_(batch)
            if self._replay is None:
                self._replay = self._capture()
            self._replay()

    def _capture(self) -> Callable[[], None]:
        # Objects that the garbage collector frees during a capture, such as another graph, would invalidate it.
        gc.collect()
        collects = gc.isenabled()
        gc.disable()
        try:
            return self._graphs.capture(partial(self._step, self._batch))
        except RuntimeError as error:
            said = f"the training step cannot be captured as a CUDA graph ({_first_cause(error)})"
            remedy = "train with --no-cuda-graphs; --resume continues from the last checkpoint"
            if isinstance(error, torch.OutOfMemoryError):
                raise torch.OutOfMemoryError(f"{said}: {remedy}") from error
            raise DeviceError(f"{said}: {remedy}") from error
        finally:
            if collects:
                gc.enable()


def _first_cause(error: BaseException) -> str:
    """Return the first line of the first error: ending a capture that has failed raises another one."""
    while error.__context__ is not None:
        error = error.__context__
    return (str(error) or type(error).__name__).splitlines()[0][:REASON_LENGTH]
