"""Progress of a run on the standard error: a bar in a terminal, a line every ten seconds in a log."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress

from common.progress import LINE_EVERY_SECONDS, Progress

SMOOTHING_SECONDS = 15.0
"""Window of the rate: long enough for bursts of parts, short enough to show a disk that slows down."""

_BAR = "[progress.description]{task.description}"
_FIELDS = "{task.fields[rate]}"


class ProgressMeter(Progress):
    """Shows finished rows, rate, time left and errors."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console)
        self._clock = clock
        self._bar: RichProgress | None = None
        self._task = TaskID(0)
        self.total = self.done = self.errors = 0
        self._seen: list[tuple[float, int]] = []
        self._last_line = 0.0

    def start(self, total: int, done: int, errors: int) -> None:
        """Start with the rows and errors of earlier runs of the job."""
        self.total, self.done, self.errors = total, done, errors
        self._last_line = self._clock()
        self._seen = [(self._last_line, done)]
        if self._console.is_terminal:
            columns = (TextColumn(_BAR), BarColumn(), MofNCompleteColumn(), TextColumn(_FIELDS))
            self._bar = RichProgress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("scoring", total=total, completed=done, rate="")
            self._bar.start()

    def advance(self, rows: int, errors: int) -> None:
        """Add a finished part."""
        now = self._clock()
        self.done += rows
        self.errors += errors
        self._seen.append((now, self.done))
        while len(self._seen) > 2 and self._seen[1][0] <= now - SMOOTHING_SECONDS:
            del self._seen[0]
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, rate=self.status())
        elif now - self._last_line >= LINE_EVERY_SECONDS:
            self._last_line = now
            share = f" ({self.done / self.total:.0%})" if self.total else ""
            self.say(f"scoring: {self.done:,} of {self.total:,} images{share}, {self.status()}")

    def stop(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def rate(self) -> float:
        """Return images/s over the window; 0 before the first part."""
        (first, before), (last, now) = self._seen[0], self._seen[-1]
        return (now - before) / (last - first) if last > first else 0.0

    def status(self) -> str:
        """Return rate, time left and errors: `12,345 images/s, 1:02:03 left, 2 errors`."""
        rate = self.rate()
        left = f"{format_seconds((self.total - self.done) / rate)} left" if rate else "time left unknown"
        return f"{rate:,.0f} images/s, {left}, {self.errors:,} error{'' if self.errors == 1 else 's'}"


def format_seconds(seconds: float) -> str:
    """Return seconds as `1:02:03`, `2:03` or `0:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
