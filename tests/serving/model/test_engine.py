"""Loading and proving a model, and deciding where it runs."""

import ctypes
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from bench.support.models import Linear, a_linear, publish_synthetic
from bundle.errors import InvalidBundleError
from bundle.manifest import ONNX_FILE
from bundle.repository import Bundle
from common import atomic_files
from serving.errors import NotReadyError, ProviderError
from serving.model import cuda, engine
from serving.model.engine import choose_provider, open_engine
from serving.model.store import ModelStore
from serving.settings import ServiceSettings


def test_a_proven_engine_answers_as_numpy_does_at_every_batch_size(bundle: Bundle, linear: Linear) -> None:
    """One image, many, and a batch the graph was not made for."""
    opened = open_engine(bundle, "cpu", 0)
    for count in (1, 2, 7, 300):
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        answered = opened.infer(images).probabilities
        assert answered.shape == (count, 10)
        assert answered.dtype == np.float32
        assert np.allclose(answered, linear.probabilities(images), atol=1e-5)


def test_the_session_is_built_from_the_bytes_that_were_verified(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is swapped between the check and the load changes nothing: it is read once."""
    reads: list[str] = []
    opened = atomic_files._open_regular

    def counting(path: Path, limit: int) -> Any:
        reads.append(path.name)
        return opened(path, limit)

    monkeypatch.setattr(atomic_files, "_open_regular", counting)
    given: list[object] = []
    session = onnxruntime.InferenceSession

    def noting(graph: bytes, *arguments: Any, **options: Any) -> Any:
        given.append(graph)
        return session(graph, *arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", noting)
    open_engine(bundle, "cpu", 0)
    assert given == [(bundle.path / ONNX_FILE).read_bytes()]
    assert sorted(reads) == sorted(bundle.manifest.files)


@pytest.mark.parametrize("shift", [2e-4, -2e-4])
def test_a_golden_answer_beyond_the_tolerance_is_refused(tmp_path: Path, shift: float) -> None:
    """Twice the tolerance in either direction is too much."""
    with pytest.raises(InvalidBundleError, match=r"golden examples.*0.0002"):
        open_engine(publish_synthetic(tmp_path, golden_shift=shift), "cpu", 0)


def test_a_model_that_is_wrong_one_by_one_only_is_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The golden examples are replayed in the batch size that requests have, too."""
    infer = engine.Engine.infer

    def wrong_alone(self: engine.Engine, images: Any) -> Any:
        right = infer(self, images)
        return (
            engine.Outputs(right.logits, right.probabilities * np.float32(0.5)) if len(images) == 1 else right
        )

    monkeypatch.setattr(engine.Engine, "infer", wrong_alone)
    with pytest.raises(InvalidBundleError, match="one by one"):
        open_engine(bundle, "cpu", 0)


def test_a_graph_of_other_classes_than_the_manifests_is_refused(tmp_path: Path) -> None:
    """The refusal shows both signatures."""
    narrow = Linear(a_linear().weights[:, :9].copy(), a_linear().bias[:9].copy())
    with pytest.raises(InvalidBundleError, match=r"signature.*\[9\].*requires.*\[10\]"):
        open_engine(publish_synthetic(tmp_path, graph=narrow.graph(classes=9)), "cpu", 0)


def test_cpu_never_asks_for_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for the CPU does not touch a driver."""
    monkeypatch.setattr(cuda, "missing", lambda _: pytest.fail("the driver was asked"))
    assert choose_provider("cpu", 0) == "cpu"


def test_cuda_and_auto_take_cuda_where_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both policies agree on a machine that has what is needed."""
    monkeypatch.setattr(cuda, "missing", lambda _: None)
    assert choose_provider("cuda", 0) == choose_provider("auto", 0) == "cuda"


def test_cuda_raises_and_auto_logs_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The same sentence ends one and explains the other."""
    monkeypatch.setattr(cuda, "missing", lambda _: "no driver at all")
    with pytest.raises(ProviderError, match="no driver at all"):
        choose_provider("cuda", 0)
    with caplog.at_level(logging.INFO, "glyph"):
        assert choose_provider("auto", 0) == "cpu"
    assert "no driver at all" in caplog.text


def test_a_session_that_got_another_provider_is_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the session got is checked, not what it was asked for."""
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda graph, *_, **__: session(graph, providers=["CPUExecutionProvider"]),
    )
    with pytest.raises(ProviderError, match="CUDAExecutionProvider was requested, but the session got"):
        open_engine(bundle, "cuda", 0)


