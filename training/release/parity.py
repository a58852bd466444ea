"""Parity: the proof that each exported file computes what the trained module computes. Only then is it published.

Every file is compared with the module over the whole test set, and inspected for forbidden content.
"""

import io
import zipfile
from collections.abc import Callable
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
    INTEGER_ONNX_FILE,
    ONNX_FILE,
    TORCH_EXPORT_FILE,
    TORCHSCRIPT_FILE,
    Parity,
)
from training.errors import ExportError, writing
from training.model.mlp import RAW_PIXELS, Standardisation
from training.release.export import ExportedModel, quiet
from training.release.integer_graph import integer_graph

LOGIT_TOLERANCE = 1e-5
"""Largest allowed |difference| of a logit, in units of max(1, the image's largest |logit|).

It is absolute for logits of order one. A confident network has logits of 50 and more, where float32 rounds at 4e-6 and
two correct orders of summation differ by more than 1e-5."""
CUDA_LOGIT_TOLERANCE = 1e-4
"""The same on CUDA, whose matrix products sum in another order."""
GOLDEN_TOLERANCE = 1e-4
"""Largest allowed |difference| of a golden example's probability when a server replays it."""
INTEGER_FORM = "onnx_cpu_integer"
"""Name of `model.integer.onnx` in the manifest's parity."""
CUDA_FORM = "onnx_cuda"
"""Name of `model.onnx` on CUDA in the manifest's parity."""
PROVING_BATCH = 1000
CUDA_PROVIDER = "CUDAExecutionProvider"

Images = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]
LogitsFunction = Callable[[Images], Logits]
"""Maps `uint8[n, 28, 28]` to logits `float32[n, classes]`."""


def prove(
    directory: Path, model: nn.Sequential, standardise: Standardisation, images: Images
) -> dict[str, Parity]:
    """Compare every exported file with the trained module on the CPU; return the differences by format.

    Args:
        directory: of the exported files.
        model: the trained module, on the CPU, in evaluation mode.
        standardise: the standardisation of its input.
        images: the whole test set, `uint8[n, 28, 28]`.

    Raises:
        ExportError: the graph has Dropout, a fixed batch axis, external data or source paths; or a logit differs by
            more than the tolerance, or a label differs.
    """
    inspect_onnx(directory / ONNX_FILE)
    for name in (TORCHSCRIPT_FILE, TORCH_EXPORT_FILE):
        _check_no_source_paths((directory / name).read_bytes(), name)
    forms: dict[str, LogitsFunction] = {
        "torchscript": _torchscript(directory / TORCHSCRIPT_FILE),
        "torch_export": _torch_export(directory / TORCH_EXPORT_FILE),
        "onnx_cpu": _onnx(directory / ONNX_FILE, "CPUExecutionProvider"),
    }
    expected = _expected(model, standardise, images)
    try:
        return {name: _compare(name, logits_of, expected, images) for name, logits_of in forms.items()}
    except ExportError as error:
        raise ExportError(f"{error}; nothing was published") from None


def prove_on_cuda(
    directory: Path, model: nn.Sequential, standardise: Standardisation, images: Images
) -> Parity | str:
    """Compare `model.onnx` on CUDA with the trained module.

    A session that fails is not an error of the model: ONNX Runtime has kernels for fewer GPUs than PyTorch.

    Args:
        directory: of the exported files.
        model: the trained module, on the CPU, in evaluation mode.
        standardise: the standardisation of its input.
        images: the whole test set, `uint8[n, 28, 28]`.

    Returns:
        The differences; or, in words, why ONNX Runtime does not run on CUDA here.

    Raises:
        ExportError: a logit differs by more than the tolerance, or a label differs.
    """
    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        return f"the installed onnxruntime {onnxruntime.__version__} has no CUDA provider"
    try:
        logits = _logits_of_all(_onnx(directory / ONNX_FILE, CUDA_PROVIDER), images)
    except Exception as error:  # noqa: BLE001  # ONNX Runtime's exceptions have no base of their own
        return f"ONNX Runtime's session failed on CUDA ({runtime_reason(error)})"
    expected = _expected(model, standardise, images)
    try:
        return _measure(CUDA_FORM, expected, *logits)
    except ExportError as error:
        raise ExportError(f"{error}; nothing was published") from None


def add_integer_graph(directory: Path, model: ExportedModel, images: Images) -> Parity | str:
    """Write `model.integer.onnx` if it can be proven as strictly as `model.onnx`.

    The proof is of the graph's mathematics and needs no particular processor: where a product of signed and unsigned
    bytes could saturate, ONNX Runtime is told to use other kernels (`_onnx`). A server replays the golden examples with
    the kernels that it will answer with.

    Args:
        directory: of the exported files.
        model: the exported module.
        images: the whole test set, `uint8[n, 28, 28]`.

    Returns:
        The differences; or, in words, why the file is omitted.

    Raises:
        UnwritableError: the file cannot be written.
    """
    path = directory / INTEGER_ONNX_FILE
    try:
        graph = integer_graph(onnx.load(str(directory / ONNX_FILE))).SerializeToString()
        with writing(path):
            path.write_bytes(graph)
        inspect_onnx(path)
        expected = _expected(model.layers, RAW_PIXELS, images)
        parity = _compare(INTEGER_FORM, _onnx(path, "CPUExecutionProvider"), expected, images)
        # The derivatives of a softmax are at most 1/4, and 1/2 in sum, which bounds a probability's error. A server
        # rejects the version if it exceeds the tolerance, of which half is reserved for its own rounding.
        off = parity.max_absolute_difference / model.temperature / 2
        if off > GOLDEN_TOLERANCE / 2:
            raise ExportError(
                f"a probability could be off by {off:.3g}; {GOLDEN_TOLERANCE / 2:.3g} is allowed"
            )
    except ExportError as error:
        path.unlink(missing_ok=True)
        return str(error)
    return parity


