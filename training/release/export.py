"""Export of a trained module to ONNX, TorchScript and torch.export files; `parity.py` proves them equal to it.

The three formats have the same function, `uint8[batch, 28, 28] -> logits, probabilities`: ONNX (served), TorchScript
(for libtorch) and torch.export (TorchScript's successor).
"""

import copy
import io
import logging
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from torch import nn

from bundle.manifest import (
    IMAGE_SIZE,
    ONNX_FILE,
    TORCH_EXPORT_FILE,
    TORCHSCRIPT_FILE,
)
from training.errors import ExportError, writing
from training.model.mlp import Standardisation
from training.model.noise_layers import GaussianNoise
from training.model.quantisation import quantised

OPSET = 20


class ExportedModel(nn.Module):
    """The module that is exported, from raw pixels to logits and calibrated probabilities.

    Affine operations are folded into the adjacent linear layer, in float64, so the graph has only matrix products and
    activations. Standardisation is folded into the first layer, W((x - m) / s) + b = (W / s) x + (b - (m / s) W 1), and
    each batch normalisation, which is affine with its running statistics, into the layer before it. Dropout and noise
    are the identity and left out. Pixels 0..255 are exact in float32.

    Args:
        model: the trained module, on the CPU; it is not changed.
        standardise: the standardisation of its input.
        temperature: of the calibration.
        quantise: whether the first layer is rounded to int8. It is the same network that straight-through training
            evaluates, W' ((x - m) / s) + b with the rounded W', so an image of nothing but the mean pixel m has the
            pre-activations that it had.
    """

    def __init__(
        self,
        model: nn.Sequential,
        standardise: Standardisation,
        temperature: float = 1.0,
        *,
        quantise: bool = False,
    ) -> None:
        super().__init__()
        shift = torch.tensor(-standardise.mean / standardise.deviation, dtype=torch.float64)
        scale = torch.tensor(1 / standardise.deviation, dtype=torch.float64)
        layers: list[nn.Module] = []
        for layer in copy.deepcopy(model):
            if isinstance(layer, nn.Linear):
                layers.append(_scale_input(layer, scale, shift) if not layers else layer)
            elif isinstance(layer, nn.BatchNorm1d):
                layers.append(_fold_batch_norm(layers.pop(), layer))
            elif not isinstance(layer, (nn.Dropout, GaussianNoise)):
                layers.append(layer)
        self.layers = nn.Sequential(*layers)
        if quantise:
            _quantise(self.first_layer, standardise.mean)
        self.temperature = temperature
        self.eval()
        self.requires_grad_(requires_grad=False)

    @property
    def first_layer(self) -> nn.Linear:
        """The layer that takes the pixels."""
        return cast("nn.Linear", self.layers[0])

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits and probabilities, `float32[batch, classes]`, of `uint8[batch, 28, 28]`."""
        logits = self.layers(images.flatten(1).float())
        return logits, torch.softmax(logits / self.temperature, dim=1)


def _linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data, layer.bias.data = weight.float(), bias.float()
    return layer


def _scale_input(layer: nn.Linear, scale: torch.Tensor, shift: torch.Tensor) -> nn.Linear:
    """Return the linear layer that computes `layer(scale * x + shift)`."""
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    return _linear(weight * scale, bias + weight.sum(1) * shift)


@torch.no_grad()
def _quantise(layer: nn.Linear, mean: float) -> None:
    """Round the weights of a linear layer in place; for an image of nothing but the mean pixel it computes the same."""
    rounded = quantised(layer.weight)
    layer.bias.add_((layer.weight.double() - rounded.double()).sum(1) * mean)
    layer.weight.copy_(rounded)


def _fold_batch_norm(layer: nn.Module, norm: nn.BatchNorm1d) -> nn.Linear:
    """Return the linear layer that computes `norm(layer(x))`, with the running statistics."""
    mean, variance = norm.running_mean, norm.running_var
    if not isinstance(layer, nn.Linear) or mean is None or variance is None:
        raise ExportError("batch normalisation that does not follow a linear layer cannot be folded")
    factor = norm.weight.detach().double() / torch.sqrt(variance.double() + norm.eps)
    bias = norm.bias.detach().double() + (layer.bias.detach().double() - mean.double()) * factor
    return _linear(layer.weight.detach().double() * factor[:, None], bias)


def export(model: ExportedModel, directory: Path) -> None:
    """Write `model.onnx`, `model.pt` and `model.pt2` to the directory.

    The formats' own writers, in C++, abort the process if the disk is full: they write to memory.

    Raises:
        UnwritableError: a file cannot be written.
    """
    example = torch.zeros(
        2, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8
    )  # a batch of 1 would be exported as constant
    with quiet():
        _write(directory / ONNX_FILE, _onnx(model, example))
        scripted = torch.jit.freeze(torch.jit.trace(model, (example,)))
        _write(directory / TORCHSCRIPT_FILE, _without_sources(scripted))
        batch = torch.export.Dim("batch")
        program = torch.export.export(model, (example,), dynamic_shapes={"images": {0: batch}})
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # contains paths of source files
        saved = io.BytesIO()
        torch.export.save(program, saved)
        _write(directory / TORCH_EXPORT_FILE, saved.getvalue())


def _write(path: Path, data: bytes) -> None:
    with writing(path):
        path.write_bytes(data)


def _onnx(model: ExportedModel, example: torch.Tensor) -> bytes:
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=["images"],
        output_names=["logits", "probabilities"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    if program is None:
        raise ExportError("torch.onnx.export returned no program")
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # contains paths of source files
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    serialized: bytes = model.SerializeToString()
    return serialized


def _without_sources(scripted: torch.jit.ScriptModule) -> bytes:
    """Return TorchScript without its debug records, which contain paths of source files."""
    saved, stripped = io.BytesIO(), io.BytesIO()
    torch.jit.save(scripted, saved)
    with zipfile.ZipFile(saved) as full, zipfile.ZipFile(stripped, "w") as kept:
        for entry in full.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                kept.writestr(entry, full.read(entry))
    return stripped.getvalue()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporters: deprecation warnings of torch.jit, and progress messages."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
