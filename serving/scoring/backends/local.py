"""The local backend: the service's ONNX Runtime session in this process."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnxruntime

from bundle.errors import BundleError, runtime_reason
from bundle.images.contract import Resize
from bundle.manifest import Polarity
from bundle.repository import resolve
from serving.errors import DeviceLostError, ProviderError
from serving.model import engine as sessions
from serving.model.prove import ProofResult
from serving.scoring.backends.proof import Proof
from serving.scoring.errors import BackendError, BackendLostError, ModelError, Stopped
from serving.scoring.fork_server import ForkServer
from serving.scoring.records import Images
from serving.scoring.settings import ScoreSettings
from serving.system.cpus import usable_cpus

BATCH: dict[sessions.Provider, int] = {"cpu": sessions.BUCKETS[-1], "cuda": 4096}
"""Default batch size. On a CPU, the activations of more images do not fit the caches; on a GPU, launch overhead
dominates small batches, and the activations of 4096 images take tens of megabytes."""


@dataclass(frozen=True, slots=True)
class LocalBackend:
    """A proven session of the service."""

    session: sessions.Engine

    @property
    def digest(self) -> str:
        """Return the digest of the bundle."""
        return self.session.bundle.manifest.digest

    @property
    def classes(self) -> Sequence[str]:
        """Return the names of the classes."""
        return self.session.bundle.manifest.classes

    @property
    def polarity(self) -> Polarity:
        """Return the polarity that the model expects."""
        return self.session.bundle.manifest.input.polarity

    @property
    def resize(self) -> Resize | None:
        """Return how the model's training images were resized."""
        return self.session.bundle.manifest.input.resize

    @property
    def identity(self) -> Mapping[str, str]:
        """Return provider, precision and ONNX Runtime's version: each may round differently."""
        return {
            "provider": self.session.provider,
            "arithmetic": self.session.precision,
            "onnxruntime": onnxruntime.__version__,
        }

    @property
    def batch(self) -> int:
        """Return the largest batch size of the session."""
        return self.session.sizes[-1]

    @property
    def concurrency(self) -> int:
        """Return one thread per CPU, as the session is single-threaded; two keep a GPU busy."""
        return usable_cpus() if self.session.provider == "cpu" else 2

    def score(self, images: Images) -> npt.NDArray[np.float32]:
        """Return the probabilities of the service's `Engine.infer`.

        Raises:
            BackendLostError: the GPU failed, or the session ran out of memory.
        """
        try:
            return self.session.infer(images).probabilities
        except MemoryError:
            raise
        except DeviceLostError as error:
            raise BackendLostError(
                f"{error}; check nvidia-smi: once the GPU works, the same command resumes the run"
            ) from error
        except Exception as error:  # ONNX Runtime's errors share no base
            raise BackendLostError(
                f"inference failed ({runtime_reason(error)}); the same command resumes the run: if "
                "memory ran out, free some first"
            ) from error

    def close(self) -> None:
        """Do nothing: the session ends with the process."""


def start_proof(settings: ScoreSettings, server: ForkServer) -> Proof:
    """Find the model, and start its proof in a child process.

    Raises:
        ModelError: there is no model.
        BackendError: CUDA is required and does not work, or no process can be started.
    """
    with _scoring_errors():
        bundle = resolve(settings.model, settings.version, settings.trusted_keys)
        provider = sessions.choose_provider(settings.provider, settings.device_id)
        try:
            return Proof(bundle, provider, settings, server)
        except OSError as error:
            raise BackendError(f"no process can be started to prove the model: {error.strerror}") from error


def open_local(settings: ScoreSettings, proof: Proof | None = None) -> LocalBackend:
    """Load and prove the model as the service does: first in a child process, which can be timed out and killed.

    Args:
        settings: the job.
        proof: of the model, if it was started before.

    Raises:
        ModelError: there is no model, or it cannot be proven.
        BackendError: CUDA is required and does not work, or no process can be started.
        Stopped: the child was terminated by a signal.
    """
    if proof is None:
        server = ForkServer()
        with closing(server), closing(start_proof(settings, server)) as started:
            return open_local(settings, started)
    bundle, provider = proof.bundle, proof.provider
    with _scoring_errors():
        _check(proof.result())
        arithmetic = sessions.choose_precision(settings.arithmetic, bundle, provider)
        session = sessions.open_engine(bundle, provider, settings.device_id, arithmetic)
    most = settings.batch or BATCH[provider]
    sizes = tuple(1 << power for power in range(most.bit_length()))
    return LocalBackend(replace(session, sizes=sizes))


@contextmanager
def _scoring_errors() -> Iterator[None]:
    """Convert the errors of a bundle and of a provider into the scorer's."""
    try:
        yield
    except BundleError as error:
        raise ModelError(str(error)) from error
    except ProviderError as error:
        raise BackendError(str(error)) from error


def _check(result: ProofResult) -> None:
    """Raise the error that a proof's result means."""
    kind, reason = result
    if kind == "unknown":
        raise Stopped("the process that proves the model was terminated: run again")
    if kind == "provider_error":
        raise ProviderError(reason)
    if kind != "proven":
        raise ModelError(reason)
