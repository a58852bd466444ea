"""The training job on a GPU; not run where torch finds none."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bundle.manifest import Manifest
from tests.training.runs import blobs, small_run, weights
from training.fit import Fitted, Run, fit
from training.job import run
from training.machine import choose_device
from training.progress import Progress
from training.settings import TrainingSettings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA: torch finds no device"),
]


def on_cuda(directory: Path, **settings: object) -> Run:
    """Return the small run with its images on the GPU."""
    chosen = small_run(directory, None, **settings)
    device = choose_device(chosen.settings)
    return Run(
        settings=chosen.settings,
        train=blobs(500, 1).to(device),
        validation=blobs(100, 2).to(device),
        classes=3,
        polarity=chosen.polarity,
        data_sha256=chosen.data_sha256,
        directory=directory,
        progress=chosen.progress,
        stop=chosen.stop,
    )


def cpu_weights(fitted: Fitted) -> bytes:
    """Return the weights' bytes, fetched from the GPU."""
    fitted.model.cpu()
    return weights(fitted)


def test_the_same_seed_gives_the_same_bytes_on_cuda(tmp_path: Path) -> None:
    """Two runs on one GPU end at identical weights."""
    assert cpu_weights(fit(on_cuda(tmp_path))) == cpu_weights(fit(on_cuda(tmp_path)))


def test_cuda_learns_what_the_cpu_learns(tmp_path: Path) -> None:
    """Without dropout, the GPU's weights are the CPU's up to rounding after one epoch."""
    chosen = {"dropout": (0.0,), "epochs": 1, "optimizer": "sgd"}
    gpu, cpu = fit(on_cuda(tmp_path / "g", **chosen)), fit(small_run(tmp_path / "c", None, **chosen))
    for a, b in zip(gpu.model.cpu().parameters(), cpu.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_the_whole_job_proves_cuda_parity(tmp_path: Path, mnist_directory: Path) -> None:
    """A bundle trained on a GPU states the parity of ONNX on CUDA over all test images."""
    settings = TrainingSettings(
        epochs=2, device="cuda", data_dir=mnist_directory, models=tmp_path / "m", runs=tmp_path / "r"
    )
    published = run(settings, Progress(quiet=True))
    assert published is not None
    manifest: Manifest = published.manifest
    assert manifest.parity["onnx_cuda"].images == 10_000
    assert manifest.environment.device.startswith("cuda")
    assert np.isfinite(manifest.test.nll)
