"""Fixtures for every package: the real MNIST, had by the product's own way."""

from pathlib import Path

import pytest

from training.fetch import fetch_mnist
from training.progress import Progress

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def mnist_directory() -> Path:
    """Return the directory of MNIST's four raw files, fetched if this checkout lacks them."""
    directory = ROOT / "data" / "mnist"
    fetch_mnist(directory, Progress(quiet=True))
    return directory
