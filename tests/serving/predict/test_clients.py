"""The Open Inference Protocol by its real clients: tritonclient[http] and KServe's, unmodified."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bench.support.models import Linear
from bench.support.processes import Service
from bundle.triton import config_pbtxt, model_config
from tests.conftest import ROOT

CLIENTS = Path(os.environ.get("CLIENTS_PYTHON", ROOT / ".venv-clients/bin/python"))
"""They hold old versions of what the service uses, so they have an environment of their own."""

pytestmark = [
    pytest.mark.skipif(
        not CLIENTS.exists(), reason=f"{CLIENTS} is missing: 'make clients' makes the clients' environment"
    ),
    pytest.mark.skipif(
        (sys.platform, platform.machine()) == ("linux", "aarch64"),
        reason="KServe's client wants psutil<6, which has no wheel for Linux on Arm",
    ),
]
AS_PROTOBUF = """
import sys
from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig
one = json_format.Parse(sys.argv[1], ModelConfig())
print("the same" if one == text_format.Parse(sys.argv[2], ModelConfig()) else one)
"""
"""Reads a configuration as JSON and as text by Triton's own message, of which an unknown field is an error."""


@pytest.fixture(scope="session")
def images() -> npt.NDArray[np.uint8]:
    """Return enough images that the answers are worth compressing."""
    return np.random.default_rng(23).integers(0, 256, (37, 28, 28), dtype=np.uint8)


@pytest.fixture
def found(service: Service, images: npt.NDArray[np.uint8], tmp_path: Path) -> dict[str, Any]:
    """Return what both clients got."""
    np.save(tmp_path / "images.npy", images)
    script = Path(__file__).with_name("ask_by_clients.py")
    done = subprocess.run(
        [CLIENTS, script, f"127.0.0.1:{service.port}", "synthetic", tmp_path / "images.npy"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_both_clients_get_the_models_outputs(
    found: dict[str, Any], images: npt.NDArray[np.uint8], linear: Linear
) -> None:
    """In JSON and as binary data, named and unnamed, compressed and not, with the request's id."""
    probabilities, logits = linear.probabilities(images), linear.logits(images)
    for client in ("triton", "kserve"):
        for how, answer in found[client]["answers"].items():
            assert answer["id"] == "the-request", (client, how)
            assert np.allclose(answer["probabilities"], probabilities, atol=1e-5), (client, how)
            assert np.allclose(answer["logits"], logits, atol=1e-3), (client, how)
    assert np.allclose(found["triton"]["plain"]["probabilities"], probabilities, atol=1e-5)
    assert np.allclose(found["triton"]["plain"]["logits"], logits, atol=1e-3)
    assert len(found["triton"]["answers"]) == 12
    assert len(found["kserve"]["answers"]) == 2
    assert all(answer["model"] == "synthetic" for answer in found["kserve"]["answers"].values())

    for client in ("triton", "kserve"):
        health = {key: found[client][key] for key in ("live", "ready", "model_ready", "other_ready")}
        assert health == {"live": True, "ready": True, "model_ready": True, "other_ready": False}
    assert found["triton"]["version_ready"] is True
    assert found["triton"]["server"]["name"] == "glyph"
    assert "binary_tensor_data" in found["triton"]["server"]["extensions"]
    assert found["triton"]["model"]["inputs"] == [
        {"name": "images", "datatype": "UINT8", "shape": [-1, 28, 28]}
    ]

    status, message = found["triton"]["error"]
    assert status == "404"
    assert "there is no model 'another'" in message
    status, message = found["triton"]["of_floats"]
    assert status == "400"
    assert "numpy.rint(255 * array)" in message
    assert "the input's name is \"image\"; did you mean 'images'?" in found["kserve"]["error"]


def test_tritons_client_gets_configuration_statistics_and_index(found: dict[str, Any]) -> None:
    """Each is what Triton's own message has; loading and unloading are refused with the reason."""
    triton = found["triton"]
    read: list[str | Path] = [
        CLIENTS,
        "-c",
        AS_PROTOBUF,
        json.dumps(triton["config"]),
        config_pbtxt("synthetic", 10),
    ]
    done = subprocess.run(read, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "the same\n"), done.stderr[-500:]
    assert triton["config"] == model_config("synthetic", 10)
    extensions = {"model_configuration", "model_repository", "statistics"}
    assert extensions < set(triton["server"]["extensions"])
    assert triton["index"] == [{"name": "synthetic", "version": "1", "state": "READY", "reason": ""}]
    ((before,), (after,)) = (triton[when]["model_stats"] for when in ("before", "after"))
    assert after["inference_count"] - before["inference_count"] == 13 * 37
    success = [each["inference_stats"]["success"]["count"] for each in (before, after)]
    assert success[1] - success[0] == 13
    assert triton["of_all"]["model_stats"] == [after]
    for status, message in triton["refused"]:
        assert status == "400"
        assert "Publish a version" in message


def test_kserves_client_gets_the_probabilities_by_its_first_protocol(
    found: dict[str, Any], images: npt.NDArray[np.uint8], linear: Linear
) -> None:
    """As rows and as columns."""
    answer = found["kserve_v1"]
    assert answer["model_ready"] is True
    assert "there is no model 'another'" in answer["error"]
    for form in ("predictions", "outputs"):
        assert np.allclose(answer[form], linear.probabilities(images), atol=1e-5)
