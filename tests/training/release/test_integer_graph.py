"""The integer graph: exact where it claims to be, proven as strictly as the float graph, and omitted if it is not."""

import json
import re
from collections.abc import Callable
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
from training.release import integer_graph as integers
from training.release.integer_graph import digits, integer_graph
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
    """Return weights of 40 columns: usual ones, or what could break."""
    random = np.random.default_rng(seed)
    weights = random.normal(0, 0.05, (PIXELS, 40)).astype(np.float32)
    if kind == "scales":
        weights *= np.float32(10.0) ** np.linspace(-38, 30, 40, dtype=np.float32)
    elif kind == "extremes":
        weights = np.where(random.random(weights.shape) < 0.5, -1, 1).astype(np.float32)
        weights[:, 0], weights[:, 1], weights[:, 2] = 1, -1, 0
    return weights


def a_network(hidden: tuple[int, ...] = (40, 30)) -> MLP:
    """Return a network of seven classes with random weights, seeded."""
    torch.manual_seed(3)
    return MLP(ModelSettings(hidden=hidden, dropout=(0.4,) if hidden else (0.0,)), 7).eval()


@pytest.fixture(scope="module", params=[(40, 30), ()], ids=["two hidden layers", "none"])
def network(request: pytest.FixtureRequest) -> MLP:
    """Return a network that ends far behind its first layer, or with it."""
    return a_network(request.param)


@pytest.fixture
def exported(network: MLP, tmp_path: Path) -> Path:
    """Return where the network is exported, without the graph in integers."""
    export.export(export.ExportedModel(network, STANDARDISE, TEMPERATURE), tmp_path)
    return tmp_path


def add(network: MLP, directory: Path, images: Pixels | None = None) -> Parity | str:
    """Add the graph in integers, proven over some images."""
    images = some_images() if images is None else images
    return parity.add_integer_graph(directory, network, STANDARDISE, TEMPERATURE, images)


def asked(model: ModelProto, images: Pixels, *names: str) -> list[npt.NDArray[Any]]:
    """Return what ONNX Runtime gives for values of the graph, be they its outputs or not."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    known = {value.name for value in model.graph.output}
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[npt.NDArray[Any]] = session.run(list(names), {"images": images})
    return found


def float_layers(network: MLP) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Return weights `[inputs, outputs]` and biases of the layers, as float64 has them."""
    return [
        (layer.weight.detach().double().numpy().T, layer.bias.detach().double().numpy())
        for layer in network.linear_layers()
    ]


@pytest.mark.parametrize("kind", ["usual", "scales", "extremes"])
def test_three_digits_are_the_weight_to_21_bits(kind: str) -> None:
    """Put together in Python's own integers, the digits are each weight's fixed-point number, rounded once."""
    weights = some_weights(kind)
    scales, planes = digits(weights)
    assert planes.dtype == np.int8
    assert np.abs(planes.astype(int)).max() <= 64
    for column in range(0, weights.shape[1], 3):
        largest = float(np.abs(weights[:, column]).max())
        for row in range(0, PIXELS, 13):
            high, middle, low = (int(plane[row, column]) for plane in planes)
            whole = (high * 128 + middle) * 128 + low
            error = abs(whole * float(scales[column]) / 2**14 - float(weights[row, column]))
            assert error <= max(largest * 2**-21, 1e-31) * (1 + 1e-9), (row, column)


def test_no_sum_can_saturate_or_round() -> None:
    """The largest sums fit the 16 bits of vpmaddubsw and the 24 of a float32's mantissa."""
    for kind in ("usual", "scales", "extremes"):
        _, planes = digits(some_weights(kind))
        largest = int(np.abs(planes.astype(int)).max())
        assert BYTE * largest * 2 <= 2**15 - 1
        assert BYTE * largest * PIXELS <= 2**24
    assert integers.MOST == 64


@pytest.mark.parametrize("kind", ["usual", "extremes"])
@pytest.mark.parametrize("count", [1, 7, 16, 64, 300])
def test_the_runtimes_sums_are_those_of_64_bit_integers(kind: str, count: int) -> None:
    """Each plane's product is NumPy's in int64, to the last unit, at every size of a batch."""
    network = a_network(())
    layer = network.linear_layers()[0]
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(some_weights(kind)[:, :7].T.copy()))
    model = integer_graph(served_graph(network))
    planes = [numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith("_weights")]
    assert len(planes) == 3
    images = some_images(max(count, 2))[:count] if count > 1 else some_images()[1:2]
    flat = images.reshape(count, PIXELS).astype(np.int64)
    sums = asked(model, images, *(f"digit_{place}_sum" for place in range(3)))
    for plane, found in zip(planes, sums, strict=True):
        assert found.dtype == np.int32
        assert np.array_equal(found, flat @ plane.astype(np.int64))


