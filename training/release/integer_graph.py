"""The integer graph for the CPU: the same weights as `model.onnx`, with the first layer a product of bytes.

Training has rounded the first layer's weights to integers of 8 bits with a scale for each unit
(`training/model/quantisation.py`), and pixels are bytes. So the first layer is

    y = scale * (pixels @ integers) + bias,

one MatMulInteger. It is exact: the largest sum, 784 * 255 * 127, fits 32 bits. What follows rounds three times, where a
layer of floats rounds 784 times. The operators are ONNX's own, so any runtime can run the graph.
"""

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from bundle.manifest import IMAGE_SIZE
from training.errors import ExportError
from training.model.quantisation import LARGEST

Weights = npt.NDArray[np.float32]


def integer_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with its first layer in integers; `model` is not changed.

    Raises:
        ExportError: the graph does not start with a matrix product of the raw pixels, or its weights are not rounded.
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

    integers, scales = _integers(weights)
    layer = [
        helper.make_node("MatMulInteger", [reshape.output[0], "integer_weights"], ["integer_sum"]),
        helper.make_node("Cast", ["integer_sum"], ["float_sum"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float_sum", "weight_scale"], ["scaled_sum"]),
        helper.make_node("Add", ["scaled_sum", bias], [product.output[0]]),
    ]
    built = onnx.ModelProto()
    built.CopyFrom(model)
    del built.graph.node[:], built.graph.initializer[:]
    del built.graph.value_info[:]  # of removed nodes
    built.graph.node.extend([reshape, *layer, *nodes[3:]])
    built.graph.initializer.extend(
        [
            numpy_helper.from_array(integers, "integer_weights"),
            numpy_helper.from_array(scales, "weight_scale"),
            *(tensor for tensor in model.graph.initializer if tensor.name != product.input[1]),
        ]
    )
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


def _integers(weights: Weights) -> tuple[npt.NDArray[np.int8], Weights]:
    """Return `int8[inputs, outputs]` and scales, `float32[outputs]`, whose product is exactly the weights."""
    scales = np.abs(weights).max(axis=0) / np.float32(LARGEST)
    scales[scales == 0] = 1
    integers = np.rint(weights / scales).astype(np.int8)
    if not np.array_equal(integers * scales, weights):
        raise ExportError("the weights of its first layer are not integers of 8 bits times a scale")
    return integers, scales
