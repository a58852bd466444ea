"""Turn a trained module into files that others run, and prove that they say what it says.

Three forms of one function, `uint8[batch, 28, 28] -> logits, probabilities`: ONNX (served),
TorchScript (libtorch) and torch.export (TorchScript's successor). Nothing is published that was not
compared with the trained module over the whole test set.
"""

import copy
import io
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import nn

import training
from bundle.errors import runtime_reason
from bundle.manifest import (
    IMAGE_SIZE,
    INTEGER_ONNX_FILE,
    ONNX_FILE,
    TORCH_EXPORT_FILE,
    TORCHSCRIPT_FILE,
    Parity,
)
from training.errors import ExportError
from training.model.mlp import Standardisation
from training.model.noise_layers import GaussianNoise
from training.release.integer_graph import integer_graph

LOGIT_TOLERANCE = 1e-5
"""Allowed |difference| of a logit, in units of max(1, the image's largest |logit|).

Absolute where logits are of order one. A confident network has logits of 50 and more, where
float32 itself rounds at 4e-6 and two correct orders of summation differ by more than 1e-5."""
CUDA_LOGIT_TOLERANCE = 1e-4
"""The same for CUDA, whose matrix products sum in yet another order."""
GOLDEN_TOLERANCE = 1e-4
"""Allowed |difference| of a golden example's probability, where a server replays it."""
INTEGER_FORM = "onnx_cpu_integer"
"""Of `model.integer.onnx`, in the manifest's parity."""
CUDA_FORM = "onnx_cuda"
"""Of `model.onnx` on CUDA, likewise."""
PROVING_BATCH = 1000
OPSET = 20
CUDA_PROVIDER = "CUDAExecutionProvider"

Images = npt.NDArray[np.uint8]
Answers = npt.NDArray[np.float32]
Answer = Callable[[Images], Answers]
"""Takes `uint8[n, 28, 28]`, gives logits `float32[n, classes]`."""


class Served(nn.Module):
    """The trained module as callers use it: raw pixels in, logits and calibrated probabilities out.

    What is linear is folded into the linear layer it meets, in float64, so the graph is only matrix
    products and activations. Standardisation goes into the first layer,
    W((x - m) / s) + b = (W / s) x + (b - (m / s) W 1), and each batch normalisation, which is affine
    with its running statistics, into the layer before it. Dropout and noise are the identity and left out.
    Pixels 0..255 are exact in float32.

    Args:
        model: the trained module, on the CPU; it stays as it is.
        standardise: what came before the model in training.
        temperature: the calibration's.
    """

    def __init__(self, model: nn.Sequential, standardise: Standardisation, temperature: float) -> None:
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
        self.temperature = temperature
        self.eval()
        self.requires_grad_(requires_grad=False)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits and probabilities, `float32[batch, classes]`, of `uint8[batch, 28, 28]`."""
        logits = self.layers(images.flatten(1).float())
        return logits, torch.softmax(logits / self.temperature, dim=1)


def _linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data, layer.bias.data = weight.float(), bias.float()
    return layer


def _scale_input(layer: nn.Linear, scale: torch.Tensor, shift: torch.Tensor) -> nn.Linear:
    """Return the layer that gives for x what this one gives for scale * x + shift."""
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    return _linear(weight * scale, bias + weight.sum(1) * shift)


def _fold_batch_norm(layer: nn.Module, norm: nn.BatchNorm1d) -> nn.Linear:
    """Return the linear layer that is `layer` and then `norm` with its running statistics."""
    mean, variance = norm.running_mean, norm.running_var
    if not isinstance(layer, nn.Linear) or mean is None or variance is None:
        raise ExportError("batch normalisation that does not follow a linear layer cannot be folded")
    factor = norm.weight.detach().double() / torch.sqrt(variance.double() + norm.eps)
    bias = norm.bias.detach().double() + (layer.bias.detach().double() - mean.double()) * factor
    return _linear(layer.weight.detach().double() * factor[:, None], bias)


def export(served: Served, directory: Path) -> None:
    """Write `model.onnx`, `model.pt` and `model.pt2` into the directory."""
    example = torch.zeros(2, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)  # 1 would be taken for constant
    with _quiet():
        _export_onnx(served, example, directory / ONNX_FILE)
        scripted = torch.jit.freeze(torch.jit.trace(served, (example,)))  # type: ignore[no-untyped-call]
        _save_without_sources(scripted, directory / TORCHSCRIPT_FILE)
        batch = torch.export.Dim("batch")
        program = torch.export.export(served, (example,), dynamic_shapes={"images": {0: batch}})
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # holds the paths of this machine's files
        torch.export.save(program, directory / TORCH_EXPORT_FILE)


def _export_onnx(served: Served, example: torch.Tensor, path: Path) -> None:
    program = torch.onnx.export(
        served,
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=["images"],
        output_names=["logits", "probabilities"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    if program is None:
        raise ExportError("torch.onnx.export gave nothing")
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # holds the paths of this machine's files
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    path.write_bytes(model.SerializeToString())


def _save_without_sources(scripted: torch.jit.ScriptModule, path: Path) -> None:
    """Save TorchScript without its debug records, which name this machine's source files."""
    buffer = io.BytesIO()
    torch.jit.save(scripted, buffer)
    with zipfile.ZipFile(buffer) as full, zipfile.ZipFile(path, "w") as kept:
        for entry in full.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                kept.writestr(entry, full.read(entry))


