"""Parity on CUDA, and the manifest's statements about a GPU, with fake sessions on machines without one."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from bundle.manifest import MANIFEST_FILE, Manifest, Parity
from bundle.repository import Bundle, versions
from bundle.verify import problems
from tests.training.sets import archive
from training import job, provenance
from training.__main__ import main
from training.errors import ExportError
from training.model.mlp import MLP, Standardisation
from training.release import export, parity
from training.release.publish import Candidate, release
from training.settings import ModelSettings

FAILURE = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization:\n"
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:129 "
    "CUDA failure 209: no kernel image is available for execution on the device ; GPU=0 ; hostname=node-7 ; "
    "file=/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_execution_provider.cc ; line=280 ; expr=f();"
)
SAID = "CUDA failure 209: no kernel image is available for execution on the device"
STANDARDISE = Standardisation(mean=33.3, deviation=78.6)
IMAGES = np.random.default_rng(0).integers(0, 256, (1200, 28, 28), dtype=np.uint8)


@pytest.fixture(scope="module")
def model() -> MLP:
    """Return a network of three classes."""
    torch.manual_seed(3)
    return MLP(ModelSettings(hidden=(16,), dropout=(0.0,)), 3).eval()


@pytest.fixture(scope="module")
def directory(model: MLP, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the network is exported."""
    place = tmp_path_factory.mktemp("export")
    export.export(export.ExportedModel(model, STANDARDISE, 1.7), place)
    return place


Change = Callable[[parity.Logits], parity.Logits]


class Session:
    """ONNX Runtime's session on the CPU, which says that it is on CUDA and changes the logits."""

    def __init__(self, session: Any, change: Change) -> None:
        self._session, self._change = session, change

    def run(self, *arguments: Any) -> list[parity.Logits]:
        """Return the changed logits."""
        return [self._change(logits) for logits in self._session.run(*arguments)]


def imitate(monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    """Let sessions on CUDA be such ones."""
    session = onnxruntime.InferenceSession

    def opened(graph: bytes, options: Any, providers: list[tuple[str, Any]], **keywords: Any) -> Any:
        if providers[0][0] != parity.CUDA_PROVIDER:
            return session(graph, options, providers=providers, **keywords)
        return Session(session(graph, providers=["CPUExecutionProvider"]), change)

    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)


def reject_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ONNX Runtime fail to make a session on CUDA, below its layer that tries the CPU in its place."""
    create = onnxruntime.InferenceSession._create_inference_session

    def failing(self: Any, providers: Any, *rest: Any) -> None:
        if any(parity.CUDA_PROVIDER in provider for provider in providers):
            raise RuntimeError(FAILURE)
        create(self, providers, *rest)

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", failing)


def prove(directory: Path, model: MLP) -> Parity | str:
    """Prove the graph on CUDA."""
    return parity.prove_on_cuda(directory, model, STANDARDISE, IMAGES)


def test_a_session_that_runs_is_measured(
    directory: Path, model: MLP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within CUDA's tolerance, over every image."""
    imitate(monkeypatch, lambda logits: logits + np.float32(5e-5))
    proven = prove(directory, model)
    assert isinstance(proven, Parity)
    assert (proven.images, proven.labels_differing) == (1200, 0)
    assert proven.max_absolute_difference == pytest.approx(5e-5, rel=0.1)


@pytest.mark.parametrize(
    "change",
    [
        lambda logits: logits[:, ::-1].copy(),
        lambda logits: logits + np.float32(1e-2),
        lambda logits: logits * np.float32(np.nan),
        lambda logits: logits + np.float32(len(logits) == 1),
    ],
    ids=["other labels", "off", "NaN", "one image alone"],
)
def test_a_session_that_answers_otherwise_is_rejected(
    directory: Path, model: MLP, monkeypatch: pytest.MonkeyPatch, change: Change
) -> None:
    """It runs, so what it answers counts."""
    imitate(monkeypatch, change)
    with pytest.raises(
        ExportError, match=r"onnx_cuda.* differs from the trained model.*nothing was published"
    ):
        prove(directory, model)


