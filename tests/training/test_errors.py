"""Out-of-memory errors and device failures: one sentence, and an exit code that permits a retry."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bench.support.pictures import a_digit, png
from training.__main__ import main
from training.data.formats import folder
from training.errors import LostError, exit_code

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

    def decode(_: bytes) -> None:
        raise MemoryError("no room for an image")

    monkeypatch.setattr(folder, "decode", decode)
    places = ["--models", str(tmp_path / "models"), "--runs", str(tmp_path / "runs")]
    assert main(["fit", "--data", f"folder:{tmp_path}", "--device", "cpu", *places]) == LostError.exit_code
    assert "error: out of memory (no room for an image)" in capsys.readouterr().err
