"""What computes the probabilities: here the service's own session, in this process."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnxruntime

from bundle.errors import BundleError, runtime_reason
from bundle.manifest import Polarity
from bundle.repository import Bundle, resolve
from serving.errors import DeviceLostError, ProviderError
from serving.model import engine as sessions
from serving.model.proofs import load_seconds
from serving.model.prove import prove
from serving.scoring.errors import BackendError, BackendLostError, ModelError, Stopped
from serving.scoring.records import Images
from serving.scoring.settings import ScoreSettings
from serving.settings import ServiceSettings
from serving.system.cpus import usable_cpus

BATCH: dict[sessions.Provider, int] = {"cpu": sessions.BUCKETS[-1], "cuda": 4096}
"""Images that are computed at once, where nothing else is asked for. A CPU's caches hold no more of them; a GPU
waits for its driver between batches, the longer the smaller they are, and of 4096 images all activations take
tens of megabytes."""


@dataclass(frozen=True, slots=True)
class LocalBackend:
    """The service's proven session in this process."""

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
        """Return what the model expects."""
        return self.session.bundle.manifest.input.polarity

    @property
    def identity(self) -> Mapping[str, str]:
        """Return the provider and the arithmetic, which round differently, and so may versions."""
        return {
            "provider": self.session.provider,
            "arithmetic": self.session.arithmetic,
            "onnxruntime": onnxruntime.__version__,
        }

    @property
    def batch(self) -> int:
        """Return the largest batch that the session is run with."""
        return self.session.sizes[-1]

    @property
    def concurrency(self) -> int:
        """Return one thread for each CPU, as the session itself uses one; a GPU is fed by two."""
        return usable_cpus() if self.session.provider == "cpu" else 2

    def score(self, images: Images) -> npt.NDArray[np.float32]:
        """Return the probabilities as `Engine.infer` of the service gives them.

        Raises:
            BackendLostError: the GPU has failed, or the session's memory does not suffice.
        """
        try:
            return self.session.infer(images).probabilities
        except MemoryError:
            raise
        except DeviceLostError as error:
            raise BackendLostError(
                f"{error}; look at nvidia-smi: once the GPU works, the same command goes on where it stopped"
            ) from error
        except Exception as error:  # ONNX Runtime's errors share no base
            raise BackendLostError(
                f"the model cannot be run ({runtime_reason(error)}); the same command goes on where it stopped: if "
                "memory has run out, end what else has it"
            ) from error

    def close(self) -> None:
        """Do nothing: the session ends with the process."""


def open_local(settings: ScoreSettings) -> LocalBackend:
    """Load and prove the model as the service does: first by a child, which can be timed and killed.

    Raises:
        ModelError: there is none, or it cannot be proven.
        BackendError: CUDA was asked for and does not work here, or no process can be started.
        Stopped: the child was told to end.
    """
    try:
        bundle = resolve(settings.model, settings.version)
        provider = sessions.choose_provider(settings.provider, settings.device_id)
        _prove(bundle, provider, settings)
        arithmetic = sessions.choose_arithmetic(settings.arithmetic, bundle, provider)
        if arithmetic == "mixed":
            arithmetic = "integer"  # as all full batches are; the last one of a part has the same bits so
        session = sessions.open_engine(bundle, provider, settings.device_id, arithmetic)
        most = settings.batch or BATCH[provider]
        sizes = tuple(1 << power for power in range(most.bit_length()))
        return LocalBackend(replace(session, sizes=sizes))
    except BundleError as error:
        raise ModelError(str(error)) from error
    except ProviderError as error:
        raise BackendError(str(error)) from error


def _prove(bundle: Bundle, provider: sessions.Provider, settings: ScoreSettings) -> None:
    """Have a child open the version: a graph that computes for hours hears of no signal, and says nothing."""
    asked = ServiceSettings(arithmetic=settings.arithmetic, device_id=settings.device_id)
    try:
        kind, reason = prove(bundle.path, provider, asked, load_seconds(0), threading.Event())
    except OSError as error:
        raise BackendError(f"no process can be started to prove the model: {error.strerror}") from error
    if kind == "unknown":
        raise Stopped("the process that proves the model was told to end: run again")
    if kind == "provider":
        raise ProviderError(reason)
    if kind != "proven":
        raise ModelError(reason)
