"""Two processes under torchrun train one model: the same batches, one writer, one bundle."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.support.processes import ROOT, environment
from bench.support.runs import blobs
from bundle.repository import Bundle, versions
from training.loop.distributed import World, join

pytestmark = pytest.mark.service  # torchrun starts whole training runs
SETTINGS = [
    "--epochs",
    "2",
    "--hidden",
    "16",
    "--dropout",
    "0",
    "--input-dropout",
    "0",
    "--batch-size",
    "50",
    "--optimizer",
    "sgd",
    "--straight-through",
    "1",
]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small data set as a NumPy archive."""
    train, test = blobs(613, 1), blobs(90, 2)
    path = tmp_path_factory.mktemp("data") / "blobs.npz"
    np.savez(path, x_train=train.images, y_train=train.labels, x_test=test.images, y_test=test.labels)
    return path


def train(
    archive: Path, directory: Path, *more: str, processes: int, largest_file: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the job, under torchrun where there is more than one process; files may be limited to a number of bytes."""
    start = [sys.executable, "-m", "training"]
    if processes > 1:
        start = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={processes}", "-m", "training"),
        ]
    places = ["--models", str(directory / "models"), "--runs", str(directory / "runs"), "--name", "blobs"]
    command = [
        *([] if largest_file is None else ["prlimit", f"--fsize={largest_file}"]),
        *start,
        "fit",
        "--data",
        f"npz:{archive}",
        *places,
        *SETTINGS,
        "--device",
        "cpu",
        "--threads",
        "1",
        *more,
    ]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment() | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def last_weights(directory: Path) -> list[torch.Tensor]:
    """Return the weights that a run published."""
    module = torch.export.load(directory / "models" / "blobs" / "1" / "model.pt2")
    return [value for _, value in sorted(module.state_dict.items())]


@pytest.fixture(scope="module")
def both(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Train with one process and with two."""
    places = {}
    for processes in (1, 2):
        places[processes] = tmp_path_factory.mktemp(f"processes{processes}")
        done = train(archive, places[processes], processes=processes)
        assert done.returncode == 0, done.stderr
    return places


def test_two_processes_end_where_one_does(both: dict[int, Path]) -> None:
    """Without dropout the weights agree up to the rounding of another order of sums."""
    for one, two in zip(last_weights(both[1]), last_weights(both[2]), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


def test_there_is_one_writer(both: dict[int, Path]) -> None:
    """One bundle is published and each epoch's metrics stand in the file once."""
    assert versions(both[2] / "models" / "blobs") == [1]
    assert Bundle.open(both[2] / "models" / "blobs" / "1").manifest.dataset.train == 562
    lines = (both[2] / "runs" / "blobs" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


def test_metrics_are_of_all_processes(both: dict[int, Path]) -> None:
    """The training loss is the mean over every process's images, not over the writer's."""
    losses = []
    for directory in both.values():
        lines = (directory / "runs" / "blobs" / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["train_loss"] for line in lines])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_slices_are_the_batch() -> None:
    """The slices of all ranks, put together, are the batch in its order, whatever the numbers."""
    for size in (2, 3, 7):
        for images in (1, 5, 50):
            batch = torch.arange(images)
            parts = [World(rank=rank, size=size).slice(batch) for rank in range(size)]
            assert torch.equal(torch.cat(parts), batch)
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("cuda", [True, False])
def test_a_process_is_bound_to_its_gpu(monkeypatch: pytest.MonkeyPatch, cuda: bool) -> None:
    """NCCL is told which device is this process's; Gloo has none."""
    asked: list[tuple[str, torch.device | None]] = []

    def initialise(backend: str, device_id: torch.device | None) -> None:
        asked.append((backend, device_id))

    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.distributed, "init_process_group", initialise)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 3)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    with join(cuda=cuda) as world:
        assert (world.rank, world.size, world.local_rank) == (3, 4, 1)
    assert asked == [("nccl", torch.device("cuda", 1)) if cuda else ("gloo", None)]


def test_another_number_of_processes_may_not_resume(archive: Path, tmp_path: Path) -> None:
    """A checkpoint of two processes is rejected by one, which says why."""
    small = ("--momentum", "0", "--no-nesterov")  # a checkpoint that is smaller than the report
    first = train(archive, tmp_path, *small, processes=2, largest_file=100 << 10)
    assert first.returncode != 0  # it trained, left its checkpoint, and could not write its report
    assert "report.html cannot be written" in first.stderr
    second = train(archive, tmp_path, *small, "--resume", processes=1)
    assert second.returncode == 66, second.stderr
    assert "the number of processes was 2 and is 1" in second.stderr
    third = train(archive, tmp_path, *small, "--resume", processes=2)
    assert third.returncode == 0, third.stderr
    assert "resumed after 2 epochs" in third.stderr


def test_a_process_with_one_image_or_none_trains_with_batch_normalisation(
    archive: Path, tmp_path: Path
) -> None:
    """Of the last batch, of one image, one process has it and the other nothing."""
    done = train(archive, tmp_path, "--batch-norm", "--batch-size", "561", processes=2)
    assert done.returncode == 0, done.stderr
    assert "training on 562 images" in done.stderr
