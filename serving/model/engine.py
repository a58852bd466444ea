"""The engine: loads a published version, proves it on the chosen execution provider, and runs it.

An engine is returned only after its files matched their hashes and its sessions gave the recorded probabilities of the
golden examples on the real execution provider.
"""

import logging
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

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
from serving.system.cpus import multiplies_bytes

if TYPE_CHECKING:
    from serving.settings import ServiceSettings

log = logging.getLogger("glyph.serving")

Provider = Literal["cuda", "cpu"]
Precision = Literal["float32", "integer"]
"""Precision of the first layer: float32, or exact integers of 8 bits. Settings, answers and metrics call it
`arithmetic`."""
PrecisionPolicy = Literal["auto", "float32", "integer"]
GRAPHS: dict[Precision, str] = {"float32": ONNX_FILE, "integer": INTEGER_ONNX_FILE}
PROVIDER_NAMES: dict[str, str] = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
LOG_SEVERITY_FATAL = 4
BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Batch sizes that the service runs a session with. The batch scorer has its own."""


@dataclass(slots=True)
class Outputs:
    """A model's outputs for a batch. `outputs[start:stop]` are those of a slice of its images."""

    logits: npt.NDArray[np.float32]
    """`float32[n, classes]`, after division by the calibration's temperature, before the softmax."""
    probabilities: npt.NDArray[np.float32]
    """`float32[n, classes]`, calibrated; rows sum to 1."""
    written: list[tuple[int, float, bytes]] | None = None
    """Cache of `predict/response_json.py`: the JSON of every image, encoded once for all requests of the batch."""

    def __len__(self) -> int:
        return len(self.probabilities)

    def __getitem__(self, rows: slice) -> "Outputs":
        return Outputs(self.logits[rows], self.probabilities[rows])


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """A proven version, ready to run. Safe to call from several threads at once."""

    bundle: Bundle
    provider: Provider
    session: Any
    """An `onnxruntime.InferenceSession` or a `GraphSession`."""
    precision: Precision = "float32"
    sizes: tuple[int, ...] = BUCKETS
    """Batch sizes that the session is run with, ascending."""
    probe: GoldenExamples | None = None
    """On CUDA: a golden example that is run again after an error, to learn whether the GPU still works."""

    def infer(self, images: npt.NDArray[np.uint8]) -> Outputs:
        """Return the model's outputs for `uint8[n, 28, 28]`, n at least 1.

        A batch is padded to the next of `sizes`, and a batch larger than the largest size runs in pieces of that
        size. So the session sees few shapes, ONNX Runtime chooses kernels and memory once for each, and both worker
        classes run one image in the same way.

        Raises:
            DeviceLostError: the GPU failed this batch and a golden example too. Any other error concerns this batch
                only.
        """
        session, sizes, most = self.session, self.sizes, self.sizes[-1]
        try:
            if len(images) <= most:
                return _run(session, images, sizes)
            pieces = [images[start : start + most] for start in range(0, len(images), most)]
            parts = [_run(session, piece, sizes) for piece in pieces]
        except Exception as error:  # ONNX Runtime's errors have no other common base
            if reason := self._device_failure():
                text = runtime_reason(error)
                raise DeviceLostError(
                    f"CUDA fails ({text}), and so does a golden example that passed before: {reason}"
                ) from error
            raise
        return Outputs(
            np.concatenate([part.logits for part in parts]),
            np.concatenate([part.probabilities for part in parts]),
        )

    def _device_failure(self) -> str | None:
        """Return why the GPU no longer works in this process; None if it does, and always on the CPU.

        Source: the CUDA runtime API. After an error such as cudaErrorIllegalAddress every later call returns the same
        error, and "the process must be terminated and relaunched".
        """
        if self.probe is None:
            return None
        try:
            found = _run(self.session, self.probe.images, self.sizes).probabilities
        except Exception as error:  # noqa: BLE001  ONNX Runtime's errors have no other common base
            return runtime_reason(error)
        return self.probe.mismatch(found, self.bundle.manifest.golden.tolerance)


def _run(session: Any, images: npt.NDArray[np.uint8], sizes: tuple[int, ...]) -> Outputs:
    """Run a batch of at most the largest of `sizes` images, padded to the next size."""
    count = len(images)
    more = padding(count, sizes)
    if more:
        images = padded(images, count + more)
    outputs = Outputs(*session.run(list(OUTPUTS), {"images": images}))
    return outputs[:count] if more else outputs


