"""What memory a process takes, the host's and the GPU's: printed, and held against what a pod on a GPU may have."""

import contextlib
import ctypes
import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from bench.memory.resident import children
from bench.support.processes import ROOT
from serving.model import cuda
from serving.model.bound_session import CUDA_RUNTIMES

RESOURCES = ROOT / "k8s/components/nvidia/resource.yaml"
LOOK_SECONDS = 0.05


class Memory:
    """The most memory that a process with its children takes while it is looked at: the host's, and GPU 0's."""

    def __init__(self) -> None:
        assert cuda.missing(0) is None  # which loads CUDA's runtime
        gc.collect()
        self._runtime = ctypes.CDLL(CUDA_RUNTIMES[0])
        self._before = self._of_device()
        self.host = self.device = 0
        """In MiB; of the GPU beside what was taken before."""
        self.pid: int | None = None
        """Whose the host's is; processes have their own maximum each, which is not forgotten (proc(5), VmHWM)."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def end(self) -> None:
        """Look for the last time."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        ended = False
        while not ended:
            ended = self._over.wait(LOOK_SECONDS)
            self.device = max(self.device, (self._of_device() - self._before) >> 20)
            if self.pid is not None:
                self.host = max(self.host, resident_at_most(self.pid) >> 10)

    def _of_device(self) -> int:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        assert self._runtime.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)) == 0
        return total.value - free.value


def resident_at_most(pid: int) -> int:
    """Return the sum of what a process and all below it have had at their most each, in KiB; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        below = children(pid)
    except OSError:
        return 0
    own = sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return own + sum(map(resident_at_most, below))


def limit_of_memory() -> int:
    """Return the limit that a pod on a GPU has, in MiB."""
    patches = yaml.safe_load(RESOURCES.read_text())
    (value,) = [patch["value"] for patch in patches if patch["path"].endswith("limits/memory")]
    assert value.endswith("Gi")
    return int(value.removesuffix("Gi")) << 10


@contextlib.contextmanager
def measured(capsys: pytest.CaptureFixture[str], what: str) -> Iterator[Memory]:
    """Print the memory that is taken inside at its most, and hold it against the limit."""
    memory = Memory()
    try:
        yield memory
    finally:
        memory.end()
    with capsys.disabled():
        print(f"\n{what}: {memory.host} MiB of the host's memory at most, {memory.device} MiB of the GPU's")
    assert 0 < memory.host < limit_of_memory()
    assert memory.device > 0
