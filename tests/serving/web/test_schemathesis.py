"""Schemathesis against the running service, from its own description."""

import os
import subprocess
import sys
from pathlib import Path

from bench.support.processes import Service
from tests.conftest import ROOT

HERE = Path(__file__).parent
PHASES = "examples,coverage,fuzzing"
"""Not `stateful`: no operation gives what another one takes."""


def test_schemathesis_finds_nothing(service: Service, tmp_path: Path) -> None:
    """Every operation, media type and error answers as it is described; what is wrong is refused."""
    config = HERE / "schemathesis.toml"
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config), "run"]
    url = f"http://127.0.0.1:{service.port}/openapi.json"
    options = ["--checks", "all", "--phases", PHASES, "--max-examples", "10", "--seed", "1"]
    options += ["--generation-database", "none", "--suppress-health-check", "all", "--request-timeout", "60"]
    hooks = {"PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.serving.web.schemathesis_hooks"}
    done = subprocess.run(
        [*command, url, *options],
        cwd=tmp_path,
        env=os.environ | hooks,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Selected: 32/32" in done.stdout
    assert "No issues found" in done.stdout
