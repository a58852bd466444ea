"""The bench of the presets: its interval, and what a run's line says."""

import json
from pathlib import Path

import pytest

from bench.training import presets
from bench.training.presets import interval


def test_the_interval_is_wilsons() -> None:
    """35 errors of 10,000 are between 0.25% and 0.49%, and no error is not a certainty."""
    low, high = interval(35, 10_000)
    assert (round(low, 2), round(high, 2)) == (0.25, 0.49)
    assert interval(0, 10_000)[1] > 0.03


def test_a_run_says_its_interval_and_the_wrong_labels(
    mnist_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The interval holds the error, and MNIST's errors are counted among the labels that people found wrong."""
    words = ["--preset", "course", "--seeds", "1", "--epochs", "1", "--hidden", "", "--batch-size", "1000"]
    assert (
        presets.main([*words, "--threads", "1", "--device", "cpu", "--data-dir", str(mnist_directory)]) == 0
    )
    line = json.loads(capsys.readouterr().out.splitlines()[0])
    low, high = line["interval_percent"]
    assert low < line["test_error_percent"]["as it is"] < high
    assert "of 15" in line["wrong_labels"]
