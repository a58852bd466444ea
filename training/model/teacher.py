"""The layers of a teacher, built from the `model.onnx` of a bundle, which is data, and not from `model.pt2`.

`torch.export.load` unpickles the file and evaluates expressions in it, so it executes code, and whoever can write a
bundle can seal its manifest anew. The layers are therefore built here from the graph's operators and tensors. Graphs
with other operators than those that `export.py` writes are rejected.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import nn

from bundle.images.contract import PIXELS
from bundle.manifest import ONNX_FILE
from imagesets.errors import DataError

Options = Mapping[str, float | bytes]
"""A node's attributes by name."""
Tensors = Mapping[str, TensorProto]

GEMM: Options = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
ACTIVATIONS: dict[str, tuple[Options, Callable[..., nn.Module]]] = {
    "Relu": ({}, nn.ReLU),
    "LeakyRelu": ({"alpha": 0.01}, lambda alpha: nn.LeakyReLU(negative_slope=alpha)),
    "Elu": ({"alpha": 1.0}, nn.ELU),
    "Gelu": ({"approximate": b"none"}, lambda approximate: nn.GELU(approximate.decode())),
    "Tanh": ({}, nn.Tanh),
    "Sigmoid": ({}, nn.Sigmoid),
}
"""ONNX operator to its attributes with their defaults, and the function that builds the module from them."""


def layers_from_onnx(graph: bytes, classes: int) -> nn.Sequential:
    """Return the layers of a published graph, from pixels `float32[n, 784]` in 0..255 to logits `float32[n, classes]`.

    The published function takes uint8, but augmented pixels have fractions, which rounding would withhold from the
    teacher. The layers therefore start after the graph's conversion to float; the standardisation is folded into them
    (`ExportedModel.layers`). The nodes after the logits are left out.

    Args:
        graph: the content of `model.onnx` from `Bundle.read`, which rejects external data.
        classes: the number of classes in the manifest.

    Raises:
        DataError: it is not a graph that `export.py` writes.
    """
    try:
        model = onnx.load_from_string(graph)
    except Exception as error:  # protobuf's own class; protobuf is not a declared dependency
        raise _unsupported("it is not an ONNX file") from error
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    reshape, cast, *nodes = _path_to_logits(list(model.graph.node))
    floats = cast.op_type == "Cast" and _options(cast, {"to": 0}) == {"to": TensorProto.FLOAT}
    if not _flattens(reshape, tensors) or not floats:
        raise _unsupported("it does not start with the pixels as float32")
    layers: list[nn.Module] = []
    width = PIXELS
    for node in nodes:
        if node.op_type == "Gemm":
            layers.append(linear := _linear(node, tensors, width))
            width = linear.out_features
        elif node.op_type in ACTIVATIONS and len(node.input) == 1:
            layers.append(_activation(node))
        else:
            raise _unsupported(f"it has the operator {node.op_type[:40]!r} before its logits")
    if not layers or not isinstance(layers[-1], nn.Linear) or width != classes:
        raise _unsupported(f"it does not end with a layer of {classes} logits")
    return nn.Sequential(*layers).eval().requires_grad_(requires_grad=False)


def _path_to_logits(nodes: list[NodeProto]) -> list[NodeProto]:
    """Return the nodes on the path from the images to the logits, by each one's first input."""
    sources = {name: node for node in nodes for name in node.output}
    path: list[NodeProto] = []
    at = "logits"
    while at != "images":
        node = sources.pop(at, None)  # popped, so that a cycle ends
        if node is None or not node.input or node.domain:
            raise _unsupported(
                f"its logits do not depend on the images alone: {at[:40]!r} comes from elsewhere"
            )
        path.append(node)
        at = node.input[0]
    if len(path) < 2:
        raise _unsupported("it has no layers")
    return path[::-1]


def _flattens(node: NodeProto, tensors: Tensors) -> bool:
    """Return whether a node reshapes to `[n, 784]`."""
    if node.op_type != "Reshape" or len(node.input) != 2 or node.input[1] not in tensors:
        return False
    return bool(_array(tensors[node.input[1]], TensorProto.INT64).tolist() == [-1, PIXELS])


def _linear(node: NodeProto, tensors: Tensors, width: int) -> nn.Linear:
    """Return the linear layer of a Gemm with `width` inputs (ONNX, Operators, Gemm): alpha A B + beta C."""
    options = _options(node, GEMM)
    constant = 2 <= len(node.input) <= 3 and all(name in tensors for name in node.input[1:])
    if not constant or (options["alpha"], options["beta"], options["transA"]) != (1, 1, 0):
        raise _unsupported("it has a matrix product without constant weights")
    weight, *biases = (_array(tensors[name], TensorProto.FLOAT) for name in node.input[1:])
    weight = weight if options["transB"] else weight.T
    bias = biases[0] if biases else np.zeros(weight.shape[:1], np.float32)
    if weight.shape[1:] != (width,) or bias.shape != weight.shape[:1]:
        raise _unsupported(
            f"after {width} values it has a layer of {list(weight.shape)} weights and {list(bias.shape)} biases"
        )
    if not np.isfinite(weight).all() or not np.isfinite(bias).all():
        raise _unsupported("it has weights that are not finite")
    layer = nn.Linear(width, len(weight), device="meta")  # without random initialisation
    layer.weight = nn.Parameter(torch.tensor(weight))
    layer.bias = nn.Parameter(torch.tensor(bias))
    return layer


def _activation(node: NodeProto) -> nn.Module:
    defaults, module = ACTIVATIONS[node.op_type]
    options = _options(node, defaults)
    if not math.isfinite(options.get("alpha", 0)) or options.get("approximate", b"none") != b"none":
        raise _unsupported(f"it has a {node.op_type} with other attributes than PyTorch's")
    return module(**options)


def _array(tensor: TensorProto, kind: int) -> npt.NDArray[Any]:
    """Return a tensor as an array, after checking its type and that its size matches its shape."""
    size = np.dtype(helper.tensor_dtype_to_np_dtype(kind)).itemsize
    axes = list(tensor.dims)
    whole = tensor.data_type == kind and len(axes) <= 2 and all(axis > 0 for axis in axes)
    if not whole or len(tensor.raw_data) != math.prod(axes) * size:
        raise _unsupported(f"it has the tensor {tensor.name[:40]!r} of another type or size than a layer's")
    return numpy_helper.to_array(tensor)


def _options(node: NodeProto, defaults: Options) -> dict[str, Any]:
    """Return a node's attributes, each of the type of its default; missing ones have the default."""
    options: dict[str, Any] = dict(defaults)
    for option in node.attribute:
        try:
            value = helper.get_attribute_value(option)
        except ValueError:
            value = None
        if type(value) is not type(defaults.get(option.name, ())):
            raise _unsupported(f"it has the attribute {option.name[:40]!r} of {node.op_type[:40]!r}")
        options[option.name] = value
    return options


def _unsupported(why: str) -> DataError:
    return DataError(f"{ONNX_FILE} is not a graph that a teacher can be built from: {why}")
