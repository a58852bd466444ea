"""The memory that processes hold, as Linux tells it, and whether it grew."""

import contextlib
import ctypes
import gc
import os
from pathlib import Path
from statistics import median

MIB = 1 << 20
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(pid: int | str = "self") -> int:
    """Return the bytes of memory that a process holds (proc_pid_statm(5), the second field)."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * PAGE


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that are alive (proc_pid_task(5))."""
    return [
        int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    ]


def _give_back() -> None:
    """Collect garbage and return free memory to the system, so that only what is held is counted."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


class Growth:
    """Samples of the memory of one or more processes, from which growth is told.

    The first half warms up: caches fill, heaps get their size. Of the rest, the medians of the first and
    the last quarter are compared, so that neither a single large request nor the moment decides.
    """

    def __init__(self) -> None:
        self.samples: list[int] = []

    def sample(self, *pids: int) -> None:
        """Take the sum of what the processes hold now; without any, what this one holds that it cannot give back."""
        if not pids:
            _give_back()
        self.samples.append(sum(resident(pid) for pid in pids or ("self",)))

    def mebibytes(self) -> float:
        """Return by how much the memory grew after the warm-up."""
        settled = self.samples[len(self.samples) // 2 :]
        quarter = max(1, len(settled) // 4)
        return (median(settled[-quarter:]) - median(settled[:quarter])) / MIB
