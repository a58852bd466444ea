"""Loads a version that may hang, crash or take all memory: only once some process has proven it.

Of several workers one finds out what a version does, and the others use its result (`proof_table.py`).
"""

import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass

from bundle.errors import GoldenMismatchError, InvalidBundleError
from bundle.repository import Bundle
from common.errors import one_line
from serving.errors import ProviderError
from serving.model.engine import Engine, Provider, open_version
from serving.model.proof_table import PROOFS, Status, load_seconds, proof_key
from serving.model.prove import MAX_REASON, POLL_SECONDS, open_bounded, prove
from serving.settings import ServiceSettings

PEER_LOAD_SECONDS = 10
"""How long a starting worker waits while another worker loads an unproven version; then it starts without it."""
KILLED_A_WORKER = (
    "a worker was killed or crashed while it loaded this version; a separate process is proving it now"
)


class ProofPendingError(Exception):
    """A version must not be loaded before a child has proven it. The message is a reason to report; it may be empty."""


@dataclass(frozen=True, slots=True)
class VersionLoader:
    """Loads one version on one provider, proving it first if necessary."""

    settings: ServiceSettings
    shutdown: threading.Event
    """Set when the process ends."""
    provider: Provider
    bundle: Bundle
    fingerprint: Hashable
    """Changes when the version's files change."""

    def load(self, *, prove_first: bool) -> Engine:
        """Load the version, unless it is known to fail.

        Args:
            prove_first: whether a child must prove a version that is unproven. Otherwise this process loads it
                directly, unless it has killed a worker before.

        Raises:
            InvalidBundleError: the version failed, here or in the process that tried it before.
            ProviderError: CUDA failed.
            ProofPendingError: a child has to prove the version first, or another process is still trying it.
        """
        patience = time.monotonic() + PEER_LOAD_SECONDS
        while (proof := PROOFS.get(self.proof_key)).status == "unknown":
            with PROOFS.claim(self.proof_key) as claimed:
                if claimed and (proof := PROOFS.get(self.proof_key)).status == "unknown":
                    if prove_first:
                        self._prove_in_child()
                    elif proof.deaths or proof.in_child:
                        raise ProofPendingError(KILLED_A_WORKER if proof.deaths else "")
                    else:
                        return self._load_unproven()
            if not claimed:
                if prove_first or proof.in_child or time.monotonic() > patience:
                    raise ProofPendingError
                time.sleep(POLL_SECONDS)
        if proof.status != "proven":
            error = GoldenMismatchError if proof.status == "golden_mismatch" else InvalidBundleError
            raise error(proof.reason)
        with PROOFS.loading(self.proof_key):
            return open_version(self.bundle, self.provider, self.settings)

    @property
    def proof_key(self) -> str:
        """Return the key of this version's proof: files, provider and settings that a load depends on."""
        settings = self.settings
        return proof_key(
            self.bundle.path,
            self.fingerprint,
            self.provider,
            settings.arithmetic,
            settings.cuda_graphs,
            settings.cudnn,
        )

    def _load_unproven(self) -> Engine:
        """Load the version into this process, and record the result for all workers."""
        try:
            with PROOFS.loading(self.proof_key):
                return open_bounded(self.bundle, self.provider, self.settings)
        except InvalidBundleError as error:
            status: Status = "golden_mismatch" if isinstance(error, GoldenMismatchError) else "invalid"
            PROOFS.record(self.proof_key, status, one_line(error, MAX_REASON))
            raise

    def _prove_in_child(self) -> None:
        """Prove the version in a child process, and record the result for all workers.

        Raises:
            ProofPendingError: the child gave no result.
            ProviderError: CUDA failed. That is not the version's fault and may pass, so it is not recorded.
        """
        PROOFS.mark_in_child(self.proof_key)
        seconds = load_seconds(self.settings.timeout_seconds)
        try:
            status, reason = prove(self.bundle.path, self.provider, self.settings, seconds, self.shutdown)
        except OSError as error:
            raise ProofPendingError(
                f"the process that proves it cannot be started: {error.strerror}"
            ) from error
        if status == "unknown":
            raise ProofPendingError
        if status == "provider_error":
            raise ProviderError(reason)
        PROOFS.record(self.proof_key, status, reason)
