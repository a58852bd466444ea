"""What is compared beside servers, and what a server needs before it starts."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.comparison import ceiling, commands, rounds
from bench.comparison.contender import Setup
from bench.comparison.rounds import Cores, Subject
from bench.load.statistics import Reading
from bench.support.models import publish_synthetic


def test_session_run_alone_gives_the_graphs_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process on the servers' CPU: some calls, each with a time, and every request's answer is right."""
    subject = Subject.of(publish_synthetic(tmp_path).path.parent)
    cpus = tuple(sorted(os.sched_getaffinity(0)))[:1]
    found = ceiling.measure(subject, 0.1, Cores(server=cpus, client=cpus))
    assert (found.wrong, found.checked, found.errors) == (0, rounds.DISTINCT_REQUESTS, 0)
    assert 0 < found.p50 <= found.p99
    assert found.rate * found.p50 == pytest.approx(1, rel=0.9)
    monkeypatch.setenv("BENCH_MODEL", str(subject.bundle / "model.onnx"))
    wrong = ceiling.run(replace(subject, probabilities=subject.probabilities + np.float32(0.01)), 0.01)
    assert wrong.wrong == rounds.DISTINCT_REQUESTS


def test_what_is_no_server_has_its_turn_in_each_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three rounds, three readings, in the order in which they were taken."""
    subject = Subject.of(publish_synthetic(tmp_path).path.parent)
    monkeypatch.setattr(rounds, "IDLE_SECONDS", 0)
    taken: list[Reading] = []

    def turn() -> Reading:
        figures = dict.fromkeys(("p50", "p99", "cpu", "rss", "pss", "errors", "wrong", "checked", "busy"), 0)
        taken.append(Reading(rate=len(taken), **figures))
        return taken[-1]

    cores = Cores.halves()
    found = rounds.interleaved(
        {}, "batch", 1, rounds=3, seconds=0.1, subject=subject, cores=cores, others={"alone": turn}
    )
    assert found == {"alone": taken}
    assert [one.rate for one in taken] == [0, 1, 2]


def test_tritons_repository_has_a_model_for_pixels_and_one_for_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with its program, what that imports and its tensors; the backend finds its process, the second time too."""
    stubs = tmp_path / "triton/tritonserver/python_backend_stubs" / commands.PYTHON
    stubs.mkdir(parents=True)
    (stubs / "triton_python_backend_stub").touch()
    backend = tmp_path / "triton/tritonserver/backends/python"
    backend.mkdir(parents=True)
    monkeypatch.setattr(commands, "TRITON", tmp_path / "triton")
    for turn in ("first", "second"):
        directory = tmp_path / turn
        setup = Setup(port=1, more_ports=(), workers=3, bundle=tmp_path, name="digits", directory=directory)
        commands.prepare_triton(setup)
        for name, tensor in (
            ("digits", "TYPE_UINT8 dims: [28, 28]"),
            ("digits-png", "TYPE_STRING dims: [1]"),
        ):
            text = (directory / "models" / name / "config.pbtxt").read_text()
            assert f'name: "{name}"' in text
            assert tensor in text
            assert "count: 3" in text
            assert "class TritonPythonModel" in (directory / "models" / name / "1/model.py").read_text()
            assert (directory / "models" / name / "1/classify.py").is_file()
        assert (backend / "triton_python_backend_stub").resolve() == stubs / "triton_python_backend_stub"
