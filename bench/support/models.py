"""A small published bundle without torch and without training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.support.pictures import a_digit, png
from bundle.golden import GoldenExamples
from bundle.images.contract import Resize
from bundle.manifest import (
    FILES,
    GOLDEN_FILE,
    INTEGER_ONNX_FILE,
    ONNX_FILE,
    SAMPLE_FILE,
    Dataset,
    Environment,
    Golden,
    Histogram,
    InputContract,
    Metrics,
    ModelMetadata,
    Parity,
    Reference,
)
from bundle.repository import Bundle, publish, staging
from training.release.integer_graph import integer_graph

CLASSES = tuple("0123456789")
NO_GRAPH = b"\x08\x0a"
"""An ONNX file that says which format it has, and nothing else."""


@dataclass(frozen=True)
class Linear:
    """A softmax regression: what the synthetic graph computes, computed by NumPy."""

    weights: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]

    def logits(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """Return `float64[n, classes]`."""
        return images.reshape(len(images), -1).astype(np.float64) @ self.weights + self.bias

    def probabilities(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return `float32[n, classes]`, computed in float64."""
        logits = self.logits(images)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        result: npt.NDArray[np.float32] = (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(
            "f4"
        )
        return result

    def graph(self, batch: str | int = "batch", classes: int = len(CLASSES)) -> bytes:
        """Return the same as an ONNX graph with the contract's signature."""
        nodes = [
            helper.make_node("Reshape", ["images", "shape"], ["flat"]),
            helper.make_node("Cast", ["flat"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Gemm", ["floats", "weights", "bias"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ]
        images = helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, 28, 28])
        outputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, classes])
            for name in ("logits", "probabilities")
        ]
        tensors = [
            numpy_helper.from_array(self.weights, "weights"),
            numpy_helper.from_array(self.bias, "bias"),
            numpy_helper.from_array(np.array([-1, 784]), "shape"),
        ]
        graph = helper.make_graph(nodes, "linear", [images], outputs, tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(model)
        serialized: bytes = model.SerializeToString()
        return serialized


def in_integers(graph: bytes) -> bytes:
    """Return the second graph that a training job would publish beside this one."""
    serialized: bytes = integer_graph(onnx.load_from_string(graph)).SerializeToString()
    return serialized


def endless() -> bytes:
    """Return the graph with a loop in it that takes years: ONNX Runtime is at work until its process ends."""
    return _with_bias(
        helper.make_node("Loop", ["trips", "go", "bias"], ["late"], body=_looping()),
        output="late",
        trips=np.array(1 << 62),
        go=np.array(True),
    )


def greedy(numbers: int) -> bytes:
    """Return the graph with so many float32 in it, of which it uses the first."""
    return _with_bias(
        helper.make_node("ConstantOfShape", ["size"], ["many"]),
        helper.make_node("Gather", ["many", "first"], ["few"]),
        output="few",
        size=np.array([numbers]),
        first=np.zeros(len(CLASSES), np.int64),
    )


def deadly() -> bytes:
    """Return the graph with a division in it that no x86 processor can do: the least int32 by -1. SIGFPE follows."""
    return _with_bias(
        helper.make_node("Div", ["least", "minus"], ["quotient"]),
        helper.make_node("Cast", ["quotient"], ["dead"], to=TensorProto.FLOAT),
        output="dead",
        least=np.full(len(CLASSES), -(1 << 31), np.int32),
        minus=np.array(-1, np.int32),
    )


def _looping() -> onnx.GraphProto:
    """Return the body of a loop that hands on what it gets."""
    types = {
        "i": (TensorProto.INT64, []),
        "go": (TensorProto.BOOL, []),
        "v": (TensorProto.FLOAT, [len(CLASSES)]),
    }
    inputs = [helper.make_tensor_value_info(f"{name}_in", *kind) for name, kind in types.items()]
    outputs = [helper.make_tensor_value_info(f"{name}_out", *types[name]) for name in ("go", "v")]
    nodes = [helper.make_node("Identity", [f"{name}_in"], [f"{name}_out"]) for name in ("go", "v")]
    return helper.make_graph(nodes, "body", inputs, outputs)


def _with_bias(*nodes: onnx.NodeProto, output: str, **tensors: npt.NDArray[Any]) -> bytes:
    """Return the linear graph with the output of these nodes for a bias."""
    model = onnx.load_from_string(a_linear().graph())
    rest = list(model.graph.node)
    (gemm,) = (node for node in rest if node.op_type == "Gemm")
    gemm.input[2] = output
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    model.graph.initializer.extend(numpy_helper.from_array(tensor, name) for name, tensor in tensors.items())
    onnx.checker.check_model(model)
    serialized: bytes = model.SerializeToString()
    return serialized


def metadata(
    linear: Linear,
    sample: npt.NDArray[np.uint8],
    *,
    polarity: str,
    golden: int,
    resize: Resize | None = None,
    name: str = "synthetic",
) -> ModelMetadata:
    """Return metadata as a training job would state them, with made-up measurements."""
    metrics = Metrics(images=10, accuracy=0.5, nll=1, ece=0.1, nll_calibrated=1, ece_calibrated=0.1)
    histogram = Histogram(edges=(0, 128, 256), counts=(5, 5))
    label = CLASSES[int(linear.probabilities(sample[None])[0].argmax())]
    return ModelMetadata(
        name=name,
        created="2026-11-22T00:00:00Z",
        classes=CLASSES,
        input=InputContract(polarity=polarity, resize=resize),
        temperature=1,
        hyperparameters={},
        dataset=Dataset(name="none", sha256={}, train=1, validation=1, test=1, split_seed=0),
        environment=Environment(code_revision="none", python="3", packages={}, device="cpu", threads=1),
        validation=metrics,
        test=metrics,
        parity={
            "onnx_cpu": Parity(
                images=1, max_absolute_difference=0, max_relative_difference=0, labels_differing=0
            )
        },
        golden=Golden(images=golden, tolerance=1e-4),
        sample_label=label,
        reference=Reference(
            mean_ink=histogram,
            border_brightness=histogram,
            confidence=histogram,
            predicted=(1,) * len(CLASSES),
        ),
    )


def a_linear() -> Linear:
    """Return a model with random weights, seeded: integers of 8 bits times a scale for each class."""
    random = np.random.default_rng(7)
    integers = np.clip(np.rint(random.normal(0, 32, (784, len(CLASSES)))), -127, 127)
    integers[0] = 127
    scales = (1 + np.arange(len(CLASSES)) / 16) * 2.0**-15
    bias = random.normal(0, 0.1, len(CLASSES)).astype(np.float32)
    return Linear((integers * scales).astype(np.float32), bias)


def publish_synthetic(
    models: Path,
    *,
    polarity: str = "white-on-black",
    graph: bytes | None = None,
    integer: bytes | None = b"",
    golden_shift: float = 0,
    resize: Resize | None = None,
    name: str = "synthetic",
) -> Bundle:
    """Publish a bundle under a directory of models, sound unless an argument says otherwise.

    Args:
        models: where.
        polarity: of the images.
        graph: to be served in place of the right one, in every arithmetic that `integer` does not give.
        integer: to be served in integer arithmetic in place of the right one; None is a bundle without.
        golden_shift: by how much the golden probabilities are wrong.
        resize: how the training images are said to have been resized.
        name: of the model.
    """
    linear, digit = a_linear(), a_digit()
    images = np.random.default_rng(11).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    probabilities = linear.probabilities(images)
    # The rows still sum to 1: what one class gets, another loses.
    probabilities[:, 0] += golden_shift
    probabilities[:, 1] -= golden_shift
    golden = GoldenExamples(images=images, probabilities=probabilities)
    contents = dict.fromkeys(FILES, b"a placeholder") | {
        ONNX_FILE: graph or linear.graph(),
        GOLDEN_FILE: golden.to_bytes(),
        SAMPLE_FILE: png(digit),
    }
    if integer is not None:
        contents[INTEGER_ONNX_FILE] = integer or graph or in_integers(linear.graph())
    with staging(models, name) as directory:
        for file, content in contents.items():
            (directory / file).write_bytes(content)
        stated = metadata(linear, digit, polarity=polarity, golden=len(images), resize=resize, name=name)
        return publish(directory, stated)
