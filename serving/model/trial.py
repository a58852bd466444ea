"""How a worker comes to load a version that may hang, crash or take all memory: after somebody has proven it."""

import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass

from bundle.errors import GoldenMismatchError, InvalidBundleError
from bundle.repository import Bundle
from common.errors import one_line
from serving.errors import ProviderError
from serving.model.engine import Engine, Provider, open_version
from serving.model.proofs import PROOFS, Kind, key, load_seconds
from serving.model.prove import LOOK_SECONDS, MAX_REASON, open_bounded, prove
from serving.settings import ServiceSettings

TURN_SECONDS = 10
"""In which a worker that starts waits for another to load a version that nobody has proven; then it starts without."""
DEADLY = (
    "a worker was killed or crashed while it loaded this version; it is being proven by a process of its own"
)


class NotYetError(Exception):
    """A version cannot be loaded before a child has proven it; the message is the reason, if others are to know."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One version on one provider. Of several workers one finds out what it does, and the others use that."""

    settings: ServiceSettings
    ending: threading.Event
    """Set when the process ends."""
    provider: Provider
    bundle: Bundle
    fingerprint: Hashable
    """What tells the version's files from changed ones."""

    def open(self, *, by_child: bool) -> Engine:
        """Open the version, if nothing is known against it.

        Args:
            by_child: whether a child is to prove it, if nobody has; else it is loaded into this process, unless a
                worker has died of it.

        Raises:
            InvalidBundleError: it is refused, here or by who has tried it before.
            ProviderError: CUDA fails it.
            NotYetError: a child has to find out, or another process does at this moment, and takes its time.
        """
        patience = time.monotonic() + TURN_SECONDS
        while (proof := PROOFS.look(self.name)).kind == "unknown":
            with PROOFS.turn(self.name) as own:
                if own and (proof := PROOFS.look(self.name)).kind == "unknown":
                    if by_child:
                        self._prove()
                    elif proof.deaths or proof.apart:
                        raise NotYetError(DEADLY if proof.deaths else "")
                    else:
                        return self._load_unproven()
            if not own:
                if by_child or proof.apart or time.monotonic() > patience:
                    raise NotYetError
                time.sleep(LOOK_SECONDS)
        if proof.kind != "proven":
            raise (GoldenMismatchError if proof.kind == "golden" else InvalidBundleError)(proof.reason)
        with PROOFS.loading(self.name):
            return open_version(self.bundle, self.provider, self.settings)

    @property
    def name(self) -> str:
        """Return the name of the proof."""
        asked = self.settings
        return key(
            self.bundle.path,
            self.fingerprint,
            self.provider,
            asked.arithmetic,
            asked.cuda_graphs,
            asked.cudnn,
        )

    def _load_unproven(self) -> Engine:
        """Open it in this process, and let all workers know what came of it."""
        try:
            with PROOFS.loading(self.name):
                return open_bounded(self.bundle, self.provider, self.settings)
        except InvalidBundleError as error:
            kind: Kind = "golden" if isinstance(error, GoldenMismatchError) else "bundle"
            PROOFS.settle(self.name, kind, one_line(error, MAX_REASON))
            raise

    def _prove(self) -> None:
        """Have a child prove it, and let all workers know what came of it.

        Raises:
            NotYetError: nothing came of it.
            ProviderError: CUDA fails it, which is not the version's fault, and may pass.
        """
        PROOFS.apart(self.name)
        seconds = load_seconds(self.settings.timeout_seconds)
        try:
            kind, reason = prove(self.bundle.path, self.provider, self.settings, seconds, self.ending)
        except OSError as error:
            raise NotYetError(f"no process can be started to prove it: {error.strerror}") from error
        if kind == "unknown":
            raise NotYetError
        if kind == "provider":
            raise ProviderError(reason)
        PROOFS.settle(self.name, kind, reason)
