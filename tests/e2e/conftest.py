"""A small run on real MNIST, trained and published by the command line once for all these tests."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.support.processes import ROOT, environment
from bundle.repository import Bundle

FIT = ["--epochs", "2", "--batch-size", "128", "--hidden", "64,32", "--threads", "1", "--seed", "5"]


@dataclass(frozen=True)
class Trained:
    """What `python -m training fit` left behind."""

    models: Path
    runs: Path
    output: str

    @property
    def bundle(self) -> Bundle:
        """Open what was published."""
        return Bundle.open(self.models / "mnist" / "1")


def fit_command(directory: Path, data: Path, *arguments: str) -> list[str]:
    """Return the command line that trains and publishes under `directory`."""
    places = [
        "--data-dir",
        str(data),
        "--models",
        str(directory / "models"),
        "--runs",
        str(directory / "runs"),
    ]
    return [sys.executable, "-m", "training", "fit", *places, *FIT, *arguments]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, mnist_directory: Path) -> Trained:
    """Train for two epochs and publish version 1."""
    directory = tmp_path_factory.mktemp("trained")
    done = subprocess.run(
        fit_command(directory, mnist_directory),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Trained(directory / "models", directory / "runs", done.stdout + done.stderr)
