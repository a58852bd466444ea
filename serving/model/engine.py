"""Load a published model and prove it: verified bytes, the provider asked for, the golden answers.

No session exists that has not given the recorded probabilities on the real execution provider.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime

from bundle.errors import GoldenMismatchError, InvalidBundleError, runtime_reason
from bundle.golden import GoldenExamples
from bundle.manifest import GOLDEN_FILE, IMAGE_SIZE, INTEGER_ONNX_FILE, ONNX_FILE, Manifest
from bundle.repository import Bundle
from common.errors import one_line
from serving.errors import DeviceLostError, ProviderError
from serving.model import cuda
from serving.model.bound_session import OUTPUTS, BoundSession
from serving.model.cuda_graph_thread import GraphSession, graph_thread
from serving.settings import ServiceSettings
from serving.system.cpus import has_amx_int8

log = logging.getLogger("glyph.serving")

Provider = Literal["cuda", "cpu"]
Arithmetic = Literal["float32", "integer", "mixed"]
"""Of the first layer: `mixed` is float32 for batches of up to `LARGEST_FLOAT32` images, and integer beyond."""
ArithmeticPolicy = Literal["auto", "float32", "integer"]
GRAPHS: dict[Arithmetic, tuple[str, ...]] = {
    "float32": (ONNX_FILE,),
    "integer": (INTEGER_ONNX_FILE,),
    "mixed": (ONNX_FILE, INTEGER_ONNX_FILE),
}
PROVIDER_NAMES: dict[str, str] = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
LOG_SEVERITY_FATAL = 4
BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Sizes of the batches that a session is run with; the batch scorer has its own."""
LARGEST_FLOAT32 = 8
"""Up to this many images float32 is as fast as integers or faster: AMX works on 16 rows at a time, and a core that
waits between single requests has its registers to save (`python -m bench arithmetic`, docs/performance.md)."""


@dataclass(slots=True)
class Outputs:
    """What the model gave for a batch; `outputs[start:stop]` are those of some of its images."""

    logits: npt.NDArray[np.float32]
    """`float32[n, classes]`, before the softmax, the calibration's temperature applied."""
    probabilities: npt.NDArray[np.float32]
    """`float32[n, classes]`, calibrated; rows sum to 1."""
    written: list[tuple[int, float, bytes]] | None = None
    """What `predict/response_json.py` writes of each image, once it was asked for: all requests of a batch together."""

    def __len__(self) -> int:
        return len(self.probabilities)

    def __getitem__(self, rows: slice) -> "Outputs":
        return Outputs(self.logits[rows], self.probabilities[rows])


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """A proven model, ready to answer. Safe to call from several threads at once."""

    bundle: Bundle
    provider: Provider
    session: Any
    """An `onnxruntime.InferenceSession`, or a `GraphSession`."""
    large: Any = None
    """The one for batches of more than `LARGEST_FLOAT32` images, where that is another."""
    arithmetic: Arithmetic = "float32"
    sizes: tuple[int, ...] = BUCKETS
    probe: GoldenExamples | None = None
    """On CUDA: a golden example that is asked again after a failure, to learn whether the GPU still computes."""

    def infer(self, images: npt.NDArray[np.uint8]) -> Outputs:
        """Return the model's outputs for `uint8[n, 28, 28]`, n at least 1.

        The session sees a few shapes only, whatever n is: batches are padded to the next of `sizes`,
        and larger ones run in pieces of the largest. So kernels and memory are chosen for each shape
        once, and both worker classes run one image in the same way. With `mixed` arithmetic it is the whole batch
        that counts, not a last piece: so what was asked in a large batch is computed in integers, whatever
        came with it.

        Raises:
            DeviceLostError: the GPU failed, and fails a golden example too. Another error is of this batch only.
        """
        session = self.session if self.large is None or len(images) <= LARGEST_FLOAT32 else self.large
        sizes, most = self.sizes, self.sizes[-1]
        try:
            if len(images) <= most:
                return _run(session, images, sizes)
            pieces = [images[start : start + most] for start in range(0, len(images), most)]
            parts = [_run(session, piece, sizes) for piece in pieces]
        except Exception as error:  # its classes share no base but Exception
            if reason := self._lost():
                text = runtime_reason(error)
                raise DeviceLostError(
                    f"CUDA fails ({text}), and a golden example that was answered before fails too: {reason}"
                ) from error
            raise
        return Outputs(
            np.concatenate([part.logits for part in parts]),
            np.concatenate([part.probabilities for part in parts]),
        )

    def _lost(self) -> str | None:
        """Return why the GPU cannot be asked any more; None if it still computes, or on the CPU.

        Source: the CUDA runtime API: after an error such as cudaErrorIllegalAddress "the process must be terminated
        and relaunched", for every later call returns it too.
        """
        if self.probe is None:
            return None
        try:
            answered = _run(self.session, self.probe.images, self.sizes).probabilities
        except Exception as error:  # noqa: BLE001  its classes share no base
            return runtime_reason(error)
        return self.probe.mismatch(answered, self.bundle.manifest.golden.tolerance)