def _expected(model: nn.Sequential, standardise: Standardisation, images: Images) -> Logits:
    with torch.inference_mode():
        return _in_batches(lambda batch: model(standardise(torch.from_numpy(batch))).numpy(), images)


def _compare(name: str, logits_of: LogitsFunction, expected: Logits, images: Images) -> Parity:
    """Return the differences of a format from the expected logits of all images."""
    return _measure(name, expected, *_logits_of_all(logits_of, images))


def _logits_of_all(logits_of: LogitsFunction, images: Images) -> tuple[Logits, Logits]:
    """Return a format's logits of all images, and of the first image alone."""
    return _in_batches(logits_of, images), logits_of(images[:1])


def _measure(name: str, expected: Logits, actual: Logits, alone: Logits) -> Parity:
    tolerance = CUDA_LOGIT_TOLERANCE if name == CUDA_FORM else LOGIT_TOLERANCE
    parity = measure_parity(name, expected, actual, tolerance)
    measure_parity(f"{name} at batch 1", expected[:1], alone, tolerance)
    return parity


def measure_parity(name: str, expected: Logits, actual: Logits, tolerance: float) -> Parity:
    """Return the differences of `actual` from `expected`, both logits `float32[n, classes]`.

    Raises:
        ExportError: a logit differs by more than `tolerance`, or a label differs.
    """
    difference = np.abs(actual - expected).max(axis=1)
    relative = difference / np.maximum(1, np.abs(expected).max(axis=1))
    differing = int((actual.argmax(1) != expected.argmax(1)).sum())
    if not relative.max() <= tolerance or differing:  # NaN compares false, and must not pass
        raise ExportError(
            f"{name} differs from the trained model: a logit by {relative.max():.3g} of the image's largest "
            f"({tolerance:.3g} is allowed), and {differing} of {len(expected)} labels"
        )
    return Parity(
        images=len(expected),
        max_absolute_difference=float(difference.max()),
        max_relative_difference=float(relative.max()),
        labels_differing=differing,
    )


def inspect_onnx(path: Path) -> None:
    """Check the structure of the graph.

    Raises:
        ExportError: it is invalid, or has Dropout, a fixed batch axis, external data, source paths, or other inputs and
            outputs than the contract's.
    """
    model = onnx.load(str(path), load_external_data=False)
    if any(tensor.external_data for tensor in model.graph.initializer):
        raise ExportError(f"{path.name} has external data, that is weights in another file")
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
    _check_no_source_paths(path.read_bytes(), path.name)


def _check_no_source_paths(data: bytes, name: str) -> None:
    parts = [data]
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = [archive.read(entry) for entry in archive.infolist()]
    here = str(Path(training.__file__).resolve().parent).encode()
    if any(here in part or b"site-packages" in part for part in parts):
        raise ExportError(f"{name} contains paths of source files")


def _torchscript(path: Path) -> LogitsFunction:
    with quiet():
        module = torch.jit.load(str(path))
    return lambda batch: _logits(module, batch)


def _torch_export(path: Path) -> LogitsFunction:
    module = torch.export.load(path).module()
    return lambda batch: _logits(module, batch)


@torch.inference_mode()
def _logits(module: nn.Module, batch: Images) -> Logits:
    result: Logits = module(torch.from_numpy(batch))[0].numpy()
    return result


def _onnx(path: Path, provider: str) -> LogitsFunction:
    options = onnxruntime.SessionOptions()
    settings: dict[str, str] = {}
    if provider == CUDA_PROVIDER:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        settings = {"use_tf32": "0"}  # TF32 keeps 10 bits of the mantissa
    else:
        # x86 processors without VNNI add products of signed and unsigned bytes in 16 bits, which saturate. With this
        # entry ONNX Runtime makes the signed bytes unsigned, with a zero point of 128: exact, and slower.
        options.add_session_config_entry("session.x64quantprecision", "1")
    # Without `enable_fallback=0` ONNX Runtime retries a failed session on the CPU and raises that session's error.
    session = onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=[(provider, settings)], enable_fallback=0
    )

    def logits_of(batch: Images) -> Logits:
        logits: Logits = session.run(["logits"], {"images": batch})[0]
        return logits

    return logits_of


def _in_batches(logits_of: LogitsFunction, images: Images) -> Logits:
    starts = range(0, len(images), PROVING_BATCH)
    return np.concatenate([logits_of(images[start : start + PROVING_BATCH]) for start in starts])
