"""The integer graph: the float graph's weights, exact sums, proven as strictly, and omitted with the reason if not."""

import copy
import json
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bundle.manifest import INTEGER_ONNX_FILE, MANIFEST_FILE, Manifest, Parity
from bundle.verify import problems
from tests.training.sets import archive
from training.__main__ import main
from training.errors import ExportError
from training.model.mlp import MLP, Standardisation
from training.release import export, parity
from training.release.export import ExportedModel
from training.release.integer_graph import integer_graph
from training.settings import ModelSettings

TEMPERATURE = 1.7
STANDARDISE = Standardisation(mean=33.3, deviation=78.6)
BYTE, PIXELS = 255, 784

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def some_images(count: int = 300, seed: int = 0) -> Pixels:
    """Return noise, after an image that is black and one that is white."""
    images = np.random.default_rng(seed).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    images[0], images[1] = 0, BYTE
    return images


def some_weights(kind: str, seed: int = 5) -> Floats:
    """Return weights of 7 columns on their grids: usual ones, and the largest with every sign."""
    random = np.random.default_rng(seed)
    integers = np.clip(np.rint(random.normal(0, 40, (PIXELS, 7))), -127, 127)
    if kind == "extremes":
        integers = np.where(random.random(integers.shape) < 0.5, -127.0, 127.0)
        integers[:, 0], integers[:, 1], integers[:, 2] = 127, -127, 0
    integers[5, integers.any(axis=0)] = 127
    scaled: Floats = (integers * np.float32(2.0) ** -np.arange(8, 15)).astype(np.float32)
    return scaled


def a_network(*, batch_norm: bool) -> MLP:
    """Return a network of seven classes with random weights and statistics, seeded."""
    torch.manual_seed(3)
    network = MLP(ModelSettings(hidden=(40, 30), dropout=(0.4,), batch_norm=batch_norm), 7)
    network(torch.randn(500, PIXELS))
    return network.eval()


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "batch norm"])
def network(request: pytest.FixtureRequest) -> MLP:
    """Return a network with two hidden layers, with or without batch normalisation to fold."""
    return a_network(batch_norm=request.param)


@pytest.fixture
def model(network: MLP) -> ExportedModel:
    """Return the module that is published: folded, with its first layer rounded."""
    return ExportedModel(network, STANDARDISE, TEMPERATURE, quantise=True)


@pytest.fixture
def exported(model: ExportedModel, tmp_path: Path) -> Path:
    """Return where the network is exported, without the graph in integers."""
    export.export(model, tmp_path)
    return tmp_path


def add(model: ExportedModel, directory: Path, images: Pixels | None = None) -> Parity | str:
    """Add the graph in integers, proven over some images."""
    return parity.add_integer_graph(directory, model, some_images() if images is None else images)


def asked(model: ModelProto, images: Pixels, *names: str) -> list[npt.NDArray[Any]]:
    """Return what ONNX Runtime gives for values of the graph, be they its outputs or not."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    known = {value.name for value in model.graph.output}
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # exact without VNNI too
    session = onnxruntime.InferenceSession(
        shown.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found: list[npt.NDArray[Any]] = session.run(list(names), {"images": images})
    return found


@pytest.mark.parametrize("kind", ["usual", "extremes"])
def test_the_weights_are_those_of_the_float_graph(kind: str) -> None:
    """In rational numbers, each scale times its integer is the float32 that the float graph has."""
    weights = some_weights(kind)
    tensors = {
        t.name: numpy_helper.to_array(t) for t in integer_graph(served_graph(weights)).graph.initializer
    }
    integers, scales = tensors["integer_weights"], tensors["weight_scale"]
    assert integers.dtype == np.int8
    assert scales.dtype == np.float32
    for row, column in [(row, column) for row in range(0, PIXELS, 13) for column in range(7)]:
        exact = Fraction(float(scales[column])) * int(integers[row, column])
        assert exact == Fraction(float(weights[row, column]))


def test_weights_off_the_grid_are_refused() -> None:
    """One weight that was not rounded, by its last bit, is enough."""
    weights = some_weights("usual")
    weights[77, 3] = np.nextafter(weights[77, 3], 2)
    with pytest.raises(ExportError, match="first layer are not integers of 8 bits times a scale"):
        integer_graph(served_graph(weights))


@pytest.mark.parametrize("kind", ["usual", "extremes"])
@pytest.mark.parametrize("count", [1, 7, 16, 64, 300])
def test_the_runtimes_sums_are_those_of_64_bit_integers(kind: str, count: int) -> None:
    """The product is NumPy's in int64, to the last unit, at every size of a batch, on any processor."""
    weights = some_weights(kind)
    built = integer_graph(served_graph(weights))
    integers = np.rint(weights / np.float32(2.0) ** -np.arange(8, 15)).astype(np.int64)
    images = some_images(max(count, 2))[:count] if count > 1 else some_images()[1:2]
    (found,) = asked(built, images, "integer_sum")
    assert found.dtype == np.int32
    assert np.array_equal(found, images.reshape(count, PIXELS).astype(np.int64) @ integers)