@pytest.mark.skipif(cuda.missing_device(0) is None, reason="this machine has CUDA")
def test_a_cuda_session_never_falls_back_to_the_cpu(bundle: Bundle) -> None:
    """Even if the check before it were wrong, the session itself refuses."""
    with pytest.raises(ProviderError, match="CPU EP"):
        open_engine(bundle, "cuda", 0)


@pytest.mark.skipif(cuda.missing_device(0) is None, reason="this machine has CUDA")
def test_auto_falls_back_where_cuda_was_found_and_fails(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`auto` means if it truly works; the reason is logged, and the CPU is proven in its place."""
    monkeypatch.setattr(cuda, "missing", lambda _: None)
    with caplog.at_level(logging.WARNING, "glyph"):
        started = ModelStore.start(ServiceSettings(model=bundle.path.parent, provider="auto"))
    assert started.engine().provider == started.provider == "cpu"
    assert "CUDA was found, but" in caplog.text


def fake_driver(init: int, count: int) -> SimpleNamespace:
    """Return a stand-in for libcuda with these answers."""

    def get_count(reference: Any) -> int:
        reference._obj.value = count
        return 0

    def get_error(_: int, reference: Any) -> None:
        reference._obj.value = b"a driver's words"

    def get_version(reference: Any) -> int:
        reference._obj.value = 99000
        return 0

    return SimpleNamespace(
        cuInit=lambda _: init,
        cuDeviceGetCount=get_count,
        cuGetErrorString=get_error,
        cuDriverGetVersion=get_version,
    )


@pytest.mark.parametrize(
    ("init", "count", "device", "said"),
    [
        (0, 1, 0, None),
        (100, 0, 0, "finds no GPU"),
        (0, 0, 0, "finds no GPU"),
        (803, 0, 0, "a driver's words (803)"),
        (0, 2, 2, "no GPU 2: the NVIDIA driver finds 2"),
    ],
)
def test_what_the_driver_says_becomes_a_sentence(
    init: int, count: int, device: int, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU, a driver that cannot start, and a GPU number that is too high are told apart."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _: fake_driver(init, count))
    reason = cuda.missing_device(device)
    assert reason is None if said is None else said in (reason or "")


def test_an_onnxruntime_without_cuda_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says which package to install."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "install onnxruntime-gpu" in (cuda.missing_library() or "")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader's words are read for the file that is absent."""

    def absent(_: str) -> None:
        raise OSError("libcudnn.so.9: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert "libcudnn.so.9 is missing" in (cuda.missing_library() or "")


def test_a_reload_that_fails_keeps_the_model_that_serves(tmp_path: Path) -> None:
    """A bad new version is refused and the old one answers on."""
    good = publish_synthetic(tmp_path)
    started = ModelStore.start(ServiceSettings(model=good.path.parent, provider="cpu"))
    publish_synthetic(tmp_path, golden_shift=0.001)
    started.load()
    assert started.engine().bundle.version == 1


def test_a_model_that_appears_later_can_be_loaded(tmp_path: Path) -> None:
    """The state is no dead end: `load` tries again."""
    started = ModelStore.start(ServiceSettings(model=tmp_path / "synthetic", provider="cpu"))
    with pytest.raises(NotReadyError, match="no version is published"):
        started.engine()
    publish_synthetic(tmp_path)
    started.load()
    assert started.engine().bundle.version == 1
