"""renovate.json: what it is to find is there, in the form that it looks for."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

SETTINGS = json.loads((ROOT / "renovate.json").read_text())
DIGEST = f"sha256:{'ab' * 32}"
STUB = """#!/usr/bin/env bash
while [ $# -gt 0 ]; do [ "$1" != --custom-compile-command ] || echo "$2"; shift; done
"""


@pytest.mark.parametrize("name", ["docker-bake.hcl", "Makefile"])
@pytest.mark.parametrize("pinned", [False, True])
def test_the_base_image_is_found_once_in_each_place(name: str, pinned: bool) -> None:
    """By its tag, and by its digest too once it has one; it is the same image everywhere."""
    text = (ROOT / name).read_text()
    (manager,) = SETTINGS["customManagers"]
    assert any(re.search(pattern.strip("/"), name) for pattern in manager["managerFilePatterns"])
    base = re.findall(r"(?m)^ARG BASE=(\S+)$", (ROOT / "Dockerfile.serve").read_text())[0].partition("@")[0]
    assert base.startswith("python:3.")
    if pinned:
        text = re.sub(rf"{re.escape(base)}(@sha256:[0-9a-f]+)?", f"{base}@{DIGEST}", text)
    found = [
        match
        for pattern in manager["matchStrings"]
        for match in re.finditer(pattern.replace("(?<", "(?P<"), text)
    ]
    assert len(found) == 1
    assert f"{found[0]['depName']}:{found[0]['currentValue']}" == base
    assert not pinned or found[0]["currentDigest"] == DIGEST


def test_both_dockerfiles_have_the_same_base() -> None:
    """Renovate reads an ARG by itself, if a FROM uses it."""
    texts = [(ROOT / name).read_text() for name in ("Dockerfile.serve", "Dockerfile.train")]
    bases = {re.findall(r"(?m)^ARG BASE=(\S+)$", text)[0] for text in texts}
    assert len(bases) == 1
    assert all("\nFROM ${BASE} AS " in text for text in texts)


def test_every_lock_has_the_command_that_renovate_runs(tmp_path: Path) -> None:
    """Its options with a value have an equals sign and are some that it takes; none is of the moment."""
    (tmp_path / "lock").mkdir()
    for path in (ROOT / "lock").iterdir():
        if path.is_file():
            (tmp_path / "lock" / path.name).write_bytes(path.read_bytes())
    stub = tmp_path / "uv"
    stub.write_text(STUB)
    stub.chmod(0o755)
    command = ["bash", str(tmp_path / "lock" / "compile.sh"), str(stub), "--upgrade"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    locks = {path.name for path in (ROOT / "lock").glob("*.txt")}
    assert {re.findall(r"--output-file=lock/(\S+)", line)[0] for line in said} == locks
    allowed = {"constraints", "extra", "no-emit-package", "output-file", "python-version"}
    for line in said:
        assert line.startswith("uv pip compile --universal ")
        assert set(re.findall(r"--([a-z-]+)=", line)) <= allowed
        assert set(re.findall(r"--([a-z-]+)(?: |$)", line)) == {"universal", "generate-hashes"}
