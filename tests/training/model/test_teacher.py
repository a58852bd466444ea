"""Teachers from `model.onnx`: the exported layers bit for bit, no other graph, and no code from a bundle."""

import contextlib
import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from bundle.manifest import ONNX_FILE, TORCH_EXPORT_FILE
from bundle.repository import Bundle, publish, staging
from common.progress import Progress
from imagesets.errors import DataError
from tests.bundle.hostile import ATTACKS, SECRET, Attack, reseal
from tests.bundle.making import fill, some_metadata
from tests.training.sets import archive
from training.__main__ import main
from training.data.dataset import DataSet, polarity
from training.data.loading import load
from training.model.distillation import load_teachers
from training.model.mlp import MLP, Standardisation
from training.model.teacher import layers_from_onnx
from training.release import export
from training.settings import ModelSettings, TrainingSettings

pytestmark = pytest.mark.service  # a network takes a second to export

CLASSES = 3
STANDARDISE = Standardisation(mean=33.3, deviation=78.6)


def served(seed: int = 3, **changes: Any) -> export.ExportedModel:
    """Return a network with random weights and running statistics, as it is exported."""
    torch.manual_seed(seed)
    model = MLP(ModelSettings.model_validate({"hidden": (9, 7), **changes}), CLASSES)
    model.train()
    for _ in range(3):
        model(torch.randn(20, 784))
    for layer in model.linear_layers():
        torch.nn.init.normal_(layer.bias)
    return export.ExportedModel(model.eval(), STANDARDISE, 1.7)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the exported files of a network."""
    directory = tmp_path_factory.mktemp("exported")
    export.export(served(activation="leaky_relu"), directory)
    return directory


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Return a small data set."""
    place = tmp_path_factory.mktemp("data")
    return load(archive(place / "noisy.npz"), mnist_directory=place, progress=Progress(quiet=True))


def publish_teacher(models: Path, exported: Path, data: DataSet) -> Bundle:
    """Publish the exported files as a model that learned from the data."""
    settings = TrainingSettings()
    metadata = some_metadata(
        name="teacher",
        classes=data.classes,
        sample_label=data.classes[0],
        input={"polarity": polarity(data.training.images)},
        dataset={
            "name": data.name,
            "sha256": data.sha256,
            "train": 1,
            "validation": 1,
            "test": 1,
            "split_seed": 0,
        },
        hyperparameters={"test_share": settings.test_share, "test_seed": settings.test_seed},
    )
    with staging(models, "teacher") as directory:
        fill(directory)
        for path in exported.iterdir():
            (directory / path.name).write_bytes(path.read_bytes())
        return publish(directory, metadata)


@pytest.mark.parametrize(
    "changes",
    [
        *({"activation": name} for name in ("relu", "leaky_relu", "elu", "gelu", "tanh", "sigmoid")),
        {"activation": "gelu", "batch_norm": True, "noise": 0.1, "dropout": (0.3,), "input_dropout": 0.1},
        {"hidden": (6, 6, 6, 6), "activation": "elu", "batch_norm": True},
        {"hidden": ()},
    ],
    ids=lambda changes: " ".join(f"{name}={value}" for name, value in changes.items()),
)
def test_a_teacher_is_the_exported_network_bit_for_bit(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Each activation, batch normalisation folded in, no hidden layer: the same numbers of any pixels."""
    network = served(**changes)
    export.export(network, tmp_path)
    layers = layers_from_onnx((tmp_path / ONNX_FILE).read_bytes(), CLASSES)
    pixels = torch.rand(50, 784) * 255
    assert torch.equal(layers(pixels), network.layers(pixels))
    images = pixels.round().to(torch.uint8).reshape(-1, 28, 28)
    assert torch.equal(layers(images.flatten(1).float()), network(images)[0])
    assert not any(parameter.requires_grad for parameter in layers.parameters())


def test_a_layer_without_a_bias_is_one_of_zeros(tmp_path: Path) -> None:
    """The exporter leaves out what is all zero."""
    network = served()
    for layer in network.layers:
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.zeros_(layer.bias)
    export.export(network, tmp_path)
    graph = (tmp_path / ONNX_FILE).read_bytes()
    assert any(
        node.op_type == "Gemm" and len(node.input) == 2 for node in onnx.load_from_string(graph).graph.node
    )
    pixels = torch.rand(50, 784) * 255
    assert torch.equal(layers_from_onnx(graph, CLASSES)(pixels), network.layers(pixels))


def node(model: ModelProto, operator: str, place: int = 0) -> Any:
    """Return one of a graph's nodes."""
    return [one for one in model.graph.node if one.op_type == operator][place]


def set_option(model: ModelProto, operator: str, name: str, value: Any) -> None:
    """Set an attribute of a node."""
    found = node(model, operator)
    kept = [option for option in found.attribute if option.name != name]
    del found.attribute[:]
    found.attribute.extend([*kept, helper.make_attribute(name, value)])


def tensor(model: ModelProto, place: int = 0) -> Any:
    """Return the weights of a layer."""
    name = node(model, "Gemm", place).input[1]
    return next(one for one in model.graph.initializer if one.name == name)


def retype(model: ModelProto) -> None:
    """Make the first weights float64."""
    found = tensor(model)
    found.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(found).astype(np.float64), found.name))


