"""Dockerfiles and shell scripts, read by hadolint and shellcheck."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

TOOLS = Path(sys.executable).parent


def tracked(*patterns: str) -> list[str]:
    """Return the repository's files of these patterns."""
    done = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("tool", "patterns"), [("hadolint", ["Dockerfile.*"]), ("shellcheck", ["*.sh", ".ci/run"])]
)
def test_nothing_is_found(tool: str, patterns: list[str]) -> None:
    """The linter has no remark, not even of style."""
    files = tracked(*patterns)
    assert files
    done = subprocess.run([TOOLS / tool, *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