def served_graph(weights: Floats) -> ModelProto:
    """Return a graph as the export writes it, of one layer with these weights and a softmax, on raw pixels."""
    values = {
        "weight": weights.T.copy(),
        "bias": np.linspace(-1, 1, weights.shape[1], dtype=np.float32),
        "shape": np.array([-1, PIXELS]),
    }
    nodes = [
        helper.make_node("Reshape", ["images", "shape"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Gemm", ["floats", "weight", "bias"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    classes = len(values["bias"])
    graph = helper.make_graph(
        nodes,
        "served",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 28, 28])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", classes])
            for name in ("logits", "probabilities")
        ],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_the_graph_is_the_module_by_two_runtimes(model: ExportedModel, exported: Path) -> None:
    """ONNX Runtime's and ONNX's own reference's logits are float64's of the rounded weights."""
    proven = add(model, exported)
    assert isinstance(proven, Parity)
    assert (proven.images, proven.labels_differing) == (300, 0)
    assert proven.max_relative_difference <= parity.LOGIT_TOLERANCE / 3
    graph = onnx.load(str(exported / INTEGER_ONNX_FILE))
    images = some_images()
    exact = (
        copy.deepcopy(model.layers).double()(torch.from_numpy(images.reshape(300, PIXELS)).double()).numpy()
    )
    (by_runtime,) = asked(graph, images, "logits")
    reference: Any = ReferenceEvaluator(graph)
    (by_reference,) = reference.run(["logits"], {"images": images})
    np.testing.assert_allclose(by_runtime, exact, atol=1e-5)
    np.testing.assert_allclose(by_reference, exact, atol=1e-5)


def test_the_first_layer_is_one_product_of_integers(model: ExportedModel, exported: Path) -> None:
    """The float32 weights are gone, and no operator is one that ONNX does not define."""
    add(model, exported)
    graph = onnx.load(str(exported / INTEGER_ONNX_FILE)).graph
    assert {node.domain for node in graph.node} == {""}
    assert [node.op_type for node in graph.node[:5]] == ["Reshape", "MatMulInteger", "Cast", "Mul", "Add"]
    large = [tensor for tensor in graph.initializer if PIXELS in tensor.dims]
    assert [tensor.data_type for tensor in large] == [TensorProto.INT8]
    assert sum(node.op_type == "Gemm" for node in graph.node) == 2


def test_the_same_graph_gives_the_same_bytes(model: ExportedModel, exported: Path) -> None:
    """Written twice, the file is the same, and the graph that it was made of is not changed."""
    before = (exported / "model.onnx").read_bytes()
    add(model, exported)
    first = (exported / INTEGER_ONNX_FILE).read_bytes()
    add(model, exported)
    assert (exported / INTEGER_ONNX_FILE).read_bytes() == first
    assert (exported / "model.onnx").read_bytes() == before


def _other_first(model: ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Identity", ["images"], ["same"]))
    model.graph.node[1].input[0] = "same"


def _scaled_pixels(model: ModelProto) -> None:
    model.graph.node[2].input[0] = "elsewhere"


def _pixels_elsewhere(model: ModelProto) -> None:
    _scaled_pixels(model)
    model.graph.node[3].input[0] = "floats"


def _pixels_twice(model: ModelProto) -> None:
    model.graph.node[3].input[0] = "floats"


def _no_bias(model: ModelProto) -> None:
    del model.graph.node[2].input[2]


def _half(model: ModelProto) -> None:
    model.graph.node[2].attribute.append(helper.make_attribute("alpha", 0.5))


def _other_size(model: ModelProto) -> None:
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "weight")
    weight.CopyFrom(numpy_helper.from_array(np.zeros((7, 100), np.float32), "weight"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_other_first, "first operator is not a matrix product of the raw pixels"),
        (_scaled_pixels, "is not the raw pixels"),
        (_pixels_elsewhere, "is not the raw pixels"),
        (_pixels_twice, "is not the raw pixels"),
        (_no_bias, "does not have constant weights and a bias"),
        (_half, "does not have constant weights and a bias"),
        (_other_size, r"first matrix is float32\[100, 7\]"),
    ],
)
def test_a_graph_of_another_shape_is_rejected(change: Callable[[ModelProto], None], said: str) -> None:
    """Only pixels as they come can be multiplied as bytes; each other beginning is named."""
    graph = served_graph(some_weights("usual"))
    integer_graph(graph)
    change(graph)
    with pytest.raises(ExportError, match=said):
        integer_graph(graph)


