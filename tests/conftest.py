"""Fixtures for every package: the real MNIST, had by the product's own way."""

from pathlib import Path

import pytest
import torch

from bundle.progress import Progress
from training.data.mnist_download import fetch_mnist

# Some tests kill forked processes that train. Autograd counts the devices at the first backward pass, and
# refuses to run after a fork if there are any; a test that imitates CUDA would be counted, if it came first.
torch.ones(1, requires_grad=True).sum().backward()  # type: ignore[no-untyped-call]

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def mnist_directory() -> Path:
    """Return the directory of MNIST's four raw files, fetched if this checkout lacks them."""
    directory = ROOT / "data" / "mnist"
    fetch_mnist(directory, Progress(quiet=True))
    return directory
