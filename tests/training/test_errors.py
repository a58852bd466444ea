"""Out-of-memory errors and device failures: one sentence, and an exit code that permits a retry."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bench.support.pictures import a_digit, png
from imagesets.errors import DataError
from tests.training.sets import archive
from training.__main__ import main
from training.data import reading
from training.errors import LostError, exit_code
from training.loop import fit as fitting

ERRORS = {
    "memory": (MemoryError(), "out of memory (MemoryError)"),
    "NumPy's": (MemoryError("Unable to allocate 1.00 TiB for an array"), "Unable to allocate 1.00 TiB"),
    "CUDA's": (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"), "2.00 GiB.)"),
    "PyTorch's": (
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        "can't allocate",
    ),
    "cuBLAS'": (
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`"),
        "out of memory",
    ),
    "the device": (torch.AcceleratorError("CUDA error: an illegal memory access\nCUDA kernel"), "nvidia-smi"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_want_of_memory_and_a_lost_device_are_one_sentence(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what to do, and that the run goes on from its checkpoint."""
    error, said = ERRORS[name]

    def work() -> None:
        raise error

    assert exit_code(work) == LostError.exit_code == 71
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert line.endswith("--resume continues from the last checkpoint")


def test_any_other_error_is_a_fault_and_shows_where_it_is() -> None:
    """As it was raised."""

    def work() -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        exit_code(work)


def test_a_folder_that_does_not_fit_into_memory_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command line, while its files are read."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(20):
            (tmp_path / name / f"{number}.png").write_bytes(png(np.roll(a_digit(), number)))

    def decode(*_: object) -> None:
        raise MemoryError("no room for an image")

    monkeypatch.setattr(reading, "decode", decode)
    places = ["--models", str(tmp_path / "models"), "--runs", str(tmp_path / "runs")]
    assert main(["fit", "--data", f"folder:{tmp_path}", "--device", "cpu", *places]) == LostError.exit_code
    said = capsys.readouterr().err
    assert "error: out of memory (no room for an image) while the data set is read" in said
    assert "--batch-size" not in said


@pytest.mark.parametrize("kind", ["one value", "one picture"])
@pytest.mark.parametrize("command", [["fit"], ["tune", "--trials", "1"], ["study", "size"]])
def test_images_that_are_all_the_same_are_the_datas_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, command: list[str]
) -> None:
    """Before an epoch, and not the export's after it: no number of epochs would help."""
    picture = np.full((28, 28), 128, np.uint8) if kind == "one value" else a_digit()
    images = np.tile(picture, (60, 1, 1))
    labels = np.arange(60) % 3
    np.savez(tmp_path / "same.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    places = ["--output", str(tmp_path)] if command[0] == "study" else ["--runs", str(tmp_path / "runs")]
    data = ["--data", f"npz:{tmp_path / 'same.npz'}", "--device", "cpu", "--models", str(tmp_path / "models")]
    assert main([*command, *data, *places]) == DataError.exit_code == 65
    said = capsys.readouterr().err
    assert "all 55 training images are the same, so nothing can be learnt" in said
    assert "epoch   1" not in said


def test_want_of_memory_of_a_gpu_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command line, in the middle of an epoch."""

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    monkeypatch.setattr(fitting, "training_loss", full)
    places = ["--models", str(tmp_path / "models"), "--runs", str(tmp_path / "runs")]
    assert main(["fit", "--data", archive(tmp_path / "noisy.npz"), "--device", "cpu", *places]) == 71
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "use a smaller --batch-size, or a machine with more memory" in line
