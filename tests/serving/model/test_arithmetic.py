"""Which graph computes which batch: by the policy, the processor, the version's files and the batch's size."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from bench.support.models import NO_GRAPH, Linear, a_linear, in_integers, publish_synthetic
from bench.support.processes import running
from bundle.errors import GoldenMismatchError, InvalidBundleError
from bundle.manifest import INTEGER_ONNX_FILE, ONNX_FILE
from bundle.repository import Bundle
from bundle.verify import problems
from serving.model import engine
from serving.model.engine import Engine, Precision, choose_precision, open_engine
from serving.model.store import ModelStore
from serving.settings import ServiceSettings
from serving.system import cpus

AMX = "flags\t\t: fpu sse2 avx512_vnni avx_vnni amx_bf16 amx_tile amx_int8 arch_capabilities"
NO_AMX = {
    "dot products alone": "flags\t\t: fpu sse2 avx512_vnni avx_vnni",
    "AMX without integers": "flags\t\t: amx_bf16 amx_tile",
    "a name that only begins so": "flags\t\t: amx_int8_more",
    "an ARM processor": "Features\t: fp asimd asimddp i8mm",
    "another line": "model name\t: amx_int8\nflags\t\t: fpu",
    "nothing": "",
}

Pixels = npt.NDArray[np.uint8]


@pytest.fixture
def processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that stands for /proc/cpuinfo, of a processor with AMX."""
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\n{AMX}\n\nprocessor\t: 1\n{AMX}\n")
    monkeypatch.setattr(cpus, "CPUINFO", path)
    return path


@pytest.fixture
def old(tmp_path: Path) -> Bundle:
    """Return a bundle as an older Glyph published it."""
    return publish_synthetic(tmp_path / "old", integer=None)


class Watched:
    """A session that notes the size of each batch."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.sizes: list[int] = []

    def run(self, names: list[str], feed: dict[str, Pixels]) -> Any:
        """Note, and answer."""
        self.sizes.append(len(feed["images"]))
        return self.session.run(names, feed)


def images_of(count: int) -> Pixels:
    """Return noise."""
    return np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)


def test_a_processor_has_integer_matrices_by_its_flags(processor: Path) -> None:
    """AMX's integers count, and nothing that only resembles them."""
    assert cpus.has_amx_int8()
    for line in NO_AMX.values():
        processor.write_text(f"{line}\n")
        assert not cpus.has_amx_int8()
    processor.unlink()
    assert not cpus.has_amx_int8()


@pytest.mark.parametrize(
    ("policy", "amx", "provider", "chosen"),
    [
        ("auto", True, "cpu", "mixed"),
        ("auto", False, "cpu", "float32"),
        ("float32", True, "cpu", "float32"),
        ("integer", True, "cpu", "integer"),
        ("integer", False, "cpu", "integer"),
        ("auto", True, "cuda", "float32"),
        ("integer", True, "cuda", "float32"),
    ],
)
def test_the_policy_the_processor_and_the_provider_decide(
    bundle: Bundle, processor: Path, policy: Any, amx: bool, provider: Any, chosen: str
) -> None:
    """`auto` looks at the processor, the others do not, and CUDA is always float32."""
    if not amx:
        processor.write_text(NO_AMX["dot products alone"])
    assert choose_precision(policy, bundle, provider) == chosen


@pytest.mark.usefixtures("processor")
def test_an_old_bundle_is_served_in_float32(
    old: Bundle, linear: Linear, caplog: pytest.LogCaptureFixture
) -> None:
    """`auto` says why, and the version answers; only who insists on integers is refused, with the remedy."""
    assert problems(old.path) == []
    with caplog.at_level(logging.INFO, "glyph"):
        assert choose_precision("auto", old, "cpu") == "float32"
    assert "float32 (auto, because version 1 has no model.integer.onnx (an older Glyph" in caplog.text
    images = images_of(300)
    answered = open_engine(old, "cpu", 0).infer(images).probabilities
    assert np.allclose(answered, linear.probabilities(images), atol=1e-5)
    with pytest.raises(InvalidBundleError, match=r"no model\.integer\.onnx .*: use 'auto'"):
        choose_precision("integer", old, "cpu")


@pytest.mark.parametrize("arithmetic", get_args(Precision))
def test_each_arithmetic_answers_as_numpy_does(bundle: Bundle, linear: Linear, arithmetic: Precision) -> None:
    """At every size the logits are float64's."""
    opened = open_engine(bundle, "cpu", 0, arithmetic)
    assert opened.precision == arithmetic
    for count in (1, 2, 8, 9, 64, 300):
        outputs = opened.infer(images_of(count))
        assert np.allclose(outputs.logits, linear.logits(images_of(count)), atol=5e-5)
        assert np.allclose(outputs.probabilities, linear.probabilities(images_of(count)), atol=1e-5)


