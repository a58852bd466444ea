"""What reads a client's bytes, fuzzed by coverage: half a minute here, for hours by `python -m bench fuzz`."""

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

from bench.fuzzing import TARGETS, command
from tests.conftest import ROOT

pytestmark = pytest.mark.service  # half a minute of work
SECONDS = 6
"""Of each target."""
FOUND = Path(__file__).parent / "found"
"""Inputs that were once taken badly, by target."""


def run(target: str, *arguments: str | Path) -> str:
    """Run a target and return what it printed."""
    ran = subprocess.run(command(target, *arguments), cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-8000:]
    return ran.stdout + ran.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_and_what_was_once_taken_badly_are_taken_well(target: str, tmp_path: Path) -> None:
    """By any Python, without the fuzzer."""
    (empty := tmp_path / "empty").touch()
    assert "no failure" in run(target, empty, *sorted((FOUND / target).glob("*")))


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="Atheris has wheels for Linux on x86-64 alone"
)
@pytest.mark.parametrize("target", TARGETS)
def test_what_the_fuzzer_makes_is_taken_well(target: str, tmp_path: Path) -> None:
    """A failure names the exception, and the file that `python -m bench.fuzzing TARGET FILE` takes again."""
    told = run(target, tmp_path, f"-max_total_time={SECONDS}", "-seed=1", f"-artifact_prefix={tmp_path}/")
    assert int(re.findall(r"Done (\d+) runs", told)[-1]) > 100
