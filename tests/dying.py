"""Run a function again and again in forked processes, each killed one system call later than the last."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

COUNTED = ("open", "os.rename", "os.link", "os.chmod", "os.mkdir", "os.remove", "os.rmdir")
"""Audit events (PEP 578) that precede what changes a directory; `os.fsync` is counted beside them."""
MOST_CALLS = 500


def die_everywhere(work: Callable[[], object], place: Path, survived: Callable[[int], None]) -> int:
    """Kill `work` by SIGKILL before its 1st, 2nd, 3rd... call that touches `place`, until it ends by itself.

    Args:
        work: run in a forked process, anew each time.
        place: calls are counted where their path is under this one.
        survived: called after each death, with the number of calls that were made.

    Returns:
        The number of deaths.
    """
    for calls in range(MOST_CALLS):
        child = os.fork()
        if child == 0:
            try:
                _die_after(calls, place)
                work()
            except BaseException as error:  # noqa: BLE001 - a fork must not run the parent's handlers
                print(f"after {calls} calls: {error!r}", file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        survived(calls)
        if os.WIFSIGNALED(status):
            continue
        if status:
            raise AssertionError(f"the process ended with status {status}, not by the signal")
        return calls
    raise AssertionError(f"not done after {MOST_CALLS} calls")


def _die_after(calls: int, place: Path) -> None:
    left = calls

    def count() -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in COUNTED and str(arguments[0]).startswith(str(place)):
            count()

    fsync = os.fsync

    def counted_fsync(descriptor: int) -> None:
        count()
        fsync(descriptor)

    os.fsync = counted_fsync  # type: ignore[assignment]
    sys.addaudithook(hook)