def watched(bundle: Bundle) -> tuple[Engine, Watched, Watched]:
    """Return a mixed engine, with its session of small batches and that of large ones."""
    opened = open_engine(bundle, "cpu", 0, "mixed")
    small, large = Watched(opened.session), Watched(opened.large_batch_session)
    return (
        Engine(bundle=bundle, provider="cpu", precision="mixed", session=small, large_batch_session=large),
        small,
        large,
    )


@pytest.mark.parametrize("count", [1, 3, 5, 8])
def test_small_batches_are_in_float32(bundle: Bundle, count: int) -> None:
    """Up to 8 images, padding aside."""
    mixed, small, large = watched(bundle)
    mixed.infer(images_of(count))
    assert (small.sizes, large.sizes) == ([1 << (count - 1).bit_length()], [])


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(9, [16]), (16, [16]), (17, [32]), (256, [256]), (257, [256, 1]), (515, [256, 256, 4])],
)
def test_large_batches_are_in_integers_whole(bundle: Bundle, count: int, sizes: list[int]) -> None:
    """From 9 images on, also the few that a last piece has: nobody's bits depend on where a batch is cut."""
    mixed, small, large = watched(bundle)
    outputs = mixed.infer(images_of(count))
    assert (small.sizes, large.sizes) == ([], sizes)
    alone = open_engine(bundle, "cpu", 0, "integer").infer(images_of(count))
    assert outputs.logits.tobytes() == alone.logits.tobytes()


def test_the_two_differ_by_less_than_parity_allows(bundle: Bundle) -> None:
    """Integers are no other name for float32: some last digit differs, and none by more than 1e-5 of the largest."""
    images = images_of(256)
    floats = open_engine(bundle, "cpu", 0, "float32").infer(images).logits
    integers = open_engine(bundle, "cpu", 0, "integer").infer(images).logits
    assert floats.tobytes() != integers.tobytes()
    difference = np.abs(floats - integers).max(axis=1)
    assert (difference <= 1e-5 * np.maximum(1, np.abs(floats).max(axis=1))).all()


@pytest.mark.parametrize("arithmetic", get_args(Precision))
def test_an_answer_depends_on_its_batch_only_where_that_is_said(
    bundle: Bundle, arithmetic: Precision
) -> None:
    """In one arithmetic every size gives the same bits; `mixed` has two kinds of batches."""
    opened = open_engine(bundle, "cpu", 0, arithmetic)
    images = images_of(255)
    whole = opened.infer(images).logits
    for size in (1, 3, 5, 15, 51, 85):  # whole pieces: the last one is as large as the others
        pieces = [opened.infer(images[start : start + size]).logits for start in range(0, 255, size)]
        same = np.concatenate(pieces).tobytes() == whole.tobytes()
        assert same == (arithmetic != "mixed" or size > 8), size


def wrong_graph() -> bytes:
    """Return a sound graph in integers whose classes stand in another order."""
    right = a_linear()
    return in_integers(Linear(right.weights[:, ::-1].copy(), right.bias[::-1].copy()).graph())


def wrong_when(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, **sizes: Any) -> None:
    """Have the graph in integers answer wrongly for some sizes of batches only."""
    session, published = onnxruntime.InferenceSession, bundle.read(INTEGER_ONNX_FILE)

    class Wrong:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def run(self, names: list[str], feed: dict[str, Pixels]) -> Any:
            logits, probabilities = self.inner.run(names, feed)
            alone = len(feed["images"]) == 1
            return [logits, probabilities * np.float32(0.5 if alone == sizes["alone"] else 1)]

    def opened(graph: bytes, *arguments: Any, **options: Any) -> Any:
        inner = session(graph, *arguments, **options)
        return Wrong(inner) if graph == published else inner

    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)


@pytest.mark.parametrize("arithmetic", ["integer", "mixed"])
def test_a_wrong_second_graph_alone_is_refused(tmp_path: Path, arithmetic: Precision) -> None:
    """Its golden answers are compared too, though the five examples are a small batch; float32 stays servable."""
    bundle = publish_synthetic(tmp_path, integer=wrong_graph())
    with pytest.raises(GoldenMismatchError, match=rf"in one batch with {INTEGER_ONNX_FILE} on CPU"):
        open_engine(bundle, "cpu", 0, arithmetic)
    assert open_engine(bundle, "cpu", 0, "float32").precision == "float32"


@pytest.mark.parametrize(("alone", "how"), [(True, "one by one"), (False, "in one batch")])
def test_the_second_graph_is_replayed_in_both_sizes(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, alone: bool, how: str
) -> None:
    """Whole and one by one, each by the very session that will answer."""
    wrong_when(bundle, monkeypatch, alone=alone)
    with pytest.raises(GoldenMismatchError, match=rf"{how} with {INTEGER_ONNX_FILE}"):
        open_engine(bundle, "cpu", 0, "mixed")