def prove(
    directory: Path, model: nn.Sequential, standardise: Standardisation, images: Images
) -> dict[str, Parity]:
    """Compare every exported file with the trained module, image by image, on the CPU; return what was measured.

    Args:
        directory: where `export` wrote.
        model: the trained module, on the CPU, in evaluation mode.
        standardise: what came before it in training.
        images: the whole test set, `uint8[n, 28, 28]`.

    Raises:
        ExportError: the graph has Dropout, a fixed batch axis, external data or source paths; or a
            logit differs by more than the tolerance, or one label differs.
    """
    inspect_onnx(directory / ONNX_FILE)
    for name in (TORCHSCRIPT_FILE, TORCH_EXPORT_FILE):
        _refuse_source_paths((directory / name).read_bytes(), name)
    forms: dict[str, Answer] = {
        "torchscript": _torchscript(directory / TORCHSCRIPT_FILE),
        "torch_export": _torch_export(directory / TORCH_EXPORT_FILE),
        "onnx_cpu": _onnx(directory / ONNX_FILE, "CPUExecutionProvider"),
    }
    expected = _expected(model, standardise, images)
    try:
        return {name: _compare(name, answer, expected, images) for name, answer in forms.items()}
    except ExportError as error:
        raise ExportError(f"{error}; nothing was published") from None


def prove_on_cuda(
    directory: Path, model: nn.Sequential, standardise: Standardisation, images: Images
) -> Parity | str:
    """Compare `model.onnx` on CUDA with the trained module, image by image.

    A session that fails says nothing against the model: ONNX Runtime has kernels for fewer GPUs than torch.

    Args:
        directory: where `export` wrote.
        model: the trained module, on the CPU, in evaluation mode.
        standardise: what came before it in training.
        images: the whole test set, `uint8[n, 28, 28]`.

    Returns:
        What was measured; or, in words, why ONNX Runtime does not run on CUDA here.

    Raises:
        ExportError: it runs, and a logit differs by more than the tolerance, or one label differs.
    """
    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        return f"the installed onnxruntime {onnxruntime.__version__} has no CUDA provider"
    try:
        answers = _ask(_onnx(directory / ONNX_FILE, CUDA_PROVIDER), images)
    except Exception as error:  # noqa: BLE001  # ONNX Runtime's exceptions have no base of their own
        return f"ONNX Runtime's session failed on CUDA ({runtime_reason(error)})"
    expected = _expected(model, standardise, images)
    try:
        return _measure(CUDA_FORM, expected, *answers)
    except ExportError as error:
        raise ExportError(f"{error}; nothing was published") from None


def add_integer_graph(
    directory: Path, model: nn.Sequential, standardise: Standardisation, temperature: float, images: Images
) -> Parity | str:
    """Write `model.integer.onnx` beside the proven `model.onnx`, if it is proven as strictly.

    Args:
        directory: where `export` wrote.
        model: the trained module, on the CPU, in evaluation mode.
        standardise: what came before it in training.
        temperature: the calibration's.
        images: the whole test set, `uint8[n, 28, 28]`.

    Returns:
        What was measured of the file; or, in a sentence, why there is none.
    """
    path = directory / INTEGER_ONNX_FILE
    try:
        path.write_bytes(integer_graph(onnx.load(str(directory / ONNX_FILE))).SerializeToString())
        inspect_onnx(path)
        expected = _expected(model, standardise, images)
        parity = _compare(INTEGER_FORM, _onnx(path, "CPUExecutionProvider"), expected, images)
        # A softmax's derivatives are at most 1/4, and 1/2 in sum: by so much a probability can be off. A server
        # would refuse the version if it were more than the tolerance, of which half is left to its own rounding.
        off = parity.max_absolute_difference / temperature / 2
        if off > GOLDEN_TOLERANCE / 2:
            raise ExportError(
                f"a probability could be off by {off:.3g}, {GOLDEN_TOLERANCE / 2:.3g} is allowed"
            )
    except ExportError as error:
        path.unlink(missing_ok=True)
        return str(error)
    return parity


