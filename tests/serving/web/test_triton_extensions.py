"""Triton's extensions by hand, and its Performance Analyzer where the machine has it."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bench.support.management import Managed, await_, managed
from bench.support.models import publish_synthetic
from bench.support.pictures import png
from bench.support.processes import Service, running

ANALYZER = shlex.split(os.environ.get("PERF_ANALYZER") or shutil.which("perf_analyzer") or "")
"""The command of Triton's Performance Analyzer, whose wheel needs glibc 2.38; PERF_ANALYZER may go through chroot."""
Pixels = npt.NDArray[np.uint8]


def stats(service: Service, path: str = "/v2/models/synthetic/stats") -> dict[str, Any]:
    """Return the statistics of the one version that is loaded."""
    (found,) = service.ask("GET", path).json()["model_stats"]
    return dict(found)


def test_the_configuration_says_which_batch_is_accepted(bundle: Any, tmp_path: Path) -> None:
    """Triton's limit, or that of the settings if it is lower."""
    with running(tmp_path, until="/readyz", model=bundle.path.parent, max_images=7) as service:
        assert service.ask("GET", "/v2/models/synthetic/config").json()["max_batch_size"] == 7


def test_statistics_are_those_of_all_workers_and_outlive_them(
    bundle: Any, worker_class: str, digit: Pixels, tmp_path: Path
) -> None:
    """Images, batches, answers and refusals; whichever worker is asked, and after each has been replaced."""
    with managed(tmp_path, model=bundle.path.parent, workers=2, worker=worker_class) as pod:
        await_(lambda: pod.ask("/readyz").json().get("workers") == {"ready": 2})
        check_statistics(pod, digit)


def check_statistics(pod: Managed, digit: Pixels) -> None:
    """Ask for predictions, and for what was counted of them, before and after SIGHUP."""
    before = stats(pod.service)
    body = json.dumps({"instances": [digit.tolist()] * 3}).encode()
    for _ in range(20):  # by a connection each, so that both workers get some
        assert pod.service.post(body, "application/json").status == 200
    assert pod.service.post(png(digit)[:50]).status == 422

    def counted() -> dict[str, int]:
        now = stats(pod.service)
        names = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
        found = {
            name: now["inference_stats"][name]["count"] - before["inference_stats"][name]["count"]
            for name in names
        }
        return found | {"images": now["inference_count"] - before["inference_count"]}

    expected = {"success": 20, "fail": 1, "queue": 21, "images": 60}
    expected |= dict.fromkeys(("compute_input", "compute_infer", "compute_output"), 20)
    for _ in range(10):
        assert counted() == expected
    now = stats(pod.service)
    assert 1 <= now["execution_count"] - before["execution_count"] <= 20
    assert all(now["inference_stats"][name]["ns"] > 0 for name in ("success", "queue", "compute_infer"))
    starts = pod.value("glyph_worker_starts_total")
    pod.service.process.send_signal(signal.SIGHUP)
    await_(lambda: pod.value("glyph_worker_starts_total") >= starts + 2)
    await_(lambda: pod.ask("/readyz").json().get("workers") == {"ready": 2})
    assert counted() == expected
    assert stats(pod.service, "/v2/models/stats") == stats(
        pod.service, "/v2/models/synthetic/versions/1/stats"
    )


def test_the_server_names_the_extensions_that_it_has(service: Service) -> None:
    """Clients look there before they ask for what is not the protocol's own."""
    named = service.ask("GET", "/v2").json()["extensions"]
    assert named == ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]


def test_a_service_without_a_management_port_has_statistics_too(service: Service, digit: Pixels) -> None:
    """Of the worker that answers: nobody else could read them."""
    before = stats(service)["inference_count"]
    assert service.post(png(digit)).status == 200
    assert stats(service)["inference_count"] == before + 1


