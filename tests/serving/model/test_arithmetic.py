"""Which graph computes: by the policy, the processor and the version's files; and that it is exact."""

import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from bench.support.models import NO_GRAPH, Linear, a_linear, in_integers, publish_synthetic
from bench.support.processes import running
from bundle.errors import GoldenMismatchError, InvalidBundleError
from bundle.manifest import INTEGER_ONNX_FILE, ONNX_FILE
from bundle.repository import Bundle
from bundle.verify import problems
from serving.model import engine
from serving.model.engine import Precision, choose_precision, open_engine
from serving.model.store import ModelStore
from serving.settings import ServiceSettings
from serving.system import cpus

VNNI = "flags\t\t: fpu sse2 avx512f avx512_vnni arch_capabilities"
EXACT = {
    "AVX-512 VNNI": VNNI,
    "AVX VNNI": "flags\t\t: fpu avx2 avx_vnni",
    "AMX": "flags\t\t: fpu amx_tile amx_int8 amx_bf16",
    "Arm's dot products": "processor\t: 0\nFeatures\t: fp asimd asimddp",
    "Arm's products of matrices": "processor\t: 0\nFeatures\t: fp asimd i8mm",
}
OTHERS = {
    "AVX-512 alone": "flags\t\t: fpu sse2 avx2 avx512f avx512bw",
    "AMX without integers": "flags\t\t: amx_bf16 amx_tile",
    "a name that only begins so": "flags\t\t: avx512_vnni_more",
    "an older Arm processor": "Features\t: fp asimd crc32",
    "another line": "model name\t: avx512_vnni\nflags\t\t: fpu",
    "nothing": "",
}

has_vnni = cpus.multiplies_bytes()
Pixels = npt.NDArray[np.uint8]


@pytest.fixture
def processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that stands for /proc/cpuinfo, of a processor with VNNI."""
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\n{VNNI}\n\nprocessor\t: 1\n{VNNI}\n")
    monkeypatch.setattr(cpus, "CPUINFO", path)
    return path


@pytest.fixture
def old(tmp_path: Path) -> Bundle:
    """Return a bundle as an older Glyph published it."""
    return publish_synthetic(tmp_path / "old", integer=None)


def images_of(count: int) -> Pixels:
    """Return noise."""
    return np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)


def test_a_processor_multiplies_bytes_by_its_flags(processor: Path) -> None:
    """The instructions that add products in 32 bits count, of either maker, and nothing that only resembles them."""
    for line in EXACT.values():
        processor.write_text(f"{line}\n")
        assert cpus.multiplies_bytes()
    for line in OTHERS.values():
        processor.write_text(f"{line}\n")
        assert not cpus.multiplies_bytes()
    processor.unlink()
    assert not cpus.multiplies_bytes()


def test_a_mac_is_asked_for_arms_dot_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By sysctl, which prints 1 or 0, fails for a name that an Intel processor has not, or may be missing."""
    monkeypatch.setattr(sys, "platform", "darwin")
    program = tmp_path / "sysctl"
    for script, expected in (("echo 1", True), ("echo 0", False), ("exit 1", False)):
        program.write_text(f'#!/bin/sh\n[ "$*" = "-n hw.optional.arm.FEAT_DotProd" ] || exit 2\n{script}\n')
        program.chmod(0o700)
        monkeypatch.setattr(cpus, "SYSCTL", (str(program), *cpus.SYSCTL[1:]))
        assert cpus.multiplies_bytes() == expected
    program.unlink()
    assert not cpus.multiplies_bytes()


@pytest.mark.parametrize(
    ("policy", "vnni", "provider", "chosen"),
    [
        ("auto", True, "cpu", "integer"),
        ("auto", False, "cpu", "float32"),
        ("float32", True, "cpu", "float32"),
        ("integer", True, "cpu", "integer"),
        ("integer", False, "cpu", "integer"),
        ("auto", True, "cuda", "float32"),
        ("integer", True, "cuda", "float32"),
    ],
)
def test_the_policy_the_processor_and_the_provider_decide(
    bundle: Bundle, processor: Path, policy: Any, vnni: bool, provider: Any, chosen: str
) -> None:
    """`auto` looks at the processor, the others do not, and CUDA is always float32."""
    if not vnni:
        processor.write_text(OTHERS["AVX-512 alone"])
    assert choose_precision(policy, bundle, provider) == chosen