def test_a_second_graph_that_is_none_is_refused(tmp_path: Path) -> None:
    """A file without a graph, and a graph of other classes: the sentence names the file."""
    narrow = Linear(a_linear().weights[:, :9].copy(), a_linear().bias[:9].copy())
    for place, graph in enumerate((NO_GRAPH, in_integers(narrow.graph(classes=9)))):
        bundle = publish_synthetic(tmp_path / str(place), integer=graph)
        with pytest.raises(InvalidBundleError, match=rf"^{INTEGER_ONNX_FILE} "):
            open_engine(bundle, "cpu", 0, "mixed")


def test_sessions_are_built_from_the_bytes_that_were_verified(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pure arithmetic loads its own graph alone, the mixed one both."""
    given: list[bytes] = []
    session = onnxruntime.InferenceSession

    def noting(graph: bytes, *arguments: Any, **options: Any) -> Any:
        given.append(graph)
        return session(graph, *arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", noting)
    floats, integers = ((bundle.path / name).read_bytes() for name in (ONNX_FILE, INTEGER_ONNX_FILE))
    for arithmetic, expected in (
        ("float32", [floats]),
        ("integer", [integers]),
        ("mixed", [floats, integers]),
    ):
        given.clear()
        open_engine(bundle, "cpu", 0, arithmetic)  # type: ignore[arg-type]
        assert given == expected


@pytest.mark.usefixtures("processor")
def test_a_wrong_second_graph_keeps_a_version_from_being_served(tmp_path: Path) -> None:
    """The version that serves goes on; without one the setting is the way out, and the reason names the file."""
    good = publish_synthetic(tmp_path)
    publish_synthetic(tmp_path, integer=wrong_graph())
    started = ModelStore.start(ServiceSettings(model=good.path.parent, provider="cpu"))
    report = started.report()
    assert (report["model"]["version"], report["arithmetic"]) == (1, "mixed")
    assert INTEGER_ONNX_FILE in report["refused"][0]["reason"]
    floats = ModelStore.start(
        ServiceSettings(model=good.path.parent, provider="cpu", arithmetic="float32")
    ).report()
    assert (floats["model"]["version"], floats["arithmetic"], floats["refused"]) == (2, "float32", [])


@pytest.mark.usefixtures("processor")
def test_integers_that_are_asked_for_are_a_reason_to_refuse_a_version(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A newer version without the graph is passed over, and the ready line says the arithmetic."""
    good = publish_synthetic(tmp_path)
    publish_synthetic(tmp_path, integer=None)
    with caplog.at_level(logging.INFO, "glyph"):
        started = ModelStore.start(
            ServiceSettings(model=good.path.parent, provider="cpu", arithmetic="integer")
        )
    assert started.engine().bundle.version == 1
    assert "ready: synthetic version 1 on cpu, first layer in integer precision" in caplog.text
    assert "integers were requested for the first layer, and version 2 has no" in caplog.text


@pytest.mark.parametrize("worker", ["inference", "gthread"])
def test_a_service_says_and_computes_what_it_is_set_to(bundle: Bundle, tmp_path: Path, worker: str) -> None:
    """By either worker class: what is said on each route, and the bits of batches of every size."""
    expected = open_engine(bundle, "cpu", 0, "integer")
    bodies = [images_of(count) for count in (1, 5, 40, 300)] * 4
    with running(
        tmp_path, until="/readyz", model=bundle.path.parent, worker=worker, arithmetic="integer"
    ) as service:
        assert service.ask("GET", "/readyz").json()["arithmetic"] == "integer"
        assert service.ask("GET", "/metadata").json()["arithmetic"] == "integer"
        model = service.ask("GET", "/v2/models/synthetic").json()
        assert model["properties"]["arithmetic"] == "integer"

        def posted(images: Pixels) -> list[dict[str, float]]:
            answer = service.ask(
                "POST", "/predict", images.tobytes(), Content_Type="application/octet-stream"
            )
            return [prediction["probabilities"] for prediction in answer.json()["predictions"]]

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(posted, bodies))
    for images, answered in zip(bodies, answers, strict=True):
        found = np.array([[*probabilities.values()] for probabilities in answered], dtype=np.float32)
        assert found.tobytes() == expected.infer(images).probabilities.tobytes()


def test_the_engines_table_fits_the_settings() -> None:
    """The setting's sentence names the size that the engine has."""
    description = str(ServiceSettings.model_fields["arithmetic"].description)
    assert f"batches of more than {engine.LARGEST_FLOAT32} images" in description
    assert engine.LARGEST_FLOAT32 in engine.BUCKETS
