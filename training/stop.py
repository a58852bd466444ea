"""Being told to stop: SIGTERM and SIGINT set a flag, which every phase of the job looks at."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from training.errors import InterruptedRunError


class Stop:
    """Whether the run was asked to end, and by which signal."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @property
    def requested(self) -> bool:
        """Tell whether a signal came."""
        return self.signal is not None

    def check(self) -> None:
        """Raise if a signal came; for phases that have nothing of their own to save.

        Raises:
            InterruptedRunError: so it was.
        """
        if self.signal is not None:
            raise InterruptedRunError(f"stopped by {self.signal.name}: run it again with --resume to go on")


@contextmanager
def listen() -> Iterator[Stop]:
    """Give a flag that SIGTERM and SIGINT set while the block runs; the old handlers come back after it.

    A second SIGINT is Python's own KeyboardInterrupt, for people who cannot wait a second.
    """
    stop = Stop()

    def note(number: int, _frame: FrameType | None) -> None:
        if stop.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signal = signal.Signals(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