def test_a_session_that_cannot_be_made_is_a_reason(
    directory: Path, model: MLP, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is CUDA's own, not that of a second try on the CPU, and names neither this machine nor source files."""
    reject_cuda(monkeypatch)
    assert prove(directory, model) == f"ONNX Runtime's session failed on CUDA ({SAID})"
    assert capsys.readouterr().out == ""


def test_a_session_that_fails_as_it_runs_is_a_reason(
    directory: Path, model: MLP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels are looked for at the first run only; a message in another form is cut."""

    def fail(_: parity.Logits) -> parity.Logits:
        raise OSError("no\nkernel " + 400 * "x")

    imitate(monkeypatch, fail)
    reason = prove(directory, model)
    assert isinstance(reason, str)
    assert reason.startswith("ONNX Runtime's session failed on CUDA (no kernel xxx")
    assert len(reason) < 350


def test_an_onnx_runtime_without_cuda_is_a_reason(
    directory: Path, model: MLP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not tried."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert prove(directory, model) == (
        f"the installed onnxruntime {onnxruntime.__version__} has no CUDA provider"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_real_session_is_a_reason(directory: Path, model: MLP) -> None:
    """ONNX Runtime's own errors, of whichever class, are caught."""
    assert "session failed on CUDA" in str(prove(directory, model))


@pytest.fixture
def trained_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the job take its model for one that a GPU trained."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA B200")
    monkeypatch.setattr(provenance, "describe_driver", lambda: "580.95.05 (CUDA 13.0)")

    def released(candidate: Candidate, *rest: Any) -> Bundle:
        return release(replace(candidate, device=torch.device("cuda")), *rest)

    monkeypatch.setattr(job, "release", released)


def train(tmp_path: Path) -> int:
    """Train for one epoch by the command, and return its exit code."""
    archive(tmp_path / "noisy.npz")
    places = ["--models", str(tmp_path / "models"), "--runs", str(tmp_path / "runs")]
    small = ["--epochs", "1", "--hidden", "16", "--threads", "1", "--device", "cpu"]
    return main(["fit", *places, *small, "--data", f"npz:{tmp_path / 'noisy.npz'}"])


@pytest.mark.usefixtures("trained_on_cuda")
def test_a_session_that_fails_loses_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model is published, and log, manifest and report say what is not proven, and which GPU trained it."""
    reject_cuda(monkeypatch)
    assert train(tmp_path) == 0
    version = tmp_path / "models" / "noisy" / "1"
    assert problems(version) == []
    manifest = Manifest.from_bytes((version / MANIFEST_FILE).read_bytes())
    assert "onnx_cuda" not in manifest.parity
    assert manifest.omitted == {"onnx_cuda": f"ONNX Runtime's session failed on CUDA ({SAID})"}
    assert f"onnx_cuda is omitted: ONNX Runtime's session failed on CUDA ({SAID}); a server" in "".join(
        capsys.readouterr()
    )
    report = (version / "report.html").read_text()
    assert f"session failed on CUDA ({SAID})." in report
    environment = manifest.environment
    assert (environment.device, environment.driver) == ("cuda (NVIDIA B200)", "580.95.05 (CUDA 13.0)")
    assert environment.cuda == torch.version.cuda
    assert all(said in report for said in ("NVIDIA B200", "580.95.05 (CUDA 13.0)"))
    assert "NVIDIA B200" in (version / "MODEL_CARD.md").read_text().replace("\\", "")


@pytest.mark.usefixtures("trained_on_cuda")
def test_wrong_answers_are_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A session that runs and differs ends the job with 70, and the checkpoint stays."""
    imitate(monkeypatch, lambda logits: logits[:, ::-1].copy())
    assert train(tmp_path) == ExportError.exit_code
    assert "onnx_cuda differs from the trained model" in capsys.readouterr().err
    assert versions(tmp_path / "models" / "noisy") == []
    assert list((tmp_path / "runs" / "noisy").glob("checkpoint-*.pt"))


def test_what_a_cpu_trained_is_not_asked_on_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its manifest has no field more than it used to have."""
    monkeypatch.setattr(parity, "prove_on_cuda", None)
    assert train(tmp_path) == 0
    document = json.loads((tmp_path / "models" / "noisy" / "1" / MANIFEST_FILE).read_bytes())
    assert "onnx_cuda" not in document["parity"]
    assert "omitted" not in document
    assert set(document["environment"]) == {"code_revision", "python", "packages", "device", "threads"}
