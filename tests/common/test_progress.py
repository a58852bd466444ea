"""Progress: plain lines in a log, bars in a terminal, nothing when quiet, and all of it on standard error."""

import io
import time

import pytest
from rich.console import Console

from common.progress import LINE_EVERY_SECONDS, Progress


def recording(*, terminal: bool) -> tuple[Progress, io.StringIO]:
    """Return progress that writes into memory, as to a terminal or as to a log."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=40, soft_wrap=True, highlight=False)
    return Progress(console), out


def test_lines_go_to_the_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """The standard output is left to results."""
    progress = Progress()
    progress.say("hello")
    with progress.task("work", 3) as task:
        task.advance(3)
    assert capsys.readouterr() == ("", "hello\n")


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Quiet progress prints neither lines nor tasks."""
    progress = Progress(quiet=True)
    progress.say("hello")
    with progress.task("work", 3) as task:
        task.advance(3)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "line", ["[bold]not markup[/bold]", "/data/:warning:/file", "x" * 300, "1.5 true None 'x'", "[/]"]
)
def test_a_line_is_printed_as_it_is(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets, colons, numbers and long lines in a path or a message come out unchanged, unwrapped."""
    Progress().say(line)
    assert capsys.readouterr().err == line + "\n"


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside a terminal a long task says how far it is, once in a while and not at every step."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress, out = recording(terminal=False)
    with progress.task("download", 100, "bytes") as task:
        for _ in range(10):
            task.advance(5)
        assert out.getvalue() == ""
        now += LINE_EVERY_SECONDS
        task.advance(5)
        task.advance(5)
    assert out.getvalue() == "download: 55 of 100 bytes\n"


def test_a_log_of_a_task_of_unknown_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a total only what was done is said."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress, out = recording(terminal=False)
    with progress.task("download", 0, "bytes") as task:
        now += LINE_EVERY_SECONDS
        task.advance(5)
    assert out.getvalue() == "download: 5 bytes\n"


@pytest.mark.parametrize("unit", ["bytes", "images"])
@pytest.mark.parametrize("total", [0, 10])
def test_a_terminal_shows_a_bar_and_lines_above_it(total: int, unit: str) -> None:
    """In a terminal the task's name is shown while it runs, and lines stay readable."""
    progress, out = recording(terminal=True)
    with progress.task("epoch", total, unit) as task:
        task.advance(4)
        progress.say("a line")
    assert "epoch" in out.getvalue()
    assert "a line" in out.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_an_exception_in_a_task_comes_through(terminal: bool) -> None:
    """The display ends and the error goes on."""
    progress, _ = recording(terminal=terminal)

    def fail() -> None:
        with progress.task("work", 3):
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    with progress.task("again", 3) as task:  # a display that was left open would reject a second one
        task.advance(1)
