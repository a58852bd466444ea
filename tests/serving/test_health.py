"""`python -m serving.health`, which a container's HEALTHCHECK runs."""

import subprocess
import sys
from pathlib import Path

from bench.support.management import managed
from bench.support.processes import ROOT, environment, free_port
from bundle.repository import Bundle


def health(**settings: object) -> subprocess.CompletedProcess[str]:
    """Run it beside a service with these settings."""
    return subprocess.run(
        [sys.executable, "-m", "serving.health"],
        env=environment(**settings),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_ready_service_is_healthy(bundle: Bundle, tmp_path: Path) -> None:
    """It finds the management port by the service's own settings, also where that listens everywhere."""
    with managed(tmp_path, model=bundle.path.parent, management_host="0.0.0.0") as pod:
        done = health(management_host="0.0.0.0", management_port=pod.port)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_service_without_a_model_is_not(tmp_path: Path) -> None:
    """The reason is the one that `/readyz` gives."""
    with managed(tmp_path, until="/livez", model=tmp_path / "nothing") as pod:
        done = health(management_port=pod.port)
        detail = pod.ask("/readyz").json()["detail"]
    assert done.returncode == 1
    assert done.stdout.strip() == detail


def test_no_service_is_not_healthy_either() -> None:
    """A port that nobody listens on, and a setting that is wrong, are said without a traceback."""
    gone = health(management_port=free_port())
    assert gone.returncode == 1
    assert "does not answer" in gone.stdout
    wrong = health(port="many")
    assert wrong.returncode == 1
    assert "GLYPH_PORT" in wrong.stdout
    assert gone.stderr == wrong.stderr == ""


def test_a_service_without_a_management_port_is_let_be() -> None:
    """There is nobody to ask, which is no illness."""
    assert health(management_port=0).returncode == 0
