"""The parent-death signal, by which the kernel signals a process when its parent has ended (prctl(2)).

It works for a process that computes in C, where no handler of Python runs, and for one that is stopped. Only Linux has
it. Elsewhere a thread asks once a second who the parent is: it runs while C code computes without the interpreter's
lock, as ONNX Runtime does, and not while the process is stopped.
"""

import ctypes
import os
import signal
import sys
import threading

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""
WATCH_SECONDS = 1.0
"""Interval at which a process without the signal asks who its parent is."""
_outlives = threading.Event()


def end_with_parent(parent: int) -> None:
    """Have this process killed when its parent ends; exit at once if it has ended already.

    Args:
        parent: the parent's process id, from before the fork.
    """
    if sys.platform == "linux":
        _set_parent_death_signal(signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        sys.exit(0)


def outlive_parent() -> None:
    """Undo `end_with_parent`."""
    if sys.platform == "linux":
        _set_parent_death_signal(0)
    _outlives.set()


def continue_after_parent() -> None:
    """Have the kernel continue this process if it is stopped when its parent ends; outside Linux it stays stopped."""
    if sys.platform == "linux":
        _set_parent_death_signal(signal.SIGCONT)


def _set_parent_death_signal(number: int) -> None:
    """Have the kernel send a signal to this process when the parent's thread that made it ends; 0 for none."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


def _watch(parent: int) -> None:
    """Kill this process when it has another parent, unless it is to outlive the first."""
    while not _outlives.wait(WATCH_SECONDS):
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
