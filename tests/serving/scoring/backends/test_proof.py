"""The proof of a model in a child of the fork server: what it says, and that it ends whatever happens."""

import os
import platform
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bench.support.jobs import settings
from bench.support.management import await_
from bench.support.models import deadly, endless, publish_synthetic
from bundle.repository import Bundle
from serving.model import proof_table
from serving.scoring.backends.local import open_local
from serving.scoring.backends.proof import Proof
from serving.scoring.errors import ModelError, Stopped
from serving.scoring.fork_server import ForkServer


@pytest.fixture
def server() -> Iterator[ForkServer]:
    """Return a fork server; at the end all of its children have ended."""
    with closing(ForkServer()) as server:
        yield server


def begun(bundle: Bundle, server: ForkServer) -> Proof:
    """Start a proof."""
    return Proof(bundle, "cpu", settings(bundle, "in", bundle.path / "out", arithmetic="float32"), server)


def proving(server: ForkServer) -> list[int]:
    """Return the processes that prove: the children of those that the server has forked."""

    def children(pid: int) -> list[int]:
        try:
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:  # it has ended
            return []

    assert server.pid is not None
    return [prover for child in children(server.pid) for prover in children(child)]


def test_a_proof_says_what_came_of_it(tmp_path: Path, server: ForkServer) -> None:
    """As the service's own child does (`tests/serving/model/test_proving.py`)."""
    with closing(begun(publish_synthetic(tmp_path), server)) as proof:
        assert proof.result() == ("proven", "")
    with closing(begun(publish_synthetic(tmp_path, golden_shift=0.001), server)) as proof:
        assert proof.result()[0] == "golden_mismatch"
    with closing(begun(publish_synthetic(tmp_path, graph=b"\x08\x0a"), server)) as proof:
        assert proof.result()[1].startswith("model.onnx cannot be loaded")


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="only x86 traps there")
def test_a_model_that_crashes_is_refused(tmp_path: Path, server: ForkServer) -> None:
    """The scorer does not crash with it."""
    bad = publish_synthetic(tmp_path, graph=deadly())
    with closing(begun(bad, server)) as proof, pytest.raises(ModelError, match="crashed by SIGFPE"):
        open_local(settings(bad, "in", tmp_path / "out"), proof)


def test_a_proof_that_takes_too_long_is_killed(
    tmp_path: Path, server: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fixture would wait for the process for ever."""
    monkeypatch.setattr(proof_table, "LOAD_SECONDS", 1)
    with closing(begun(publish_synthetic(tmp_path, graph=endless()), server)) as proof:
        assert proof.result() == ("invalid", "loading and proving it took longer than 1 s")


def test_a_proof_that_nobody_waits_for_is_killed(
    tmp_path: Path, server: ForkServer, capfd: pytest.CaptureFixture[str]
) -> None:
    """A run that ends before, because an input is missing, leaves no process at work and no traceback."""
    with closing(begun(publish_synthetic(tmp_path, graph=endless()), server)):
        await_(lambda: bool(proving(server)))
    server.close()
    assert not proving(server)
    assert capfd.readouterr().err == ""


def test_a_proof_that_is_told_to_end_says_nothing_of_the_model(tmp_path: Path, server: ForkServer) -> None:
    """The run stops, and can be run again."""
    bad = publish_synthetic(tmp_path, graph=endless())
    with closing(begun(bad, server)) as proof:
        await_(lambda: bool(proving(server)))
        (prover,) = proving(server)
        await_(lambda: Path(f"/proc/{prover}/oom_score_adj").read_text() == "1000\n")  # it is past its start
        os.kill(prover, signal.SIGTERM)
        with pytest.raises(Stopped, match="run again"):
            open_local(settings(bad, "in", tmp_path / "out"), proof)