def test_each_version_has_its_images(tmp_path: Path, digit: Pixels) -> None:
    """Those of the previous version, which requests may still name, are not the served one's."""
    first = publish_synthetic(tmp_path / "models")
    with managed(tmp_path, model=first.path.parent, reload_seconds=1, workers=1) as pod:
        for _ in range(3):
            assert pod.service.post(png(digit)).status == 200
        publish_synthetic(tmp_path / "models")
        await_(lambda: pod.service.ask("GET", "/readyz").json()["model"]["version"] == 2)
        assert pod.service.post(png(digit)).status == 200
        found = pod.service.ask("GET", "/v2/models/stats").json()["model_stats"]
        assert {each["version"]: each["inference_count"] for each in found} == {"1": 3, "2": 1}
        assert {each["version"]: each["execution_count"] for each in found} == {"1": 0, "2": 4}


def test_the_index_lists_published_versions_with_the_reasons(tmp_path: Path) -> None:
    """What is loaded is READY; what failed verification or was never loaded is not, and says why."""
    models = tmp_path / "models"
    for shift in (0, 0, 0.001):
        publish_synthetic(models, golden_shift=shift)
    with running(tmp_path, until="/readyz", model=models / "synthetic") as service:
        found = service.ask("POST", "/v2/repository/index", b"").json()
        assert [(each["version"], each["state"]) for each in found] == [
            ("1", "UNAVAILABLE"),
            ("2", "READY"),
            ("3", "UNAVAILABLE"),
        ]
        assert "it is published and not loaded" in found[0]["reason"]
        assert "the golden examples" in found[2]["reason"]
        assert {each["name"] for each in found} == {"synthetic"}
        ready = service.ask("POST", "/v2/repository/index", b'{"ready": true}').json()
        assert ready == [found[1]]
        assert service.ask("POST", "/v2/repository/index", b'{"ready": false}').json() == found
        for body in (b"[]", b'{"ready": 1}'):
            refused = service.ask("POST", "/v2/repository/index", body)
            assert (refused.status, list(refused.json())) == (400, ["error"])


def test_an_index_without_a_model_has_its_versions(tmp_path: Path) -> None:
    """None is ready; the name is that of the directory, as no manifest is believed."""
    bad = publish_synthetic(tmp_path, golden_shift=0.001)
    with running(tmp_path, model=bad.path.parent) as service:
        (found,) = service.ask("POST", "/v2/repository/index").json()
        assert (found["name"], found["version"], found["state"]) == ("synthetic", "1", "UNAVAILABLE")
        assert "the golden examples" in found["reason"]


@pytest.mark.parametrize("action", ["load", "unload"])
def test_versions_are_published_and_not_pushed(service: Service, action: str) -> None:
    """Both are refused with the reason, as Triton refuses what its mode forbids."""
    answer = service.ask("POST", f"/v2/repository/models/synthetic/{action}", b'{"parameters": {}}')
    assert answer.status == 400
    assert "Publish a version ('python -m training fit')" in answer.json()["error"]
    assert service.ask("POST", f"/v2/repository/models/other/{action}").status == 404


@pytest.mark.skipif(not ANALYZER, reason="there is no perf_analyzer; PERF_ANALYZER names its command")
def test_the_performance_analyzer_measures_the_service(pod: Managed) -> None:
    """It reads metadata, configuration and statistics, and counts what it has sent."""
    arguments = ["-m", "synthetic", "-u", f"127.0.0.1:{pod.service.port}", "-i", "http", "-b", "8"]
    done = subprocess.run(
        [*ANALYZER, *arguments, "--concurrency-range", "4", "--request-count", "500"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Request count: 500" in done.stdout
    # It reads the statistics around what it counts itself, and so may miss the first or the last requests.
    inferred, answered = (
        int(re.findall(rf"{name} count: (\d+)", done.stdout)[0])
        for name in ("Inference", "Successful request")
    )
    assert answered > 0
    assert inferred == 8 * answered
