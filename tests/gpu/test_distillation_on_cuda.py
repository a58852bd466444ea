"""Distillation on a GPU: the teachers are part of the recorded step; not run where torch finds none."""

from pathlib import Path

import pytest
import torch

from bundle.manifest import TORCH_EXPORT_FILE
from bundle.repository import Bundle
from common.progress import Progress
from tests.training.sets import archive
from training.job import run
from training.settings import TrainingSettings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA: torch finds no device"),
]


def train(directory: Path, **settings: object) -> Bundle:
    """Train and publish a small model on the GPU."""
    common = {
        "data": archive(directory / "noisy.npz"),
        "models": directory / "models",
        "runs": directory / "runs",
        "device": "cuda",
        "epochs": 4,
        "hidden": (32,),
        "batch_size": 32,
        "rotation": 10,
    }
    published = run(TrainingSettings.model_validate(common | settings), Progress(quiet=True))
    assert published is not None
    return published


def test_a_recorded_step_with_teachers_gives_the_bytes_of_an_eager_one(tmp_path: Path) -> None:
    """Recording fails on anything that waits for the device; replayed, the student is the eager one."""
    teachers = [train(tmp_path, name="teacher", seed=seed).path for seed in (1, 2)]
    recorded, eager = (
        train(tmp_path, name="student", teachers=teachers, cuda_graphs=graphs) for graphs in (True, False)
    )
    files = [bundle.manifest.files[TORCH_EXPORT_FILE] for bundle in (recorded, eager)]
    assert files[0] == files[1]
    assert len(recorded.manifest.teachers) == 2
