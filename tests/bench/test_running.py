"""Every bench runs after `make run`, which installs no package of development."""

import re
import subprocess
import sys

import pytest

from bench.__main__ import BENCHES
from tests.conftest import ROOT

pytestmark = pytest.mark.service  # it imports all that there is
LIMITED = """
import sys
from importlib import metadata
from importlib.machinery import PathFinder

names = set(sys.argv[1].split(","))
strangers = {module for module, owners in metadata.packages_distributions().items()
             if not names & {owner.lower().replace("_", "-") for owner in owners}}
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, path=None, target=None: (
    None if path is None and name in strangers else find(name, path, target)
)
from bench.__main__ import main

for words in sys.argv[2:]:
    try:
        code = main(words.split())
    except SystemExit as end:
        code = end.code
    print(f"{words}: {code}")
"""
"""Runs benches where no module can be imported but those of the distributions that are named first."""


@pytest.fixture(scope="module")
def installed() -> str:
    """Return the names of the distributions that `make run` installs."""
    lock = (ROOT / "lock" / "run.txt").read_text()
    return ",".join({name.lower().replace("_", "-") for name in re.findall(r"(?m)^([\w.-]+)==", lock)})


def run(installed: str, *lines: str) -> subprocess.CompletedProcess[str]:
    """Run benches with these packages alone, and print each one's exit code."""
    command = [sys.executable, "-c", LIMITED, installed, *lines]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_bench_starts_with_what_make_run_installs(installed: str) -> None:
    """Its help is printed after it has imported what all of its work needs."""
    told = run(installed, *[f"{name} --help" for name in BENCHES])
    assert told.returncode == 0, told.stderr
    for name in BENCHES:
        assert f"usage: python -m bench {name}" in told.stdout
        assert f"{name} --help: 0" in told.stdout


def test_a_bench_that_lacks_a_package_says_what_to_install(installed: str) -> None:
    """Atheris has wheels for few machines, so that only the tests bring it."""
    told = run(installed, "fuzz --seconds 1")
    assert "fuzz --seconds 1: 2" in told.stdout
    assert "pip install atheris" in told.stderr
