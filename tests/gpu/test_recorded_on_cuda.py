"""Recorded steps on a GPU: the bytes of eager ones, whatever ends a run in between; not run where torch finds none."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.recorded import KINDS, STEPS, resumed, trained
from training.loop.device import choose_device
from training.settings import TrainingSettings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA: torch finds no device"),
]
ROOT = Path(__file__).resolve().parents[2]
WAITING = """
import sys
from pathlib import Path
from bench.support.runs import small_run
from training.loop import fit
from training.errors import DeviceError

step = fit.train_step

def waiting(run, state, *rest):
    step(run, state, *rest)
    state.total_loss.item()

fit.train_step = waiting
try:
    fit.fit(small_run(Path(sys.argv[1]), device="cuda"))
except DeviceError as error:
    print(error, flush=True)
"""


@pytest.fixture(autouse=True)
def repeatable() -> None:
    """Set the process up as the job does."""
    choose_device(TrainingSettings(device="cuda"))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))
def test_recorded_steps_give_the_bytes_of_eager_ones(tmp_path: Path, kind: dict[str, str]) -> None:
    """Whatever the optimizer and the precision, with clipping, accumulation, penalties, noise and averages."""
    eager = trained(tmp_path / "eager", device="cuda", cuda_graphs=False, **kind)
    assert trained(tmp_path / "recorded", device="cuda", **kind) == eager


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))
def test_graphs_may_be_turned_on_and_off_in_between(tmp_path: Path, kind: dict[str, str]) -> None:
    """Ended after any step and gone on with, recorded or not, the run ends at the bytes of the whole one."""
    whole = trained(tmp_path / "whole", device="cuda", **kind)
    for steps in STEPS:
        for first in (True, False):
            for then in (True, False):
                place = tmp_path / f"{steps} {first} {then}"
                ended = resumed(place, steps, first=first, then=then, device="cuda", **kind)
                assert ended == whole, (steps, first, then)


def test_a_set_smaller_than_a_batch_gives_the_bytes_of_eager_steps(tmp_path: Path) -> None:
    """Its one batch is the full one, and is recorded."""
    small = {"device": "cuda", "batch_size": 512, "epochs": 8}
    eager = trained(tmp_path / "eager", cuda_graphs=False, **small)
    assert trained(tmp_path / "recorded", **small) == eager


def test_a_step_that_waits_for_the_device_names_the_way_out(tmp_path: Path) -> None:
    """In a process of its own, for a failed recording leaves CUDA in pieces: one sentence, with the cause."""
    done = subprocess.run(
        [sys.executable, "-c", WAITING, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "cannot be captured as a CUDA graph" in done.stdout, done.stderr
    assert "capturing" in done.stdout
    assert "--no-cuda-graphs" in done.stdout
