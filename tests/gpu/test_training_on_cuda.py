"""The training job on a GPU; not run where torch finds none."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.support.processes import ROOT
from bench.support.runs import small_run, weights
from common.progress import Progress
from tests.gpu.memory import measured
from training.job import run
from training.loop.device import choose_device
from training.loop.fit import fit
from training.settings import TrainingSettings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA: torch finds no device"),
]
PATIENCE_SECONDS = 60.0


@pytest.fixture(autouse=True)
def repeatable() -> None:
    """Set the process up as the job does."""
    choose_device(TrainingSettings(device="cuda"))


def test_the_same_seed_gives_the_same_bytes_on_cuda(tmp_path: Path) -> None:
    """Two runs on one GPU end at identical weights."""
    first, second = (weights(fit(small_run(tmp_path / name, device="cuda"))) for name in "ab")
    assert first == second


def test_cuda_learns_what_the_cpu_learns(tmp_path: Path) -> None:
    """Without dropout and in float32, the GPU's weights are the CPU's up to rounding after one epoch."""
    chosen: dict[str, Any] = {"dropout": (0.0,), "epochs": 1, "optimizer": "sgd", "precision": "float32"}
    gpu, cpu = (fit(small_run(tmp_path / device, device=device, **chosen)) for device in ("cuda", "cpu"))
    for a, b in zip(gpu.model.cpu().parameters(), cpu.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_the_whole_job_proves_cuda_parity(tmp_path: Path, mnist_directory: Path) -> None:
    """A bundle trained on a GPU states the parity of ONNX on CUDA over all test images."""
    settings = TrainingSettings(
        epochs=2, device="cuda", data_dir=mnist_directory, models=tmp_path / "m", runs=tmp_path / "r"
    )
    published = run(settings, Progress(quiet=True))
    assert published is not None
    manifest = published.manifest
    assert "onnx_cuda" in manifest.parity, manifest.omitted
    assert manifest.parity["onnx_cuda"].images == 10_000
    assert manifest.environment.device == f"cuda ({torch.cuda.get_device_name()})"
    assert manifest.environment.cuda == torch.version.cuda
    assert re.search(r"CUDA \d+\.\d+", manifest.environment.driver)
    assert np.isfinite(manifest.test.nll)


def test_the_memory_of_a_run_fits_into_a_pods(
    tmp_path: Path, mnist_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`fit` with the default preset, from the data to the published bundle, is printed and below the pod's limit."""
    places = {"data-dir": mnist_directory, "models": tmp_path / "models", "runs": tmp_path / "runs"}
    words = [word for name, place in places.items() for word in (f"--{name}", str(place))]
    command = [sys.executable, "-m", "training", "fit", "--device", "cuda", "--epochs", "2", *words]
    with measured(capsys, "training") as memory, subprocess.Popen(command, cwd=ROOT) as process:
        memory.pid = process.pid
        assert process.wait(PATIENCE_SECONDS) == 0
