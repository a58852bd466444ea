"""Progress of a job: bars in a terminal, plain lines in a log. Requires Rich.

All of it goes to standard error; standard output is for results.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

LINE_EVERY_SECONDS = 10.0


class Task(Protocol):
    """A task of a number of units."""

    def advance(self, amount: int) -> None:
        """Count `amount` more units as done."""


class Progress:
    """Prints log lines and shows the progress of tasks."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self._console = console or Console(stderr=True, soft_wrap=True, highlight=False)
        self._quiet = quiet

    def say(self, line: str) -> None:
        """Print one line; in a terminal it appears above the bars."""
        if not self._quiet:
            self._console.print(line, markup=False, emoji=False)

    @contextmanager
    def task(self, name: str, total: int, unit: str = "") -> Iterator[Task]:
        """Show a task of `total` units (0: of unknown length) until the block ends."""
        if self._quiet:
            yield _Silent()
        elif self._console.is_terminal:
            count: ProgressColumn = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
            columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
            with RichProgress(*columns, console=self._console, transient=True) as bars:
                yield _Bar(bars, name, total)
        else:
            yield _Lines(self, name, total, unit)


class _Silent:
    def advance(self, amount: int) -> None:
        """Show nothing."""


class _Bar:
    def __init__(self, bars: RichProgress, name: str, total: int) -> None:
        self._bars = bars
        self._task = bars.add_task(name, total=total or None)

    def advance(self, amount: int) -> None:
        self._bars.advance(self._task, amount)


class _Lines:
    """A log line at most every 10 seconds."""

    def __init__(self, progress: Progress, name: str, total: int, unit: str) -> None:
        self._progress, self._name, self._total, self._unit = progress, name, total, unit
        self._done = 0
        self._last = time.monotonic()

    def advance(self, amount: int) -> None:
        self._done += amount
        if time.monotonic() - self._last >= LINE_EVERY_SECONDS:
            self._last = time.monotonic()
            of = f" of {self._total}" if self._total else ""
            self._progress.say(f"{self._name}: {self._done}{of} {self._unit}".rstrip())