def test_a_graph_that_differs_is_left_out_with_the_reason(model: ExportedModel, exported: Path) -> None:
    """There is no file then, and the sentence has the figures."""
    with torch.no_grad():
        model.first_layer.bias.add_(0.01)
    reason = add(model, exported)
    assert isinstance(reason, str)
    assert re.match(r"onnx_cpu_integer differs from the trained model: .* \(1e-05 is allowed\)", reason)
    assert not (exported / INTEGER_ONNX_FILE).exists()


def test_weights_that_are_not_rounded_leave_it_out(network: MLP, tmp_path: Path) -> None:
    """The float weights are not taken for integers, however close: the reason is theirs."""
    unrounded = ExportedModel(network, STANDARDISE, TEMPERATURE)
    export.export(unrounded, tmp_path)
    assert (
        add(unrounded, tmp_path) == "the weights of its first layer are not integers of 8 bits times a scale"
    )
    assert not (tmp_path / INTEGER_ONNX_FILE).exists()


def test_one_other_label_leaves_it_out(
    model: ExportedModel, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within every tolerance, a label that is another one is enough."""
    monkeypatch.setattr(parity, "LOGIT_TOLERANCE", 10)
    monkeypatch.setattr(parity, "GOLDEN_TOLERANCE", 10)
    images = some_images(3)
    assert isinstance(add(model, exported, images), Parity)

    def other_first(answers: Floats) -> Floats:
        answers[0] = np.roll(answers[0], 1)
        return answers

    inner = parity._onnx
    monkeypatch.setattr(
        parity, "_onnx", lambda path, provider: lambda batch: other_first(inner(path, provider)(batch))
    )
    assert "1 of 3 labels" in str(add(model, exported, images))
    assert not (exported / INTEGER_ONNX_FILE).exists()


def test_what_a_server_would_reject_is_omitted(
    model: ExportedModel, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where logits are large, the allowed difference could be more than a golden example's tolerance."""
    monkeypatch.setattr(parity, "GOLDEN_TOLERANCE", 1e-9)
    assert "a probability could be off by" in str(add(model, exported))
    assert not (exported / INTEGER_ONNX_FILE).exists()


def _fixed_batch(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


def _a_path(model: ModelProto) -> None:
    model.doc_string = "/usr/lib/python3/site-packages/torch"


@pytest.mark.parametrize(("change", "said"), [(_fixed_batch, "batch axis"), (_a_path, "source files")])
def test_the_file_is_inspected_as_the_other_is(
    model: ExportedModel,
    exported: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[ModelProto], None],
    said: str,
) -> None:
    """A fixed batch axis or the path of a source file leaves it out."""

    def changed(graph: ModelProto) -> ModelProto:
        built = integer_graph(graph)
        change(built)
        return built

    monkeypatch.setattr(parity, "integer_graph", changed)
    assert said in str(add(model, exported))
    assert not (exported / INTEGER_ONNX_FILE).exists()


def fit(tmp_path: Path, *options: str) -> Path:
    """Train for one epoch by the command, and return the version."""
    tmp_path.mkdir(exist_ok=True)
    archive(tmp_path / "noisy.npz")
    places = ["--models", str(tmp_path / "models"), "--runs", str(tmp_path / "runs")]
    small = ["--epochs", "1", "--hidden", "16", "--threads", "1", "--device", "cpu"]
    assert main(["fit", *places, *small, *options, "--data", f"npz:{tmp_path / 'noisy.npz'}"]) == 0
    return tmp_path / "models" / "noisy" / "1"


def test_the_job_publishes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file is in the manifest with its hash and its parity over the whole test set, in the log and the report."""
    version = fit(tmp_path)
    assert problems(version) == []
    manifest = Manifest.from_bytes((version / MANIFEST_FILE).read_bytes())
    assert INTEGER_ONNX_FILE in manifest.files
    proven = manifest.parity["onnx_cpu_integer"]
    assert (proven.images, proven.labels_differing) == (manifest.dataset.test, 0)
    assert "omitted" not in json.loads((version / MANIFEST_FILE).read_bytes())
    assert "onnx_cpu_integer" in (version / "report.html").read_text()
    assert "onnx_cpu_integer" in "".join(capsys.readouterr())


def test_the_job_says_why_it_left_it_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the bundle is whole, and log, manifest and report have the reason."""

    def reject(_: ModelProto) -> ModelProto:
        raise ExportError("its first operator is a <surprise>")

    monkeypatch.setattr(parity, "integer_graph", reject)
    version = fit(tmp_path)
    assert problems(version) == []
    manifest = Manifest.from_bytes((version / MANIFEST_FILE).read_bytes())
    assert INTEGER_ONNX_FILE not in manifest.files
    assert "onnx_cpu_integer" not in manifest.parity
    assert manifest.omitted == {INTEGER_ONNX_FILE: "its first operator is a <surprise>"}
    said = f"{INTEGER_ONNX_FILE} is omitted: its first operator is a"
    assert f"{said} &lt;surprise&gt;." in (version / "report.html").read_text()
    assert f"{said} <surprise>; " in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--first-layer", "float32"], "the weights of its first layer are float32 (first_layer)"),
        (["--hidden", ""], "a network without hidden layers is not rounded to int8"),
    ],
)
def test_a_network_that_is_not_rounded_has_no_integer_graph(
    tmp_path: Path, options: list[str], reason: str
) -> None:
    """The manifest has the reason and no word of rounding, and report and card say that the weights are float32."""
    version = fit(tmp_path, *options)
    manifest = Manifest.from_bytes((version / MANIFEST_FILE).read_bytes())
    assert manifest.omitted == {INTEGER_ONNX_FILE: reason}
    assert "quantisation" not in json.loads((version / MANIFEST_FILE).read_bytes())
    assert "first layer&#x27;s weights are float32." in (version / "report.html").read_text()
    assert r"first layer\'s weights are float32." in (version / "MODEL_CARD.md").read_text()


def test_what_rounding_cost_is_published(tmp_path: Path) -> None:
    """Computed again from the published graph and a training without rounding, which has the weights before."""
    rounded = fit(tmp_path / "rounded")
    exact = fit(tmp_path / "exact", "--first-layer", "float32")
    after, before = (
        Manifest.from_bytes((version / MANIFEST_FILE).read_bytes()) for version in (rounded, exact)
    )
    assert after.quantisation is not None
    assert after.quantisation.accuracy == before.test.accuracy
    assert after.quantisation.nll == pytest.approx(before.test.nll, rel=1e-6)
    assert after.test.nll != before.test.nll
    said = f"the loss {before.test.nll:.4f} and {after.test.nll:.4f} nats"
    assert said in (rounded / "report.html").read_text()
    assert said in (rounded / "MODEL_CARD.md").read_text()
