"""Finished output, and copies of it to be damaged."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.support.jobs import digits, score
from bundle.repository import Bundle
from serving.model.engine import Provider
from serving.model.prove import ProofResult
from serving.scoring.backends import local
from serving.scoring.backends.proof import Proof
from tests.serving.scoring.damages import COUNT, NAMES


@pytest.fixture(scope="package")
def finished(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two inputs, and below `first` and `second` the finished outputs of each."""
    place = tmp_path_factory.mktemp("finished")
    for seed, given in enumerate(("first", "second")):
        np.save(place / f"{given}.npy", digits(COUNT, seed=seed))
        for name in NAMES:
            score(bundle, place / f"{given}.npy", place / given / name)
    return place


class Proven(Proof):
    """A proof without a process."""

    def __init__(self, bundle: Bundle, provider: Provider, *_: Any) -> None:
        self.bundle, self.provider = bundle, provider

    def result(self) -> ProofResult:
        """Return that the model is proven."""
        return "proven", ""

    def close(self) -> None:
        """Do nothing."""


@pytest.fixture(autouse=True)
def _proven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take models for proven: a child that loads one once more is most of what a small job takes.

    Tests of the child are in `tests/serving/security/test_prepared_versions.py`.
    """
    monkeypatch.setattr(local, "Proof", Proven)


@pytest.fixture
def output(finished: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return a copy of a finished output of the first input, by default the folder."""
    shutil.copytree(finished / "first", tmp_path / "out")
    place: Path = tmp_path / "out" / getattr(request, "param", "out")
    return place
