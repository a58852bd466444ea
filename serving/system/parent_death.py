"""The parent-death signal, for a process that may compute in C for ever, where no handler of Python's runs."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent `parent` is gone, and end at once if it is already.

    Source: prctl(2), PR_SET_PDEATHSIG: the signal comes when the parent's thread that made this process ends.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(0)


def outlive_parent() -> None:
    """Undo `end_with_parent`."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)
