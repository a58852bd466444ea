"""The model store: the proven versions that a process serves, or the reason why it serves none."""

import contextlib
import logging
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bundle.errors import BundleError, GoldenMismatchError, InvalidBundleError, NoBundleError
from bundle.manifest import FILES, MANIFEST_FILE, OPTIONAL_FILES, SIGNATURE_FILE
from bundle.repository import Bundle, published, resolve, version_path
from bundle.signing import key_files
from common.errors import one_line
from serving.errors import NotFoundError, NotReadyError, ProviderError
from serving.model.engine import Engine, Provider, choose_provider
from serving.model.mirror import Mirror
from serving.model.proof_table import PROOFS
from serving.model.prove import MAX_REASON
from serving.model.version_loader import ProofPendingError, VersionLoader
from serving.settings import ServiceSettings
from serving.telemetry import readiness_report
from serving.telemetry.metrics import Metrics

log = logging.getLogger("glyph.serving")

Fingerprint = tuple[tuple[str, int, int, int], ...]


def fingerprint(path: Path, trusted: Path | None = None) -> Fingerprint:
    """Return a value that changes when a version or the trusted keys do: name, inode, size and time of each file."""
    files = [path / name for name in (MANIFEST_FILE, *FILES, *OPTIONAL_FILES)]
    if trusted is not None:
        with contextlib.suppress(OSError):
            files += [path / SIGNATURE_FILE, *(key.resolve() for key in key_files(trusted))]
    found = []
    for file in files:
        with contextlib.suppress(OSError):
            stat = file.lstat()
            found.append((file.name, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """A version that was proven and is in memory."""

    version: int
    engine: Engine
    fingerprint: Fingerprint


@dataclass(frozen=True, slots=True)
class FailedVersion:
    """A published version that failed verification. It is tried again when its files change, or if `retry` is set."""

    version: int
    reason: str
    fingerprint: Fingerprint
    golden_mismatch: bool = False
    """Whether the version is intact but gave other probabilities for its golden examples than the recorded ones."""
    retry: bool = False
    """Whether a child has still to prove the version, so that this failure is provisional."""


@dataclass(slots=True)
class ModelStore:
    """The models of one process. A request calls `engine()` once and keeps the engine until it is answered.

    `load` looks for the version to serve: at the start, and then whenever the reloader calls it. It loads and proves
    a new version beside the served one and replaces `_loaded` by one assignment, so that no reader ever sees half of
    one model and half of another. A version that fails verification changes only what is reported.

    A child process proves a version first (`prove.py`), once for all workers of the service (`proof_table.py`). At the
    start there are no requests to endanger and time counts, so a worker loads an unproven version directly, unless
    the version has killed a worker before.
    """

    settings: ServiceSettings
    provider: Provider
    metrics: Metrics = field(default_factory=Metrics)
    mirror: Mirror | None = None
    """What fetches versions, if the model is in an object store."""
    _loaded: tuple[LoadedVersion, ...] = ()
    """The served version first, then those that were served before it."""
    _failed: dict[int, FailedVersion] = field(default_factory=dict)
    _reason: str = "the model is not loaded yet"
    """Why no version is loaded."""
    _draining: bool = False
    device_lost: bool = False
    """Whether the GPU has failed for good in this process, which is then not ready and ends."""
    proof_pending: bool = False
    """Whether a version waits for a child to prove it, so that the reloader should look again soon."""
    shutdown: threading.Event = field(default_factory=threading.Event)
    """Set when the process ends; a child that proves a version is then killed."""
    _load_lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def start(
        cls, settings: ServiceSettings, metrics: Metrics | None = None, *, prove_first: bool = False
    ) -> "ModelStore":
        """Choose the execution provider and load the model. A model that cannot be loaded is no error here.

        Args:
            settings: the service's settings.
            metrics: this process's metrics; by default new ones that no other process sees.
            prove_first: whether a child proves each version before it is loaded, which takes a moment longer.

        Raises:
            ProviderError: the policy is `cuda` and CUDA does not work.
        """
        provider = choose_provider(settings.provider, settings.device_id)
        metrics = Metrics() if metrics is None else metrics
        mirror = Mirror(settings, metrics) if isinstance(settings.model, str) else None
        store = cls(settings, provider, metrics, mirror)
        store.load(prove_first=prove_first)
        return store

    # For requests

    def engine(self, version: int | None = None) -> Engine:
        """Return the engine of the served version, or of another version that is still loaded.

        Raises:
            NotReadyError: no version is loaded; the detail says why.
            NotFoundError: that version is not loaded.
        """
        loaded = self._loaded
        if not loaded:
            raise self._not_ready(readiness_report.no_model(self._reason), NotReadyError.remedy)
        if version is None:
            return loaded[0].engine
        for one in loaded:
            if one.version == version:
                return one.engine
        raise NotFoundError(
            f"version {version} is not loaded",
            remedy=f"Ask for one of the versions that are: {', '.join(map(str, self.versions()))}.",
        )

    def versions(self) -> list[int]:
        """Return the versions that `engine` accepts, in ascending order."""
        return sorted(one.version for one in self._loaded)

    def report(self) -> dict[str, Any]:
        """Return the readiness report, which `/readyz` answers with.

        Raises:
            NotReadyError: no version is served, or the process is ending.
        """
        if self._draining:
            raise self._not_ready(*readiness_report.ENDING)
        return readiness_report.report(self.facts(self.engine()))

    def facts(self, engine: Engine) -> dict[str, Any]:
        """Return what the readiness report says about the served engine and the other versions."""
        manifest = engine.bundle.manifest
        return {
            "model": {"name": manifest.name, "version": engine.bundle.version, "digest": manifest.digest},
            "provider": engine.provider,
            "arithmetic": engine.precision,
            "loaded": self.versions(),
            "refused": self._failures(),
        }

    def published_facts(self) -> dict[str, Any]:
        """Return the facts of this process (`facts`); without a model, only the versions that failed verification."""
        loaded = self._loaded
        return self.facts(loaded[0].engine) if loaded else {"refused": self._failures()}

    # For the process

    def drain(self) -> None:
        """Report not ready from now on, because the process is ending. Safe in a signal handler."""
        if not self.device_lost:  # else it is reported as not ready already, with that reason
            self._draining = True
            self.metrics.state("draining")

    def lose_device(self, reason: str) -> NotReadyError:
        """Become not ready for good, because the GPU has failed; return the error to answer requests with.

        The worker checks `device_lost` and ends, and the arbiter starts another. May be called on any thread.
        """
        if not self.device_lost:
            self._reason = f"the GPU was lost: {reason}"
            self.device_lost = True
            self._loaded = ()
            log.critical("%s; this worker ends, and the arbiter starts another", self._reason)
            self._publish()
        return self._not_ready(
            readiness_report.no_model(self._reason), "Ask again: another process takes this one's place."
        )

    def close(self) -> None:
        """Free all models, and let another process fetch.

        If the interpreter freed the models at its end, CUDA would be gone, and it would crash.
        """
        self._loaded = ()
        if self.mirror is not None:
            self.mirror.close()
        PROOFS.forget_process()

    @property
    def is_waiting(self) -> bool:
        """Return whether a first version is still to arrive from an object store."""
        return self.mirror is not None and not self._loaded and not self.device_lost

    def load(self, *, prove_first: bool = True) -> None:
        """Serve the newest version that can be proven, or the pinned one. If there is none, nothing changes.

        A version that is already served, or has failed, is not tried again until its files change. If the served
        version is no longer published, the newest published one replaces it, so removing a version rolls back.

        Args:
            prove_first: whether a child proves a version before it is loaded. Otherwise an unproven version is
                loaded directly, unless it has killed a worker before.

        Raises:
            ProviderError: the policy is `cuda`, nothing is served yet, and no version could be loaded, at least one
                of them because CUDA failed.
        """
        if self.device_lost:
            return
        cuda_failures: dict[int, ProviderError] = {}
        with self._load_lock:
            try:
                self.proof_pending = False
                before = self._loaded, self._failures()
                candidates = self._candidates()
                self._forget_stale_failures(candidates)
                for version in candidates:
                    try:
                        if self._try_version(version, prove_first=prove_first):
                            break
                    except ProviderError as error:  # an older version may work
                        cuda_failures[version] = error
            except BundleError as error:  # nothing is published, or the directory cannot be read
                if not self._loaded and self._reason != error.detail:
                    self._reason = error.detail
                    # The mirror logs what went wrong with the store; that it is waited for is no error.
                    log.log(logging.INFO if self.is_waiting else logging.ERROR, "not ready: %s", error)
            if before != (self._loaded, self._failures()) or not self._loaded:
                self._publish()
            for version, failure in cuda_failures.items():
                if not self._loaded:
                    raise failure
                path = version_path(self.settings.model_directory, version)
                found = fingerprint(path, self.settings.trusted_keys)
                self._fail(FailedVersion(version, one_line(failure, MAX_REASON), found))

    def _candidates(self) -> list[int]:
        """Return the versions to try, in this order: the pinned one, or all that are published, newest first.

        Raises:
            BundleError: there is none.
        """
        found, pinned = published(self.settings.model_directory), self.settings.version
        if pinned is None and found:
            return found[::-1]
        if pinned in found:
            return [pinned]
        if self.mirror is not None:
            raise NoBundleError(self.mirror.reason)
        return [resolve(self.settings.model_directory, pinned, self.settings.trusted_keys).version]

    def _forget_stale_failures(self, candidates: list[int]) -> None:
        """Drop failures of versions that are no longer published or are older than the served one."""
        served = self._loaded[0].version if self._loaded else 0
        for version in list(self._failed):
            if version not in candidates or version < served:
                del self._failed[version]

    def _try_version(self, version: int, *, prove_first: bool) -> bool:
        """Serve a version if it can be proven, and return whether the search for a version is over."""
        path = version_path(self.settings.model_directory, version)
        found = fingerprint(path, self.settings.trusted_keys)
        for one in self._loaded:
            if one.version == version and one.fingerprint == found:
                self._failed.pop(version, None)  # its files were damaged for a while and are whole again
                self._swap(one)
                return True
        failed = self._failed.get(version)
        if failed is None or failed.retry or failed.fingerprint != found:
            started = time.perf_counter()
            try:
                engine = self._open(self._bundle(path), found, prove_first=prove_first)
            except ProofPendingError as error:
                self.proof_pending = True
                reason = str(error)
                if reason and (failed is None or failed.reason != reason):
                    self._fail(FailedVersion(version, reason, found, retry=True))
                return bool(self._loaded)  # an older version is tried only if none is served
            except (BundleError, ProviderError) as error:
                if isinstance(error, ProviderError) and not self._loaded:
                    raise
                reason = one_line(error, MAX_REASON)  # it may quote names from the graph
                self._fail(FailedVersion(version, reason, found, isinstance(error, GoldenMismatchError)))
            except Exception as error:
                log.exception("loading version %d failed", version)
                reason = f"an unexpected error: {one_line(error, MAX_REASON)}"
                self._fail(FailedVersion(version, reason, found))
            else:
                self._failed.pop(version, None)
                self._swap(LoadedVersion(version, engine, found))
                self.metrics.golden(passed=True)
                self.metrics.loaded(time.perf_counter() - started)
                return True
        # If this is the served version, its files were damaged after it was loaded: what is in memory is still good.
        return bool(self._loaded) and self._loaded[0].version == version

    def _bundle(self, path: Path) -> Bundle:
        """Open a version under the name that it is served by, which stays the same while the process runs.

        Raises:
            BundleError: as `Bundle.open`, or the version is of another model, or not the pinned one.
        """
        bundle, digest = self._opened(path), self.settings.model_digest
        if digest not in (None, bundle.manifest.digest):
            raise InvalidBundleError(
                f"it has the digest {bundle.manifest.digest}, and GLYPH_MODEL_DIGEST asks for {digest}"
            )
        if self.settings.served_name is not None:
            return bundle.named(self.settings.served_name)
        name = bundle.manifest.name
        if name != (expected := self._model_name(name)):
            raise InvalidBundleError(
                f"the manifest is of model '{name}', but the served model is '{expected}': publish it under its own "
                "name, or set GLYPH_SERVED_NAME"
            )
        return bundle

    def _opened(self, path: Path) -> Bundle:
        return Bundle.open(path, self.settings.trusted_keys, mounted=True)

    def _model_name(self, own: str) -> str:
        """Return the name that a version must have whose name is `own`: that of the served one, if there is one.

        Before that a directory may have any name, unless one of its versions is of the model that it is named after.
        """
        if self._loaded:
            return self._loaded[0].engine.bundle.manifest.name
        model = self.settings.model_directory.absolute()
        for version in published(model) if own != model.name else ():
            with contextlib.suppress(BundleError):
                return Bundle.open(model / str(version), self.settings.trusted_keys).manifest.name
        return own

    def _open(self, bundle: Bundle, found: Fingerprint, *, prove_first: bool) -> Engine:
        """Load a bundle on the chosen provider. At the start, under `auto`, fall back to the CPU if CUDA fails."""
        try:
            return self._loader(bundle, found).load(prove_first=prove_first)
        except ProviderError as error:
            if self.settings.provider != "auto" or self._loaded:
                raise
            log.warning("execution provider: CPU (auto, because %s)", error)
            self.provider = "cpu"
            return self._loader(bundle, found).load(prove_first=prove_first)

    def _loader(self, bundle: Bundle, found: Fingerprint) -> VersionLoader:
        return VersionLoader(self.settings, self.shutdown, self.provider, bundle, found)

    def _swap(self, chosen: LoadedVersion) -> None:
        """Serve `chosen`, and keep as many of the versions before it as the settings say."""
        if self._loaded and self._loaded[0] is chosen:
            return
        others = [one for one in self._loaded if one.version != chosen.version]
        self._loaded = (chosen, *others[: self.settings.kept_versions])
        if self.device_lost:  # while the version was loading
            self._loaded = ()
            return
        self._publish()
        manifest = chosen.engine.bundle.manifest
        log.info(
            "ready: %s version %d on %s, first layer in %s precision, digest %s",
            manifest.name,
            chosen.version,
            chosen.engine.provider,
            chosen.engine.precision,
            manifest.digest[:12],
        )

    def _fail(self, failed: FailedVersion) -> None:
        """Report a version that failed: publish the failure first, then count it."""
        if not self._loaded and failed.version >= max(self._failed, default=0):
            self._reason = failed.reason  # the newest version's, which an operator expects to be served
        self._failed[failed.version] = failed
        self._publish()
        if failed.golden_mismatch:
            self.metrics.golden(passed=False)
        self.metrics.load_failed()
        if self._loaded:
            log.error(
                "version %d failed verification: %s; version %d keeps serving",
                failed.version,
                failed.reason,
                self._loaded[0].version,
            )
        else:
            log.error("not ready: %s", failed.reason)

    def _not_ready(self, detail: str, remedy: str) -> NotReadyError:
        extensions = {"refused": failures} if (failures := self._failures()) else {}
        return readiness_report.not_ready(detail, remedy, extensions)

    def _failures(self) -> list[dict[str, Any]]:
        failed = list(self._failed.values())  # copied in one step, because other threads call this
        unfetched = self.mirror.refused() if self.mirror is not None else []
        return readiness_report.newest_first(
            [*unfetched, *({"version": each.version, "reason": each.reason} for each in failed)]
        )

    def _publish(self) -> None:
        """Publish the facts to the management process, which answers probes and metrics for all workers."""
        facts: dict[str, Any] = {
            "loaded": self.versions(),
            "refused": self._failures(),
            "reason": self._reason,
        }
        if self._loaded:
            engine = self._loaded[0].engine
            device = "cpu" if engine.provider == "cpu" else f"cuda:{self.settings.device_id}"
            facts |= self.facts(engine) | {"device": device}
        self.metrics.publish(facts)
        self.metrics.golden_check(passed=not any(failed.golden_mismatch for failed in self._failed.values()))
        if not self._draining:
            self.metrics.state("ready" if self._loaded else "unready")
