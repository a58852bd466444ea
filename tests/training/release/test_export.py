"""The export: equal to the trained module, and rejected when it is not."""

import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from tests.conftest import ROOT
from training.errors import ExportError
from training.model.mlp import MLP, Standardisation
from training.release import export, parity
from training.settings import ModelSettings

TEMPERATURE = 1.7


@dataclass(frozen=True)
class Exported:
    """A network, and where its exported files lie."""

    directory: Path
    model: MLP
    standardise: Standardisation
    images: npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A random network with dropout, exported."""
    torch.manual_seed(3)
    model = MLP(ModelSettings(hidden=(40, 30), dropout=(0.4,)), 7).eval()
    standardise = Standardisation(mean=33.3, deviation=78.6)
    images = np.random.default_rng(0).integers(0, 256, (300, 28, 28), dtype=np.uint8)
    directory = tmp_path_factory.mktemp("export")
    export.export(export.ExportedModel(model, standardise, TEMPERATURE), directory)
    return Exported(directory, model, standardise, images)


@pytest.fixture
def copy(exported: Exported, tmp_path: Path) -> Path:
    """The exported files, to be broken."""
    shutil.copytree(exported.directory, tmp_path, dirs_exist_ok=True)
    return tmp_path


def prove(exported: Exported, directory: Path) -> object:
    """Prove the files of another directory."""
    return parity.prove(directory, exported.model, exported.standardise, exported.images)


def edit(directory: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    """Change the graph on disk."""
    model = onnx.load(str(directory / "model.onnx"))
    change(model)
    (directory / "model.onnx").write_bytes(model.SerializeToString())


def test_every_form_is_proven_over_all_images(exported: Exported) -> None:
    """The three forms agree with the module on every image, and say over how many."""
    proven = parity.prove(exported.directory, exported.model, exported.standardise, exported.images)
    assert {"torchscript", "torch_export", "onnx_cpu"} <= set(proven)
    assert all(p.images == 300 and p.labels_differing == 0 for p in proven.values())
    assert all(p.max_relative_difference <= parity.LOGIT_TOLERANCE for p in proven.values())


@pytest.mark.parametrize("batch", [1, 2, 3, 64, 300])
def test_any_batch_size_gives_the_same_answers(exported: Exported, batch: int) -> None:
    """ONNX Runtime answers each batch size with the float64 softmax of float64 logits."""
    session = onnxruntime.InferenceSession(
        exported.directory / "model.onnx", providers=["CPUExecutionProvider"]
    )
    logits, probabilities = session.run(None, {"images": exported.images[:batch]})
    x = (exported.images[:batch].reshape(batch, 784).astype(np.float64) - 33.3) / 78.6
    layers = [layer for layer in exported.model if isinstance(layer, nn.Linear)]
    for layer in layers:
        x = x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
        x = np.maximum(x, 0) if layer is not layers[-1] else x
    np.testing.assert_allclose(logits, x, atol=1e-5)
    e = np.exp(x / TEMPERATURE)
    np.testing.assert_allclose(probabilities, e / e.sum(1, keepdims=True), atol=1e-6)


def test_the_graph_has_no_dropout_and_no_paths(exported: Exported) -> None:
    """The operators are the network's own, and nothing names the machine it was made on."""
    model = onnx.load(str(exported.directory / "model.onnx"))
    assert {node.op_type for node in model.graph.node} == {
        "Reshape",
        "Cast",
        "Gemm",
        "Relu",
        "Div",
        "Softmax",
    }
    here = str(ROOT).encode()
    for name in ("model.onnx", "model.pt", "model.pt2"):
        parts = [(exported.directory / name).read_bytes()]
        if name != "model.onnx":
            with zipfile.ZipFile(exported.directory / name) as archive:
                parts += [archive.read(entry) for entry in archive.namelist()]
        assert not any(here in part or b"site-packages" in part for part in parts), name


def test_a_source_path_of_any_folder_is_rejected(exported: Exported, copy: Path) -> None:
    """Not only the exporter's own folder: layers are defined in another one."""

    def change(model: onnx.ModelProto) -> None:
        model.doc_string = str(ROOT / "training" / "model" / "layers.py")

    edit(copy, change)
    with pytest.raises(ExportError, match="contains paths of source files"):
        prove(exported, copy)


def test_other_weights_are_rejected(exported: Exported, copy: Path) -> None:
    """One weight changed by a thousandth in the graph is noticed."""

    def change(model: onnx.ModelProto) -> None:
        last = next(t for t in model.graph.initializer if tuple(t.dims) == (7, 30))
        values = onnx.numpy_helper.to_array(last).copy()
        values[2, 5] += 1e-3
        last.CopyFrom(onnx.numpy_helper.from_array(values, last.name))

    edit(copy, change)
    with pytest.raises(ExportError, match="onnx_cpu differs from the trained model"):
        prove(exported, copy)


def test_a_training_mode_graph_is_rejected(exported: Exported, copy: Path) -> None:
    """A Dropout node is named as the reason."""

    def change(model: onnx.ModelProto) -> None:
        relu = next(node for node in model.graph.node if node.op_type == "Relu")
        after = f"{relu.output[0]}_dropped"
        for node in model.graph.node:
            for i, name in enumerate(node.input):
                if name == relu.output[0]:
                    node.input[i] = after
        index = list(model.graph.node).index(relu) + 1
        model.graph.node.insert(index, onnx.helper.make_node("Dropout", [relu.output[0]], [after]))

    edit(copy, change)
    with pytest.raises(ExportError, match="Dropout"):
        prove(exported, copy)


def test_a_fixed_batch_is_rejected(exported: Exported, copy: Path) -> None:
    """A graph that takes two images at a time only is not the contract's."""

    def change(model: onnx.ModelProto) -> None:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 2

    edit(copy, change)
    with pytest.raises(ExportError, match="batch axis of 'images' is fixed"):
        prove(exported, copy)


def test_source_paths_are_rejected(exported: Exported, copy: Path) -> None:
    """A path in a node's metadata is noticed."""

    def change(model: onnx.ModelProto) -> None:
        entry = model.graph.node[0].metadata_props.add()
        entry.key, entry.value = "where", "/home/someone/lib/site-packages/torch/nn/modules/linear.py"

    edit(copy, change)
    with pytest.raises(ExportError, match="source files"):
        prove(exported, copy)


def test_external_data_is_rejected(exported: Exported, copy: Path) -> None:
    """Weights in a second file are noticed before the graph is run."""

    def change(model: onnx.ModelProto) -> None:
        onnx.external_data_helper.convert_model_to_external_data(
            model, location="weights.bin", size_threshold=0, convert_attribute=False
        )
        onnx.save(model, str(copy / "model.onnx"))

    model = onnx.load(str(copy / "model.onnx"))
    change(model)
    with pytest.raises(ExportError, match="another file"):
        prove(exported, copy)


def test_one_label_that_differs_is_rejected() -> None:
    """Even within the tolerance of the logits, a changed label counts."""
    expected = np.array([[1.0, 1.0 - 1e-7]], dtype=np.float32)
    with pytest.raises(ExportError, match="1 of 1 labels"):
        parity.measure_parity("it", expected, expected[:, ::-1].copy(), 1e-5)


def test_nan_is_rejected() -> None:
    """NaN is never within a tolerance."""
    expected = np.zeros((1, 2), dtype=np.float32)
    with pytest.raises(ExportError):
        parity.measure_parity("it", expected, np.full((1, 2), np.nan, dtype=np.float32), 1e-5)