def _run(session: Any, images: npt.NDArray[np.uint8], sizes: tuple[int, ...]) -> Outputs:
    """Return the outputs for at most the largest of `sizes`."""
    count = len(images)
    more = padding(count, sizes)
    if more:
        images = padded(images, count + more)
    outputs = Outputs(*session.run(list(OUTPUTS), {"images": images}))
    return outputs[:count] if more else outputs


def padded(images: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Return `uint8[size, 28, 28]`: the images, and black ones after them."""
    full = np.zeros((size, *images.shape[1:]), np.uint8)
    full[: len(images)] = images
    return full


def padding(count: int, sizes: tuple[int, ...] = BUCKETS) -> int:
    """Return how many images a batch of `count` is padded with; of more than the largest, the last piece."""
    last = (count - 1) % sizes[-1] + 1
    return next(size for size in sizes if size >= last) - last


def choose_provider(policy: str, device_id: int) -> Provider:
    """Decide the execution provider by policy: `cuda`, `cpu`, or `auto`; `auto` logs its choice.

    Raises:
        ProviderError: the policy is `cuda`, and CUDA does not work here.
    """
    if policy == "cpu":
        return "cpu"
    reason = cuda.missing(device_id)
    if reason is None:
        log.info("execution provider: CUDA, device %d", device_id)
        return "cuda"
    if policy == "cuda":
        raise ProviderError(f"the CUDA execution provider was asked for and cannot work here: {reason}")
    log.info("execution provider: CPU (auto, because %s)", reason)
    return "cpu"


def choose_arithmetic(policy: ArithmeticPolicy, bundle: Bundle, provider: Provider) -> Arithmetic:
    """Decide how a version is computed by policy: `float32`, `integer`, or `auto`; `auto` logs what is lacking.

    CUDA computes in float32, whatever the policy.

    Raises:
        InvalidBundleError: the policy is `integer`, and the version has no graph for it.
    """
    if provider != "cpu" or policy == "float32":
        return "float32"
    lacking = None
    if INTEGER_ONNX_FILE not in bundle.manifest.files:
        why = bundle.manifest.omitted.get(INTEGER_ONNX_FILE, "an older Glyph published it")
        lacking = f"version {bundle.version} has no {INTEGER_ONNX_FILE} ({why})"
    if policy == "integer":
        if lacking:
            raise InvalidBundleError(
                f"integer arithmetic was asked for, and {lacking}: ask for 'auto', or publish another version"
            )
        return "integer"
    if lacking is None and not has_amx_int8():
        lacking = "this processor has no AMX for integers"
    if lacking:
        log.info("arithmetic: float32 (auto, because %s)", lacking)
        return "float32"
    return "mixed"


def open_version(bundle: Bundle, provider: Provider, settings: ServiceSettings) -> Engine:
    """Open a bundle as the service's settings say, as `open_engine` does.

    Raises:
        InvalidBundleError: as `open_engine` and `choose_arithmetic`.
        ProviderError: as `open_engine`.
    """
    arithmetic = choose_arithmetic(settings.arithmetic, bundle, provider)
    return open_engine(
        bundle,
        provider,
        settings.device_id,
        arithmetic,
        cuda_graphs=settings.cuda_graphs,
        cudnn=settings.cudnn,
    )


def open_engine(
    bundle: Bundle,
    provider: Provider,
    device_id: int,
    arithmetic: Arithmetic = "float32",
    *,
    cuda_graphs: bool = False,
    cudnn: bool = True,
) -> Engine:
    """Prove every file of the bundle, build sessions from the verified bytes, replay the golden examples.

    With `cuda_graphs` each of `BUCKETS` is captured now, so that no request waits for that. Without `cudnn` CUDA
    does not load that library, which no operator of the contract's graphs should ask for.

    Raises:
        InvalidBundleError: a file is missing, changed or refused (`bundle/reading.py`), a graph is not what the
            contract says, or (GoldenMismatchError) a golden example is answered wrongly.
        ProviderError: CUDA works on this machine, but not for this session.
    """
    verified = bundle.prove(GOLDEN_FILE, *GRAPHS[arithmetic])
    golden = GoldenExamples.from_bytes(verified[GOLDEN_FILE], bundle.manifest)
    sessions = []
    for name in GRAPHS[arithmetic]:
        make = partial(_session, name, verified[name], provider, device_id, bundle.manifest, cudnn=cudnn)
        captured = cuda_graphs and provider == "cuda"
        session = _captured(make, device_id, len(bundle.manifest.classes)) if captured else make()
        # Alone: so each graph answers the examples in one batch and one by one, whichever sizes are its own.
        _replay(name, Engine(bundle=bundle, provider=provider, session=session), golden)
        sessions.append(session)
    return Engine(
        bundle=bundle,
        provider=provider,
        arithmetic=arithmetic,
        session=sessions[0],
        large=sessions[-1] if arithmetic == "mixed" else None,
        probe=(
            GoldenExamples(images=golden.images[:1], probabilities=golden.probabilities[:1])
            if provider == "cuda"
            else None
        ),
    )


def _captured(make: Callable[..., Any], device_id: int, classes: int) -> GraphSession:
    """Make a session with CUDA graphs and capture all sizes, each of these steps in a turn of its own.

    The largest comes first: what memory it takes is there then, and no later capture moves what an earlier one
    has written down.
    """
    session = graph_thread().open(
        lambda: BoundSession(make(cuda_graphs=True), "cuda", device_id, classes, BUCKETS[-1])
    )
    try:
        for size in reversed(BUCKETS):
            session.run(list(OUTPUTS), {"images": np.zeros((size, IMAGE_SIZE, IMAGE_SIZE), np.uint8)})
    except Exception as error:  # its classes share no base but Exception
        text = runtime_reason(error)
        raise ProviderError(
            f"the model cannot be captured as CUDA graphs: {text}; GLYPH_CUDA_GRAPHS=false does without"
        ) from error
    return session


def _session(
    name: str,
    graph: bytes,
    provider: Provider,
    device_id: int,
    manifest: Manifest,
    *,
    cuda_graphs: bool = False,
    cudnn: bool = True,
) -> Any:
    """Return a session of ONNX Runtime's with the contract's signature, on the provider that was asked for."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.load_model_format", "ONNX")  # else its bytes decide
    options.log_severity_level = LOG_SEVERITY_FATAL  # its errors arrive as exceptions; said once is enough
    # One request is about 0.1 ms of work: more threads cost more than they bring, and a spinning
    # thread takes the CPU from the process's own HTTP.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    providers: list[Any] = [PROVIDER_NAMES[provider]]
    if provider == "cuda":
        # CUDA alone does not stop the CPU fallback, and CPU beside it is refused with this entry.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        # TF32 rounds to 10 bits of mantissa, which the golden tolerance is not made for.
        settings = {"device_id": str(device_id), "use_tf32": "0"}
        if cuda_graphs:
            settings["enable_cuda_graph"] = "1"
        if not cudnn:
            settings["enable_cudnn"] = "0"
        providers = [(PROVIDER_NAMES[provider], settings)]
    onnxruntime.set_default_logger_severity(LOG_SEVERITY_FATAL)
    try:
        # Without the last argument its Python layer tries again on the CPU, and raises what came of that instead.
        session = onnxruntime.InferenceSession(graph, options, providers=providers, enable_fallback=0)
    except Exception as error:  # its classes share no base but Exception
        text = runtime_reason(error)
        # A graph that only CUDA refuses is the provider's fault, any other the bundle's.
        if provider == "cpu" or type(error).__name__ in ("InvalidProtobuf", "InvalidGraph"):
            raise InvalidBundleError(f"{name} cannot be loaded: {text}") from error
        raise ProviderError(f"CUDA was found, but the model cannot be loaded on it: {text}") from error
    if session.get_providers()[0] != PROVIDER_NAMES[provider]:
        raise ProviderError(
            f"{PROVIDER_NAMES[provider]} was asked for, the session got {session.get_providers()}"
        )
    _check_signature(name, session, manifest)
    return session