def _expected(model: nn.Sequential, standardise: Standardisation, images: Images) -> Answers:
    with torch.inference_mode():
        return _in_batches(lambda batch: model(standardise(torch.from_numpy(batch))).numpy(), images)


def _compare(name: str, answer: Answer, expected: Answers, images: Images) -> Parity:
    """Return how far a form is from what is expected of all images."""
    return _measure(name, expected, *_ask(answer, images))


def _ask(answer: Answer, images: Images) -> tuple[Answers, Answers]:
    """Return what a form gives all images, and what it gives the first alone."""
    return _in_batches(answer, images), answer(images[:1])


def _measure(name: str, expected: Answers, answered: Answers, alone: Answers) -> Parity:
    tolerance = CUDA_LOGIT_TOLERANCE if name == CUDA_FORM else LOGIT_TOLERANCE
    parity = measure_parity(name, expected, answered, tolerance)
    measure_parity(f"{name} at batch 1", expected[:1], alone, tolerance)
    return parity


def measure_parity(name: str, expected: Answers, answered: Answers, tolerance: float) -> Parity:
    """Return how far `answered` is from `expected`, both logits `float32[n, classes]`.

    Raises:
        ExportError: a logit differs by more than `tolerance`, or one label differs.
    """
    difference = np.abs(answered - expected).max(axis=1)
    relative = difference / np.maximum(1, np.abs(expected).max(axis=1))
    differing = int((answered.argmax(1) != expected.argmax(1)).sum())
    if not relative.max() <= tolerance or differing:  # NaN compares false, and must not pass
        raise ExportError(
            f"{name} is not the trained model: a logit differs by {relative.max():.3g} of the image's "
            f"largest ({tolerance:.3g} is allowed) and {differing} label(s) of {len(expected)} differ"
        )
    return Parity(
        images=len(expected),
        max_absolute_difference=float(difference.max()),
        max_relative_difference=float(relative.max()),
        labels_differing=differing,
    )


def inspect_onnx(path: Path) -> None:
    """Check what can be read off the graph.

    Raises:
        ExportError: it is invalid, or has Dropout, a fixed batch axis, external data, source paths,
            or other inputs and outputs than the contract's.
    """
    model = onnx.load(str(path), load_external_data=False)
    if any(tensor.external_data for tensor in model.graph.initializer):
        raise ExportError(f"{path.name} keeps weights in another file")
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"{path.name} is not valid ONNX: {error}") from None
    operators = {node.op_type for node in model.graph.node}
    if "Dropout" in operators:
        raise ExportError(f"{path.name} has a Dropout node: it was exported in training mode")
    for value in (*model.graph.input, *model.graph.output):
        if not value.type.tensor_type.shape.dim[0].dim_param:
            raise ExportError(f"{path.name}: the batch axis of '{value.name}' is fixed")
    names = [value.name for value in (*model.graph.input, *model.graph.output)]
    if names != ["images", "logits", "probabilities"]:
        raise ExportError(f"{path.name} has inputs and outputs {names}")
    _refuse_source_paths(path.read_bytes(), path.name)


def _refuse_source_paths(data: bytes, name: str) -> None:
    parts = [data]
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = [archive.read(entry) for entry in archive.infolist()]
    here = str(Path(training.__file__).resolve().parent).encode()
    if any(here in part or b"site-packages" in part for part in parts):
        raise ExportError(f"{name} names source files of the machine it was made on")


def _torchscript(path: Path) -> Answer:
    with _quiet():
        module = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
    return lambda batch: _logits(module, batch)


def _torch_export(path: Path) -> Answer:
    module = torch.export.load(path).module()
    return lambda batch: _logits(module, batch)


@torch.inference_mode()
def _logits(module: nn.Module, batch: Images) -> Answers:
    result: Answers = module(torch.from_numpy(batch))[0].numpy()
    return result


def _onnx(path: Path, provider: str) -> Answer:
    options = onnxruntime.SessionOptions()
    settings: dict[str, str] = {}
    if provider == CUDA_PROVIDER:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        settings = {"use_tf32": "0"}  # TF32 keeps 10 bits of the mantissa
    # Without `enable_fallback=0` a session that fails is tried on the CPU, and the error is that one's.
    session = onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=[(provider, settings)], enable_fallback=0
    )

    def answer(batch: Images) -> Answers:
        logits: Answers = session.run(["logits"], {"images": batch})[0]
        return logits

    return answer


def _in_batches(answer: Answer, images: Images) -> Answers:
    starts = range(0, len(images), PROVING_BATCH)
    return np.concatenate([answer(images[start : start + PROVING_BATCH]) for start in starts])


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporters say of themselves: that torch.jit is deprecated, and how they go."""
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
