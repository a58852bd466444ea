"""Resident memory of processes from /proc, and its growth."""

import contextlib
import ctypes
import gc
import os
from pathlib import Path
from statistics import median

MIB = 1 << 20
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(pid: int | str = "self") -> int:
    """Return the resident bytes of a process (proc_pid_statm(5), second field)."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * PAGE


def children(pid: int) -> list[int]:
    """Return the ids of a process's living children (proc_pid_task(5))."""
    return [
        int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    ]


def _give_back() -> None:
    """Collect garbage and return free memory to the system, so that only live memory is counted."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


class Growth:
    """Memory samples of one or more processes, and their growth.

    The first half is the warm-up, in which caches and heaps fill. Growth is the difference between the medians of the
    first and the last quarter of the rest, so that single large requests do not affect it.
    """

    def __init__(self) -> None:
        self.samples: list[int] = []

    def sample(self, *pids: int) -> None:
        """Sample the processes' total resident memory; without arguments this process's, after collecting garbage."""
        if not pids:
            _give_back()
        self.samples.append(sum(resident(pid) for pid in pids or ("self",)))

    def mebibytes(self) -> float:
        """Return the growth after the warm-up in MiB."""
        settled = self.samples[len(self.samples) // 2 :]
        quarter = max(1, len(settled) // 4)
        return (median(settled[-quarter:]) - median(settled[:quarter])) / MIB