def put_nan(model: ModelProto) -> None:
    """Make one weight NaN."""
    values = numpy_helper.to_array(tensor(model, 1)).copy()
    values[0, 0] = np.nan
    tensor(model, 1).CopyFrom(numpy_helper.from_array(values, tensor(model, 1).name))


def reshape_to(model: ModelProto, *shape: int) -> None:
    """Claim other axes for the first weights."""
    del tensor(model).dims[:]
    tensor(model).dims.extend(shape)


def circle(model: ModelProto) -> None:
    """Let a node be its own source."""
    node(model, "LeakyRelu").input[0] = node(model, "LeakyRelu").output[0]


def rename(model: ModelProto, operator: str, other: str) -> None:
    """Make a node another operator."""
    node(model, operator).op_type = other


def without_layers(model: ModelProto) -> None:
    """Answer with the pixels."""
    cast = node(model, "Cast")
    del model.graph.node[list(model.graph.node).index(cast) + 1 :]
    cast.output[0] = "logits"


def activation_at_the_end(model: ModelProto) -> None:
    """Put an activation behind the last layer."""
    node(model, "Gemm", 2).output[0] = "before"
    model.graph.node.append(helper.make_node("Tanh", ["before"], ["logits"]))


CHANGES: dict[str, tuple[Callable[[ModelProto], object], str]] = {
    "another operator": (
        lambda model: rename(model, "LeakyRelu", "Softplus"),
        "the operator 'Softplus' before",
    ),
    "a matrix product without": (
        lambda model: rename(model, "Gemm", "MatMul"),
        "the operator 'MatMul' before",
    ),
    "a loop": (lambda model: rename(model, "LeakyRelu", "Loop"), "the operator 'Loop' before"),
    "another function": (lambda model: rename(model, "Reshape", "Flatten"), "does not start with the pixels"),
    "another type": (
        lambda model: set_option(model, "Cast", "to", TensorProto.DOUBLE),
        "does not start with the pixels",
    ),
    "an attribute": (lambda model: set_option(model, "LeakyRelu", "beta", 1.0), "the attribute 'beta' of"),
    "an attribute's type": (
        lambda model: set_option(model, "LeakyRelu", "alpha", "0.1"),
        "the attribute 'alpha' of 'LeakyRelu'",
    ),
    "no number": (
        lambda model: set_option(model, "LeakyRelu", "alpha", float("inf")),
        "other attributes than",
    ),
    "scaled": (lambda model: set_option(model, "Gemm", "alpha", 2.0), "without constant weights"),
    "transposed": (lambda model: set_option(model, "Gemm", "transA", 1), "without constant weights"),
    "weights of the input": (
        lambda model: node(model, "Gemm").input.__setitem__(1, "images"),
        "without constant weights",
    ),
    "weights the other way": (lambda model: set_option(model, "Gemm", "transB", 0), "after 784 values"),
    "float64": (retype, "another type or size"),
    "axes that are too many": (lambda model: reshape_to(model, 1 << 40, 784), "another type or size"),
    "a negative axis": (lambda model: reshape_to(model, -1, 784), "another type or size"),
    "no axes": (reshape_to, "another type or size"),
    "numbers missing": (
        lambda model: setattr(tensor(model), "raw_data", tensor(model).raw_data[:-4]),
        "another type or size",
    ),
    "NaN": (put_nan, "not finite"),
    "a circle": (circle, "'leaky_relu' comes from elsewhere"),
    "no way": (lambda model: model.graph.ClearField("node"), "'logits' comes from elsewhere"),
    "no layers": (without_layers, "does not end with a layer of 3"),
    "no pixels": (lambda model: node(model, "Gemm", 2).input.__setitem__(0, "images"), "it has no layers"),
    "an activation at its end": (activation_at_the_end, "does not end with a layer of 3"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_other_graph_is_rejected(exported: Path, change: str) -> None:
    """One that computes something else, or claims what is not so, is rejected with a DataError that says what."""
    model = onnx.load_from_string((exported / ONNX_FILE).read_bytes())
    apply, said = CHANGES[change]
    apply(model)
    with pytest.raises(DataError, match=said) as refusal:
        layers_from_onnx(model.SerializeToString(), CLASSES)
    assert str(refusal.value).startswith(f"{ONNX_FILE} is not a graph that a teacher")


def test_no_graph_and_other_classes_are_rejected(exported: Path) -> None:
    """Bytes that are no protobuf, and a network of as many logits as nobody asked for."""
    with pytest.raises(DataError, match="not an ONNX file"):
        layers_from_onnx(b"this is none", CLASSES)
    with pytest.raises(DataError, match="a layer of 4 logits"):
        layers_from_onnx((exported / ONNX_FILE).read_bytes(), 4)


class Command:
    """A pickle that runs a command where it is loaded."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what a pickle does instead of making an object."""
        return (os.system, (self._command,))


def by_pickle(name: str, content: bytes, command: str) -> bytes:
    """Put a pickle in the place of the example inputs."""
    return pickle.dumps(Command(command)) if name.endswith("sample_inputs/model.pt") else content


def by_expression(name: str, content: bytes, command: str) -> bytes:
    """Put another expression in the place of the symbol of the batch's size."""
    if not name.endswith("models/model.json"):
        return content
    expression = json.dumps(f"__import__('os').system({command!r})")
    changed = re.sub(r'"expr_str": ?"[^"]*"', lambda _: f'"expr_str": {expression}', content.decode())
    assert changed != content.decode()
    return changed.encode()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("payload", [by_pickle, by_expression])
def test_a_prepared_program_runs_no_command(
    tmp_path: Path, exported: Path, data: DataSet, payload: Callable[[str, bytes, str], bytes]
) -> None:
    """A `model.pt2` that runs a command where it is loaded, sealed anew, teaches; and nothing of it is loaded."""
    sign = tmp_path / "ran"
    teacher = publish_teacher(tmp_path / "models", exported, data)
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(exported / TORCH_EXPORT_FILE) as whole,
        zipfile.ZipFile(buffer, "w") as prepared,
    ):
        for name in whole.namelist():
            prepared.writestr(name, payload(name, whole.read(name), f"touch {sign}"))
    with contextlib.suppress(Exception):
        torch.export.load(io.BytesIO(buffer.getvalue()))
    assert sign.exists(), "the file is as harmful as it is meant to be"
    sign.unlink()

    reseal(teacher.path, TORCH_EXPORT_FILE, buffer.getvalue())
    settings = TrainingSettings.model_validate({"teachers": [teacher.path]})
    with contextlib.suppress(Exception):
        load_teachers(settings, data, polarity(data.training.images), torch.device("cpu"))
    assert not sign.exists()
    ensemble = load_teachers(settings, data, polarity(data.training.images), torch.device("cpu"))
    assert ensemble is not None
    assert ensemble.digests == {str(teacher.path): Bundle.open(teacher.path).manifest.digest}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_prepared_teacher_is_rejected(
    tmp_path: Path, exported: Path, data: DataSet, attack: Attack, capsys: pytest.CaptureFixture[str]
) -> None:
    """`fit --teachers` ends with 65 and the sentence that every reader says; nothing is trained."""
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    teacher = publish_teacher(tmp_path / "models", exported, data)
    attack.prepare(teacher.path, secret)
    words = ["fit", "--data", archive(tmp_path / "noisy.npz"), "--device", "cpu", "--threads", "1"]
    places = ["--models", str(tmp_path / "m"), "--runs", str(tmp_path / "r"), "--teachers", str(teacher.path)]
    assert main([*words, *places]) == 65
    told = capsys.readouterr().err
    assert f"error: the teacher {teacher.path} cannot be used: " in told
    assert re.search(attack.said, told)
    assert not (tmp_path / "m").exists()
