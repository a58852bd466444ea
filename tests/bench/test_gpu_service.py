"""`python -m bench gpu`: without a GPU it says so; its second part, the service, is tried on the CPU."""

from pathlib import Path

import pytest

from bench.gpu.command import NO_GPU, main
from bench.gpu.service import Case, cases, compare
from bench.support.models import publish_synthetic
from serving.model import cuda

CPU = Case(provider="cpu", workers=1)


@pytest.mark.service
def test_each_provider_is_measured_in_the_same_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row for each kind of request and each way to serve, and which of them answers most."""
    model = publish_synthetic(tmp_path).path.parent
    wanted = [CPU, Case(provider="cpu", workers=2)]
    assert compare(wanted, model, 2, 0)
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("cpu x")]
    assert [row[:7] for row in rows] == ["cpu x 1", "cpu x 2"] * 2
    assert [row[19:35].strip() for row in rows] == ["one PNG of 28x28"] * 2 + ["64 raw images"] * 2
    for row in rows[2:]:
        requests, images = (float(word.replace(",", "")) for word in row[37:].split()[:2])
        assert 0 < requests < images
    assert sum(" a request, cpu x " in line for line in lines) == 2


@pytest.mark.service
@pytest.mark.skipif(cuda.missing_device(0) is None, reason="this machine has CUDA")
def test_a_service_that_does_not_start_is_named_and_the_others_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The comparison failed, which its result tells."""
    model = publish_synthetic(tmp_path).path.parent
    assert not compare([CPU, Case(provider="cuda", workers=1, graphs=True)], model, 0.3, 0)
    said = capsys.readouterr()
    assert "cuda x 1, graphs does not serve" in said.out
    assert said.out.count("\ncpu x 1 ") == 2
    assert "a service did not start" in said.err


def test_the_cases() -> None:
    """A worker for each core on the CPU, one and four on CUDA, with graphs and without."""
    assert [case.name for case in cases(8)] == [
        "cpu x 8",
        "cuda x 1",
        "cuda x 4",
        "cuda x 1, graphs",
        "cuda x 4, graphs",
    ]


@pytest.mark.skipif(cuda.missing_device(0) is None, reason="this machine has CUDA")
@pytest.mark.parametrize("published", [True, False])
def test_without_a_gpu_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *, published: bool
) -> None:
    """With a model and without one, by its exit code too."""
    if published:
        publish_synthetic(tmp_path)
    assert main(["--model", str(tmp_path / "synthetic"), "--seconds", "0.001"]) == NO_GPU
    said = capsys.readouterr().out
    assert "No GPU to" in said
    assert ("images/s" in said) is published
