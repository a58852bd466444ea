"""How far a run is: a bar in a terminal, lines in a log."""

import io

import pytest
from rich.console import Console

from common.progress import LINE_EVERY_SECONDS
from serving.scoring.reporting.progress import ProgressMeter, format_seconds


class Clock:
    """A clock that a test turns."""

    now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def recording(*, terminal: bool) -> tuple[ProgressMeter, io.StringIO, Clock]:
    """Return a meter that writes into memory, as to a terminal or as to a log, and its clock."""
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=terminal, width=100, soft_wrap=True, highlight=False)
    return ProgressMeter(console, clock), out, clock


def test_a_log_gets_a_line_every_ten_seconds() -> None:
    """A line has what is done, the rate, the time left and the errors so far; earlier lives count as done."""
    meter, out, clock = recording(terminal=False)
    meter.start(total=10_000, done=2_000, errors=1)
    clock.now += LINE_EVERY_SECONDS / 2
    meter.advance(1_000, 0)
    assert out.getvalue() == ""
    clock.now += LINE_EVERY_SECONDS / 2
    meter.advance(1_000, 1)
    meter.advance(1_000, 0)
    meter.stop()
    assert out.getvalue() == "scoring: 4,000 of 10,000 images (40%), 200 images/s, 0:30 left, 2 errors\n"


def test_the_rate_covers_a_window() -> None:
    """A run that becomes slower says so within seconds."""
    meter, _, clock = recording(terminal=False)
    meter.start(total=10_000, done=0, errors=0)
    for rate in (1000, 10):
        for _ in range(30):
            clock.now += 1
            meter.advance(rate, 0)
    assert meter.rate() == pytest.approx(10)


def test_a_terminal_shows_a_bar_and_takes_it_away() -> None:
    """The bar has the same words; a line in between stays."""
    meter, out, clock = recording(terminal=True)
    meter.start(total=10_000, done=0, errors=0)
    clock.now += 10
    meter.advance(5_000, 1)
    meter.say("a [bold]line")
    meter.stop()
    meter.stop()
    shown = out.getvalue()
    assert "a [bold]line" in shown
    assert "5000/10000" in shown
    assert "500 images/s, 0:10 left, 1 error" in shown
    assert shown.endswith("\x1b[2K")  # the bar's line is wiped


def test_without_a_rate_the_time_left_is_unknown() -> None:
    """Before the first part nobody knows."""
    meter, _, _ = recording(terminal=False)
    meter.start(total=10, done=0, errors=0)
    assert meter.status() == "0 images/s, time left unknown, 0 errors"


def test_seconds_are_formatted_as_clock_times() -> None:
    """Hours only where there are any."""
    assert [format_seconds(s) for s in (0.4, 59.6, 3599, 3723)] == ["0:00", "1:00", "59:59", "1:02:03"]
