"""The integer graph for the CPU: the same function, with the first layer computed exactly in integers.

Pixels are integers in 0..255, so the weights of the first layer can be integers as well. Each column of weights (those
of a unit) becomes fixed-point numbers, written as three digits of base 128:

    w = scale * (d0 + d1 / 128 + d2 / 128^2),   scale = max|w| / 64,   -64 <= d <= 64

A digit is a signed byte, so the product of each digit plane with the pixels is a MatMulInteger. A processor with AMX
computes three of them in less time than one product in float32 (`python -m bench arithmetic`). They are exact:

- 255 * 64 * 2 = 32,640 fits the 16 bits in which AVX2's vpmaddubsw adds two products, and beyond which it saturates;
- 784 * 255 * 64 = 12,794,880 < 2^24, so the sum is exact in 32 bits and in float32.

The remaining errors are those of the fixed-point weights, at most 2^-21 of the column's largest weight, and float32's
rounding of the sum of three products, where a float32 layer rounds 784 times. The operators are ONNX's own, so any
runtime can run the graph.
"""

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from bundle.manifest import IMAGE_SIZE
from training.errors import ExportError

PLANES = 3
"""Digits of a weight. Two would be faster, but logits would differ by more than the parity tolerance."""
BASE = 128
MOST = 64
"""Largest |digit|."""

Weights = npt.NDArray[np.float32]


def digits(weights: Weights) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8]]:
    """Return `float32[outputs]` scales and `int8[PLANES, inputs, outputs]` digits, the largest plane first.

    Args:
        weights: `float32[inputs, outputs]`, finite.
    """
    largest = np.abs(weights).max(axis=0)
    scales = (largest / np.float32(MOST)).astype(np.float32)
    # A column of zeros, or of subnormal weights, becomes 0.
    scales[scales < np.finfo(np.float32).tiny * BASE ** (PLANES - 1)] = 1
    left = np.rint(weights.astype(np.float64) / scales * BASE ** (PLANES - 1)).astype(np.int64)
    planes = []
    for _ in range(PLANES - 1):
        digit = (left + BASE // 2) % BASE - BASE // 2
        planes.append(digit)
        left = (left - digit) // BASE
    planes.append(left)
    return scales, np.stack(planes[::-1]).astype(np.int8)


def integer_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with its first layer in integers; `model` is not changed.

    Raises:
        ExportError: the graph does not start with a matrix product of the raw pixels.
    """
    nodes = list(model.graph.node)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    if [node.op_type for node in nodes[:3]] != ["Reshape", "Cast", "Gemm"]:
        raise ExportError("its first operator is not a matrix product of the raw pixels")
    reshape, cast, product = nodes[:3]
    weights, bias = _layer(product, tensors)
    one_way = reshape.input[0] == "images" and cast.input[0] == reshape.output[0]
    if not one_way or product.input[0] != cast.output[0] or _used(nodes[2:], cast.output[0]) != 1:
        raise ExportError(
            "the input of its first matrix product is not the raw pixels, or they have another use"
        )

    built = onnx.ModelProto()
    built.CopyFrom(model)
    del built.graph.node[:]
    del built.graph.value_info[:]  # of removed nodes
    kept = [tensor for tensor in model.graph.initializer if tensor.name != product.input[1]]
    new, made = _sum_of_planes(reshape.output[0], bias, product.output[0], weights)
    built.graph.node.extend([reshape, *new, *nodes[3:]])
    del built.graph.initializer[:]
    built.graph.initializer.extend([*made, *kept])
    return built


def _layer(product: NodeProto, tensors: dict[str, TensorProto]) -> tuple[Weights, str]:
    """Return a Gemm's weights, `float32[inputs, outputs]`, and the name of its bias."""
    options = {option.name: helper.get_attribute_value(option) for option in product.attribute}
    plain = options.get("alpha", 1) == options.get("beta", 1) == 1 and not options.get("transA", 0)
    if not plain or len(product.input) != 3 or not {*product.input[1:]} <= set(tensors):
        raise ExportError("its first matrix product does not have constant weights and a bias")
    weights = numpy_helper.to_array(tensors[product.input[1]])
    weights = weights.T if options.get("transB", 0) else weights
    if weights.dtype != np.float32 or weights.shape[0] != IMAGE_SIZE**2:
        raise ExportError(f"its first matrix is {weights.dtype}{list(weights.shape)}")
    return weights, product.input[2]


def _used(nodes: list[NodeProto], name: str) -> int:
    return sum(list(node.input).count(name) for node in nodes)


def _sum_of_planes(
    pixels: str, bias: str, output: str, weights: Weights
) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return the nodes and tensors that compute `pixels @ weights + bias`, adding the most significant plane first."""
    nodes, tensors = [], []
    scales, planes = digits(weights)
    total = ""
    for place, plane in enumerate(planes):
        name = f"digit_{place}"
        parts = {f"{name}_weights": plane, f"{name}_scale": scales / np.float32(BASE**place)}
        tensors += [numpy_helper.from_array(np.ascontiguousarray(part), key) for key, part in parts.items()]
        nodes += [
            helper.make_node("MatMulInteger", [pixels, f"{name}_weights"], [f"{name}_sum"]),
            helper.make_node("Cast", [f"{name}_sum"], [f"{name}_float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}_float", f"{name}_scale"], [f"{name}_part"]),
        ]
        if place:
            nodes.append(helper.make_node("Add", [total, f"{name}_part"], [f"{name}_total"]))
        total = f"{name}_total" if place else f"{name}_part"
    nodes.append(helper.make_node("Add", [total, bias], [output]))
    return nodes, tensors
