"""Being told to stop: SIGTERM and SIGINT set a flag, which every phase of the job looks at."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from training.errors import InterruptedRunError


class StopFlag:
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


class ConditionalStopFlag(StopFlag):
    """A flag that is also set when there is a reason of another kind to end."""

    def __init__(self, outer: StopFlag, reason: Callable[[], Exception | None]) -> None:
        """Watch two things.

        Args:
            outer: the process's own flag, which still ends the run.
            reason: called at each look; what it returns, if anything, is raised in the run once
                that has written its checkpoint.
        """
        super().__init__()
        self._outer, self._reason = outer, reason

    @property
    def requested(self) -> bool:
        """Tell whether the run is to end."""
        self.signal = self._outer.signal
        return self._outer.requested or self._reason() is not None

    def check(self) -> None:
        """Raise what ended the run.

        Raises:
            InterruptedRunError: a signal came.
            Exception: the reason.
        """
        self._outer.check()
        reason = self._reason()
        if reason is not None:
            raise reason


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the process where it is: while PyTorch loads, for seconds, there is nothing to save.

    Without a handler the first process of a container would not be sent the signal at all
    (pid_namespaces(7), "The namespace init process"), and would be killed at the end of the grace period. An
    exception would not do: what is imported may take it for a library that is missing, and go on.
    """

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        sentence = f"error: stopped by {signal.Signals(number).name} before it began: run it again\n"
        os.write(2, sentence.encode())
        os._exit(InterruptedRunError.exit_code)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def catch_signals() -> Iterator[StopFlag]:
    """Give a flag that SIGTERM and SIGINT set while the block runs; the old handlers come back after it.

    A second SIGINT is Python's own KeyboardInterrupt, for people who cannot wait a second.
    """
    stop = StopFlag()

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