def _check_signature(name: str, session: Any, manifest: Manifest) -> None:
    """Compare the graph's inputs and outputs, names, types and shapes, with the contract's."""
    expected = {
        "images": ("tensor(uint8)", [IMAGE_SIZE, IMAGE_SIZE]),
        "logits": ("tensor(float)", [len(manifest.classes)]),
        "probabilities": ("tensor(float)", [len(manifest.classes)]),
    }
    nodes = [*session.get_inputs(), *session.get_outputs()]
    found = {node.name: (node.type, list(node.shape[1:])) for node in nodes}
    if found != expected or len(session.get_inputs()) != 1:
        raise InvalidBundleError(
            f"{name} has the signature {one_line(found)}, the contract asks for {expected}"
        )
    if any(isinstance(node.shape[0], int) for node in nodes):
        raise InvalidBundleError(f"{name} has a fixed batch axis: export it with a dynamic one")


def _replay(name: str, engine: Engine, golden: GoldenExamples) -> None:
    """Ask for the golden examples whole and one by one, and compare both with what is recorded."""
    tolerance = engine.bundle.manifest.golden.tolerance
    try:
        whole = engine.infer(golden.images).probabilities
        single = np.concatenate([engine.infer(image[None]).probabilities for image in golden.images])
    except Exception as error:  # its classes share no base but Exception
        text = runtime_reason(error)
        if engine.provider == "cuda":
            raise ProviderError(f"CUDA was found, but the model does not run on it: {text}") from error
        raise InvalidBundleError(f"{name} does not run: {text}") from error
    for answered, how in ((whole, "in one batch"), (single, "one by one")):
        if problem := golden.mismatch(answered, tolerance):
            raise GoldenMismatchError(
                f"the golden examples, asked {how} of {name} on {PROVIDER_NAMES[engine.provider]}, are not "
                f"answered as recorded: {problem}"
            )
