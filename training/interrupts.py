"""Signal handling: SIGTERM and SIGINT set a flag, which every phase of the job polls."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from training.errors import InterruptedRunError


class StopFlag:
    """Whether the run was told to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal has arrived."""
        return self.signal is not None

    def check(self) -> None:
        """Raise if a signal has arrived; for phases without state of their own to save.

        Raises:
            InterruptedRunError: a signal has arrived.
        """
        if self.signal is not None:
            raise InterruptedRunError(
                f"stopped by {self.signal.name}: run it again with --resume to continue"
            )


class ConditionalStopFlag(StopFlag):
    """A flag that is also set by a condition, such as a time limit."""

    def __init__(self, outer: StopFlag, reason: Callable[[], Exception | None]) -> None:
        """Combine a flag and a condition.

        Args:
            outer: the process's flag, which stops the run as well.
            reason: called at each poll; an exception that it returns is raised in the run after its checkpoint has
                been written.
        """
        super().__init__()
        self._outer, self._reason = outer, reason

    @property
    def requested(self) -> bool:
        """Whether the run is to stop."""
        self.signal = self._outer.signal
        return self._outer.requested or self._reason() is not None

    def check(self) -> None:
        """Raise why the run is to stop.

        Raises:
            InterruptedRunError: a signal has arrived.
            Exception: the condition's exception.
        """
        self._outer.check()
        reason = self._reason()
        if reason is not None:
            raise reason


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Exit on SIGTERM at once, for the seconds in which PyTorch is imported and there is nothing to save.

    Without a handler the init process of a container does not receive the signal at all (pid_namespaces(7), "The
    namespace init process") and is killed at the end of the grace period. Raising an exception is not reliable: a
    module being imported may take it for a missing library and continue.
    """

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        sentence = f"error: stopped by {signal.Signals(number).name} before training started: run it again\n"
        os.write(2, sentence.encode())
        os._exit(InterruptedRunError.exit_code)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def catch_signals() -> Iterator[StopFlag]:
    """Yield a flag that SIGTERM and SIGINT set while the block runs; then restore the previous handlers.

    A second SIGINT raises KeyboardInterrupt at once.
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
