"""`--help` of the service and of the scorer states what they take where no option says otherwise."""

from collections.abc import Callable, Sequence

import pytest

from serving import __main__ as service
from serving import score


def shown(main: Callable[[Sequence[str]], int], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the help in one line."""
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_the_service_states_what_its_environment_sets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image sets the host, and its help says so; a misspelt variable does not keep the help away."""
    assert "all of IPv4 (default: 127.0.0.1)" in shown(service.main, capsys)
    monkeypatch.setenv("GLYPH_HOST", "0.0.0.0")
    stated = "all of IPv4 (default: 0.0.0.0, from the environment variable GLYPH_HOST)"
    assert stated in shown(service.main, capsys)
    monkeypatch.setenv("GLYPH_HOTS", "1")
    assert "address to listen on" in shown(service.main, capsys)


def test_the_scorer_states_what_its_environment_sets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So does the scorer's, which claims no default where there is none."""
    monkeypatch.setenv("GLYPH_SCORE_DEVICE_ID", "3")
    text = shown(score.main, capsys)
    assert "with CUDA (default: 3, from the environment variable GLYPH_SCORE_DEVICE_ID)" in text
    assert "images in a part; a killed run repeats at most the parts in flight (default: 16384)" in text
    assert "Undefined" not in text