def padded(images: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Return `uint8[size, 28, 28]`: the images, followed by black ones."""
    full = np.zeros((size, *images.shape[1:]), np.uint8)
    full[: len(images)] = images
    return full


def padding(count: int, sizes: tuple[int, ...] = BUCKETS) -> int:
    """Return how many images a batch of `count` is padded with: its last piece, if it runs in several."""
    last = (count - 1) % sizes[-1] + 1
    return sizes[bisect_left(sizes, last)] - last


def choose_provider(policy: str, device_id: int) -> Provider:
    """Choose the execution provider by policy: `cuda`, `cpu`, or `auto`, which logs its choice.

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
        raise ProviderError(f"the CUDA execution provider was requested and does not work here: {reason}")
    log.info("execution provider: CPU (auto, because %s)", reason)
    return "cpu"


def choose_precision(policy: PrecisionPolicy, bundle: Bundle, provider: Provider) -> Precision:
    """Choose the precision of the first layer by policy: `float32`, `integer`, or `auto`, which logs its reason.

    CUDA computes in float32, whatever the policy.

    Raises:
        InvalidBundleError: the policy is `integer`, and the version has no integer graph.
    """
    if provider != "cpu" or policy == "float32":
        return "float32"
    missing = None
    if INTEGER_ONNX_FILE not in bundle.manifest.files:
        why = bundle.manifest.omitted.get(INTEGER_ONNX_FILE, "an older Glyph published it")
        missing = f"version {bundle.version} has no {INTEGER_ONNX_FILE} ({why})"
    if policy == "integer":
        if missing:
            raise InvalidBundleError(
                f"integers were requested for the first layer, and {missing}: use 'auto', or publish another version"
            )
        return "integer"
    if missing is None and not multiplies_bytes():
        missing = "this processor has no instructions for products of bytes (VNNI, AMX or Arm's dot products)"
    if missing:
        log.info("precision of the first layer: float32 (auto, because %s)", missing)
        return "float32"
    return "integer"


def open_version(bundle: Bundle, provider: Provider, settings: "ServiceSettings") -> Engine:
    """Open a bundle with the service's settings.

    Raises:
        InvalidBundleError: as `open_engine` and `choose_precision`.
        ProviderError: as `open_engine`.
    """
    precision = choose_precision(settings.arithmetic, bundle, provider)
    return open_engine(
        bundle,
        provider,
        settings.device_id,
        precision,
        cuda_graphs=settings.cuda_graphs,
        cudnn=settings.cudnn,
    )


def open_engine(
    bundle: Bundle,
    provider: Provider,
    device_id: int,
    precision: Precision = "float32",
    *,
    cuda_graphs: bool = False,
    cudnn: bool = True,
) -> Engine:
    """Verify the files of a bundle, create a session from the verified bytes, and replay the golden examples.

    With `cuda_graphs`, a CUDA graph is captured for each of `BUCKETS` now, so that no request waits for a capture.
    Without `cudnn`, CUDA does not load cuDNN, which no operator of the contract's graphs should need.

    Raises:
        InvalidBundleError: a file is missing, changed or not allowed (`bundle/reading.py`), a graph breaks the
            contract, or (GoldenMismatchError) a golden example gives other probabilities than the recorded ones.
        ProviderError: CUDA works on this machine, but not for this session.
    """
    name = GRAPHS[precision]
    verified = bundle.prove(GOLDEN_FILE, name)
    golden = GoldenExamples.from_bytes(verified[GOLDEN_FILE], bundle.manifest)
    create = partial(_create_session, name, verified[name], provider, device_id, bundle.manifest, cudnn=cudnn)
    if cuda_graphs and provider == "cuda":
        session = _capture_graphs(create, device_id, len(bundle.manifest.classes))
    else:
        session = create()
    engine = Engine(bundle=bundle, provider=provider, precision=precision, session=session)
    _replay_golden_examples(name, engine, golden)
    if provider == "cpu":
        return engine
    return replace(
        engine, probe=GoldenExamples(images=golden.images[:1], probabilities=golden.probabilities[:1])
    )


def _capture_graphs(create: Callable[..., Any], device_id: int, classes: int) -> GraphSession:
    """Create a session with CUDA graphs and capture a graph for every size, each in a call of its own on the thread.

    The largest size is captured first: it allocates the memory that the others use too, so no later capture moves
    memory whose address an earlier graph has recorded.
    """
    session = graph_thread().open(
        lambda: BoundSession(create(cuda_graphs=True), "cuda", device_id, classes, BUCKETS[-1])
    )
    try:
        for size in reversed(BUCKETS):
            session.run(list(OUTPUTS), {"images": np.zeros((size, IMAGE_SIZE, IMAGE_SIZE), np.uint8)})
    except Exception as error:  # ONNX Runtime's errors have no other common base
        text = runtime_reason(error)
        raise ProviderError(
            f"the model cannot be captured as CUDA graphs: {text}; GLYPH_CUDA_GRAPHS=false serves without them"
        ) from error
    return session


def _create_session(
    name: str,
    graph: bytes,
    provider: Provider,
    device_id: int,
    manifest: Manifest,
    *,
    cuda_graphs: bool = False,
    cudnn: bool = True,
) -> Any:
    """Create an ONNX Runtime session on the given provider, and check that it has the contract's signature."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.load_model_format", "ONNX")  # else the bytes decide the format
    options.log_severity_level = LOG_SEVERITY_FATAL  # errors arrive as exceptions, and are logged as such
    # A request is about 0.1 ms of work: more threads cost more than they gain, and a spinning thread takes the CPU
    # from the process's own HTTP.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if not multiplies_bytes():
        # Products of signed and unsigned bytes are added in 16 bits then, which saturate. With this entry ONNX Runtime
        # makes the signed bytes unsigned, with a zero point of 128: exact, and slower.
        options.add_session_config_entry("session.x64quantprecision", "1")
    providers: list[Any] = [PROVIDER_NAMES[provider]]
    if provider == "cuda":
        # Listing CUDA alone does not prevent the CPU fallback; with this entry, listing the CPU too is an error.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        # TF32 rounds to 10 bits of mantissa, and the tolerance of the golden examples does not allow for that.
        provider_options = {"device_id": str(device_id), "use_tf32": "0"}
        if cuda_graphs:
            provider_options["enable_cuda_graph"] = "1"
        if not cudnn:
            provider_options["enable_cudnn"] = "0"
        providers = [(PROVIDER_NAMES[provider], provider_options)]
    onnxruntime.set_default_logger_severity(LOG_SEVERITY_FATAL)
    try:
        # Without the last argument ONNX Runtime's Python layer tries again on the CPU and raises that error instead.
        session = onnxruntime.InferenceSession(graph, options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's errors have no other common base
        text = runtime_reason(error)
        # If only CUDA rejects the graph, that is the provider's fault; otherwise it is the bundle's.
        if provider == "cpu" or type(error).__name__ in ("InvalidProtobuf", "InvalidGraph"):
            raise InvalidBundleError(f"{name} cannot be loaded: {text}") from error
        raise ProviderError(f"CUDA was found, but the model cannot be loaded on it: {text}") from error
    if session.get_providers()[0] != PROVIDER_NAMES[provider]:
        raise ProviderError(
            f"{PROVIDER_NAMES[provider]} was requested, but the session got {session.get_providers()}"
        )
    _check_signature(name, session, manifest)
    return session


def _check_signature(name: str, session: Any, manifest: Manifest) -> None:
    """Compare the names, types and shapes of the graph's inputs and outputs with the contract's."""
    expected = {
        "images": ("tensor(uint8)", [IMAGE_SIZE, IMAGE_SIZE]),
        "logits": ("tensor(float)", [len(manifest.classes)]),
        "probabilities": ("tensor(float)", [len(manifest.classes)]),
    }
    nodes = [*session.get_inputs(), *session.get_outputs()]
    found = {node.name: (node.type, list(node.shape[1:])) for node in nodes}
    if found != expected or len(session.get_inputs()) != 1:
        raise InvalidBundleError(
            f"{name} has the signature {one_line(found)}, but the contract requires {expected}"
        )
    if any(isinstance(node.shape[0], int) for node in nodes):
        raise InvalidBundleError(f"{name} has a fixed batch axis: export it with a dynamic one")


def _replay_golden_examples(name: str, engine: Engine, golden: GoldenExamples) -> None:
    """Run the golden examples in one batch and one by one, and compare both with the recorded probabilities."""
    tolerance = engine.bundle.manifest.golden.tolerance
    try:
        whole = engine.infer(golden.images).probabilities
        single = np.concatenate([engine.infer(image[None]).probabilities for image in golden.images])
    except Exception as error:  # ONNX Runtime's errors have no other common base
        text = runtime_reason(error)
        if engine.provider == "cuda":
            raise ProviderError(f"CUDA was found, but the model does not run on it: {text}") from error
        raise InvalidBundleError(f"{name} does not run: {text}") from error
    for found, how in ((whole, "in one batch"), (single, "one by one")):
        if problem := golden.mismatch(found, tolerance):
            raise GoldenMismatchError(
                f"the golden examples, run {how} with {name} on {PROVIDER_NAMES[engine.provider]}, do not give the "
                f"recorded probabilities: {problem}"
            )
