"""The parent-death signal, by which the kernel signals a process when its parent has ended (prctl(2)).

It works for a process that computes in C, where no handler of Python runs, and for one that is stopped.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""


def set_parent_death_signal(number: int) -> None:
    """Have the kernel send a signal to this process when the parent's thread that made it ends; 0 for none."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; exit at once if it has ended already.

    Args:
        parent: the parent's process id, from before the fork.
    """
    set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


def outlive_parent() -> None:
    """Undo `end_with_parent`."""
    set_parent_death_signal(0)
