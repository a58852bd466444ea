"""Dockerfiles and shell scripts, read by hadolint and shellcheck."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

TOOLS = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))


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
    if (program := shutil.which(tool, path=TOOLS)) is None:
        pytest.skip(
            f"{tool} has no wheel for this platform, and is not installed; on Debian: apt-get install {tool}"
        )
    done = subprocess.run([program, *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