def served_graph(network: MLP) -> ModelProto:
    """Return a graph as the export writes it, of the network's first layer and a softmax, on raw pixels."""
    layer = network.linear_layers()[0]
    values = {
        "weight": layer.weight.detach().numpy(),
        "bias": layer.bias.detach().numpy(),
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


def test_the_graph_is_the_network_by_two_runtimes(network: MLP, exported: Path) -> None:
    """ONNX Runtime's and ONNX's own reference's logits are float64's, within what the export allows."""
    proven = add(network, exported)
    assert isinstance(proven, Parity)
    assert (proven.images, proven.labels_differing) == (300, 0)
    assert proven.max_relative_difference <= parity.LOGIT_TOLERANCE
    model = onnx.load(str(exported / INTEGER_ONNX_FILE))
    images = some_images()
    exact = (images.reshape(300, PIXELS).astype(np.float64) - STANDARDISE.mean) / STANDARDISE.deviation
    layers = float_layers(network)
    for place, (weights, bias) in enumerate(layers):
        exact = exact @ weights + bias
        exact = exact if place == len(layers) - 1 else np.maximum(exact, 0)
    (by_runtime,) = asked(model, images, "logits")
    reference: Any = ReferenceEvaluator(model)
    (by_reference,) = reference.run(["logits"], {"images": images})
    np.testing.assert_allclose(by_runtime, exact, atol=1e-5)
    np.testing.assert_allclose(by_reference, exact, atol=1e-5)


def test_no_float_product_is_left_in_the_first_layer(network: MLP, exported: Path) -> None:
    """The float32 weights are gone, and no operator is one that ONNX does not define."""
    add(network, exported)
    model = onnx.load(str(exported / INTEGER_ONNX_FILE))
    assert {node.domain for node in model.graph.node} == {""}
    large = [tensor for tensor in model.graph.initializer if PIXELS in tensor.dims]
    assert [tensor.data_type for tensor in large] == [TensorProto.INT8] * 3
    assert sum(node.op_type == "Gemm" for node in model.graph.node) == len(network.linear_layers()) - 1


def test_the_same_graph_gives_the_same_bytes(network: MLP, exported: Path) -> None:
    """Written twice, the file is the same, and the graph that it was made of is not changed."""
    before = (exported / "model.onnx").read_bytes()
    add(network, exported)
    first = (exported / INTEGER_ONNX_FILE).read_bytes()
    add(network, exported)
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
    model = served_graph(a_network(()))
    integer_graph(model)
    change(model)
    with pytest.raises(ExportError, match=said):
        integer_graph(model)


def test_too_few_digits_are_left_out_with_the_reason(
    network: MLP, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two planes are off by more than is allowed: there is no file then, and the sentence has the figures."""
    monkeypatch.setattr(integers, "PLANES", 2)
    reason = add(network, exported)
    assert isinstance(reason, str)
    assert re.match(r"onnx_cpu_integer differs from the trained model: .* \(1e-05 is allowed\)", reason)
    assert not (exported / INTEGER_ONNX_FILE).exists()


def test_one_other_label_leaves_it_out(network: MLP, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within every tolerance, a label that is another one is enough."""
    monkeypatch.setattr(integers, "PLANES", 2)
    monkeypatch.setattr(parity, "LOGIT_TOLERANCE", 1)
    monkeypatch.setattr(parity, "GOLDEN_TOLERANCE", 1)
    images = some_images(3)
    assert isinstance(add(network, exported, images), Parity)

    def other_first(answers: Floats) -> Floats:
        answers[0] = np.roll(answers[0], 1)
        return answers

    inner = parity._onnx
    monkeypatch.setattr(
        parity, "_onnx", lambda path, provider: lambda batch: other_first(inner(path, provider)(batch))
    )
    assert "1 of 3 labels" in str(add(network, exported, images))
    assert not (exported / INTEGER_ONNX_FILE).exists()


def test_what_a_server_would_reject_is_omitted(
    network: MLP, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where logits are large, the allowed difference could be more than a golden example's tolerance."""
    monkeypatch.setattr(parity, "GOLDEN_TOLERANCE", 1e-9)
    assert "a probability could be off by" in str(add(network, exported))
    assert not (exported / INTEGER_ONNX_FILE).exists()


def _fixed_batch(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


def _a_path(model: ModelProto) -> None:
    model.doc_string = "/usr/lib/python3/site-packages/torch"


@pytest.mark.parametrize(("change", "said"), [(_fixed_batch, "batch axis"), (_a_path, "source files")])
def test_the_file_is_inspected_as_the_other_is(
    network: MLP,
    exported: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[ModelProto], None],
    said: str,
) -> None:
    """A fixed batch axis or the path of a source file leaves it out."""

    def changed(model: ModelProto) -> ModelProto:
        built = integer_graph(model)
        change(built)
        return built

    monkeypatch.setattr(parity, "integer_graph", changed)
    assert said in str(add(network, exported))
    assert not (exported / INTEGER_ONNX_FILE).exists()


def fit(tmp_path: Path) -> Path:
    """Train for one epoch by the command, and return the version."""
    archive(tmp_path / "noisy.npz")
    places = ["--models", str(tmp_path / "models"), "--runs", str(tmp_path / "runs")]
    small = ["--epochs", "1", "--hidden", "16", "--threads", "1", "--device", "cpu"]
    assert main(["fit", *places, *small, "--data", f"npz:{tmp_path / 'noisy.npz'}"]) == 0
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
