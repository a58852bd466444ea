"""CUDA graphs: the training step recorded once and replayed, so that Python launches one thing a step.

A step of this network is a few dozen kernels of microseconds each; launched one by one they wait for
Python. What changes from step to step (the batch's indices, the learning rate, the epoch) lies in
tensors that the graph reads, at addresses that stay. Source: "CUDA semantics", PyTorch's notes.
"""

import gc
from collections.abc import Callable
from functools import partial

import torch

from training.errors import DeviceError

WARM_UP_STEPS = 3
"""Real steps taken before recording: libraries allocate and choose their kernels in the first ones."""
REASON_LENGTH = 300

Step = Callable[[torch.Tensor], None]
"""Takes the indices of a batch, `int64[b]`, and moves the weights."""


def supports_cuda_graphs(device: torch.device) -> bool:
    """Tell whether steps on this device can be recorded."""
    return device.type == "cuda"


class CudaGraphs:
    """Records work as CUDA graphs, on a stream of its own."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def warm_up(self, work: Callable[[], None]) -> None:
        """Do the work, on the stream that will record it, as recording asks for."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            work()
        current.wait_stream(self._stream)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record the work without doing it, and return what does it.

        Raises:
            RuntimeError: it waits for the device, allocates what it may not, or the like.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            work()
        return graph.replay


class CudaGraphStep:
    """A step that runs eagerly a few times, is then recorded, and from there on replayed.

    Batches of another size, the last of an epoch as a rule, run eagerly. The results are those of
    eager steps, since the same kernels run on the same numbers.
    """

    def __init__(self, step: Step, size: int, device: torch.device) -> None:
        """Prepare to record.

        Args:
            step: what is recorded.
            size: images in a full batch. It is not that of the first batch seen: a run that is resumed
                in the middle of an epoch may begin with the epoch's last, smaller one.
            device: where batches are.
        """
        self._step, self._size = step, size
        self._graphs = CudaGraphs()
        self._batch = torch.empty(size, dtype=torch.int64, device=device)
        self._replay: Callable[[], None] | None = None
        self._taken = 0

    def __call__(self, batch: torch.Tensor) -> None:
        """Take one step on a batch of indices on the device, `int64[b]`.

        Raises:
            DeviceError: the step cannot be recorded.
            torch.OutOfMemoryError: there is no memory for a recorded step beside the eager ones.
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
        # What the garbage collector frees while a stream records, such as another graph, would spoil the recording.
        gc.collect()
        collects = gc.isenabled()
        gc.disable()
        try:
            return self._graphs.capture(partial(self._step, self._batch))
        except RuntimeError as error:
            said = f"the training step cannot be recorded as a CUDA graph ({_first_cause(error)})"
            remedy = "train with --no-cuda-graphs; with --resume it goes on from the last checkpoint"
            if isinstance(error, torch.OutOfMemoryError):
                raise torch.OutOfMemoryError(f"{said}: {remedy}") from error
            raise DeviceError(f"{said}: {remedy}") from error
        finally:
            if collects:
                gc.enable()


def _first_cause(error: BaseException) -> str:
    """Return the first line of what failed first: to end a recording that failed fails once more."""
    while error.__context__ is not None:
        error = error.__context__
    return (str(error) or type(error).__name__).splitlines()[0][:REASON_LENGTH]