def test_auto_says_why_it_is_float32(
    bundle: Bundle, processor: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The reason is the processor's."""
    processor.write_text(OTHERS["AVX-512 alone"])
    with caplog.at_level(logging.INFO, "glyph"):
        choose_precision("auto", bundle, "cpu")
    assert "float32 (auto, because this processor has no instructions for products of bytes" in caplog.text


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


def test_the_two_differ_by_less_than_parity_allows(bundle: Bundle) -> None:
    """Integers are no other name for float32: some last digit differs, and none by more than 1e-5 of the largest."""
    images = images_of(256)
    floats = open_engine(bundle, "cpu", 0, "float32").infer(images).logits
    integers = open_engine(bundle, "cpu", 0, "integer").infer(images).logits
    assert floats.tobytes() != integers.tobytes()
    difference = np.abs(floats - integers).max(axis=1)
    assert (difference <= 1e-5 * np.maximum(1, np.abs(floats).max(axis=1))).all()


@pytest.mark.parametrize("arithmetic", get_args(Precision))
def test_an_answer_does_not_depend_on_its_batch(bundle: Bundle, arithmetic: Precision) -> None:
    """A single layer gives every size of batch the same bits, in either precision."""
    opened = open_engine(bundle, "cpu", 0, arithmetic)
    images = images_of(255)
    whole = opened.infer(images).logits
    for size in (1, 3, 5, 15, 51, 85):
        pieces = [opened.infer(images[start : start + size]).logits for start in range(0, 255, size)]
        assert np.concatenate(pieces).tobytes() == whole.tobytes(), size


def extremes() -> tuple[Linear, Pixels]:
    """Return weights of all 127, all -127, and both by turns; and images that are white, gray, and white by halves."""
    integers = np.full((784, 10), 127.0)
    integers[:, 1] = -127
    for column in range(2, 10):
        integers[column % 2 :: column, column] = -127
    images = np.full((8, 784), 255, np.uint8)
    images[1], images[2, ::2], images[3, 1::2], images[4, :392], images[5:] = 128, 0, 0, 0, 254
    weights = (integers * 2.0**-10).astype(np.float32)
    return Linear(weights, np.zeros(10, np.float32)), images.reshape(8, 28, 28)


def unsigned_weights(session: Any) -> bool:
    """Return whether ONNX Runtime was told to make the weights unsigned."""
    try:
        entry: str = session.get_session_options().get_session_config_entry("session.x64quantprecision")
    except RuntimeError:  # it was told nothing
        return False
    return entry == "1"


@pytest.mark.parametrize("vnni", [True, False])
@pytest.mark.parametrize("count", [1, 2, 7, 8, 64])
def test_the_largest_weights_and_pixels_neither_saturate_nor_wrap(
    tmp_path: Path, processor: Path, vnni: bool, count: int
) -> None:
    """784 * 255 * 127 by each kernel that a processor may have: that of its dot products, and the one without them.

    The second is ONNX Runtime's for unsigned bytes, which a processor that only says that it has no VNNI takes too.
    """
    if vnni and not has_vnni:
        pytest.skip("this processor has no instructions for products of bytes: auto is float32 here")
    processor.write_text(VNNI if vnni else OTHERS["AVX-512 alone"])
    linear, images = extremes()
    images = np.resize(images, (count, 28, 28))
    graph = in_integers(linear.graph())
    session = engine._create_session(
        INTEGER_ONNX_FILE, graph, "cpu", 0, publish_synthetic(tmp_path / "models").manifest
    )
    assert unsigned_weights(session) == (not vnni)
    (logits,) = session.run(["logits"], {"images": images})
    whole = images.reshape(count, 784).astype(np.int64) @ np.rint(linear.weights * 2.0**10).astype(np.int64)
    assert np.abs(whole).max() == 784 * 255 * 127
    assert np.array_equal(logits, (whole.astype(np.float32) * np.float32(2.0**-10)))


def three_digits(linear: Linear) -> bytes:
    """Return the graph of an older Glyph: weights of three digits of base 128, and a product of bytes for each."""
    scales = np.abs(linear.weights).max(axis=0) / np.float32(64)
    left = np.rint(linear.weights.astype(np.float64) / scales * 128**2).astype(np.int64)
    model = onnx.load_from_string(linear.graph())
    nodes, tensors, total = [model.graph.node[0]], [], "bias"
    for place in (2, 1, 0):
        digit = (left + 64) % 128 - 64 if place else left
        left = (left - digit) // 128
        names = [f"{name}_{place}" for name in ("weights", "scale", "sum", "float", "part", "total")]
        weights, scale, summed, floats, part, added = names
        tensors += [
            numpy_helper.from_array(digit.astype(np.int8), weights),
            numpy_helper.from_array((scales / np.float32(128**place)).astype(np.float32), scale),
        ]
        nodes += [
            helper.make_node("MatMulInteger", ["flat", weights], [summed]),
            helper.make_node("Cast", [summed], [floats], to=TensorProto.FLOAT),
            helper.make_node("Mul", [floats, scale], [part]),
            helper.make_node("Add", [total, part], [added if place else "logits"]),
        ]
        total = added
    softmax = model.graph.node[-1]
    del model.graph.node[:]
    model.graph.node.extend([*nodes, softmax])
    model.graph.initializer.extend(tensors)
    serialized: bytes = model.SerializeToString()
    return serialized


@pytest.mark.parametrize("vnni", [True, False])
def test_the_graph_of_an_older_glyph_is_served(
    tmp_path: Path, processor: Path, linear: Linear, vnni: bool
) -> None:
    """Its three products are valid ONNX, and its golden examples are replayed as any other's."""
    if vnni and not has_vnni:
        pytest.skip("this processor has no instructions for products of bytes: auto is float32 here")
    processor.write_text(VNNI if vnni else OTHERS["AVX-512 alone"])
    older = publish_synthetic(tmp_path / "models", integer=three_digits(linear))
    opened = open_engine(older, "cpu", 0, "integer")
    for count in (1, 9, 300):
        found = opened.infer(images_of(count)).probabilities
        assert np.allclose(found, linear.probabilities(images_of(count)), atol=1e-5)


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


def test_a_wrong_second_graph_alone_is_refused(tmp_path: Path) -> None:
    """Its golden answers are compared, and float32 stays servable."""
    bundle = publish_synthetic(tmp_path, integer=wrong_graph())
    with pytest.raises(GoldenMismatchError, match=rf"in one batch with {INTEGER_ONNX_FILE} on CPU"):
        open_engine(bundle, "cpu", 0, "integer")
    assert open_engine(bundle, "cpu", 0, "float32").precision == "float32"


@pytest.mark.parametrize(("alone", "how"), [(True, "one by one"), (False, "in one batch")])
def test_the_second_graph_is_replayed_in_both_sizes(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, alone: bool, how: str
) -> None:
    """Whole and one by one, each by the very session that will answer."""
    wrong_when(bundle, monkeypatch, alone=alone)
    with pytest.raises(GoldenMismatchError, match=rf"{how} with {INTEGER_ONNX_FILE}"):
        open_engine(bundle, "cpu", 0, "integer")


def test_a_second_graph_that_is_none_is_refused(tmp_path: Path) -> None:
    """A file without a graph, and a graph of other classes: the sentence names the file."""
    narrow = Linear(a_linear().weights[:, :9].copy(), a_linear().bias[:9].copy())
    for place, graph in enumerate((NO_GRAPH, in_integers(narrow.graph(classes=9)))):
        bundle = publish_synthetic(tmp_path / str(place), integer=graph)
        with pytest.raises(InvalidBundleError, match=rf"^{INTEGER_ONNX_FILE} "):
            open_engine(bundle, "cpu", 0, "integer")


def test_sessions_are_built_from_the_bytes_that_were_verified(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each precision loads its own graph alone."""
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
    assert (report["model"]["version"], report["arithmetic"]) == (1, "integer")
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
