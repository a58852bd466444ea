"""What the service answers with at this moment: proven engines, or the reason why there is none."""

import contextlib
import logging
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bundle.errors import BundleError, GoldenMismatchError
from bundle.manifest import FILES, MANIFEST_FILE, OPTIONAL_FILES
from bundle.repository import Bundle, resolve, versions
from common.errors import one_line
from serving.errors import NotFoundError, NotReadyError, ProviderError
from serving.model.engine import Engine, Provider, choose_provider
from serving.model.proofs import PROOFS
from serving.model.prove import MAX_REASON
from serving.model.trial import NotYetError, Trial
from serving.settings import ServiceSettings
from serving.telemetry import readiness_report
from serving.telemetry.metrics import Metrics

log = logging.getLogger("glyph.serving")

Fingerprint = tuple[tuple[str, int, int, int], ...]


def fingerprint(path: Path) -> Fingerprint:
    """Return what tells a version from a changed one: name, inode, size and time of each of a bundle's files."""
    found = []
    for name in (MANIFEST_FILE, *FILES, *OPTIONAL_FILES):
        with contextlib.suppress(OSError):
            stat = (path / name).lstat()
            found.append((name, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version that was proven."""

    engine: Engine
    fingerprint: Fingerprint


@dataclass(frozen=True, slots=True)
class Refusal:
    """A published version that could not be proven. It is tried again when its files change, or if that is due."""

    version: int
    reason: str
    fingerprint: Fingerprint
    golden: bool
    """Whether it is intact, and answered its golden examples wrongly."""
    due: bool = False
    """Whether it is no verdict: a child is still to prove the version."""


@dataclass(slots=True)
class ModelStore:
    """One process's model. Readers take `engine()` once a request and keep what they got.

    `load` looks for what is to be served, at start and then as often as the housekeeper calls it. It
    proves a new version beside the old one and replaces `_loaded` by one assignment, so that no
    reader ever sees half of one model and half of another. A version that cannot be proven changes
    nothing but what is reported.

    A child proves a version first (`prove.py`), for all workers of the service (`proofs.py`). Only at
    a start, when no request is in danger and time counts, a version is loaded without; one that has killed a worker
    is not.
    """

    settings: ServiceSettings
    provider: Provider
    metrics: Metrics = field(default_factory=Metrics)
    _loaded: tuple[Loaded, ...] = ()
    """The served version first, then what was served before it."""
    _refusals: dict[int, Refusal] = field(default_factory=dict)
    _reason: str = "the model is not loaded yet"
    _draining: bool = False
    lost: bool = False
    """Whether the GPU computes no more for this process: it is not ready, and ends."""
    pending: bool = False
    """Whether a version waits for a child to prove it, so that it is to be looked at again soon."""
    ending: threading.Event = field(default_factory=threading.Event)
    """Set when the process ends: nothing is proven any more."""
    _loading: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def start(
        cls, settings: ServiceSettings, metrics: Metrics | None = None, *, by_child: bool = False
    ) -> "ModelStore":
        """Choose the provider and load the model; a model that cannot be loaded is no error here.

        Args:
            settings: of the service.
            metrics: this process's recorder.
            by_child: whether a child is to prove each version first, which takes a moment longer.

        Raises:
            ProviderError: the policy is `cuda` and CUDA does not work. There is no sense in
                serving on without it.
        """
        provider = choose_provider(settings.provider, settings.device_id)
        store = cls(settings, provider, Metrics() if metrics is None else metrics)
        store.load(by_child=by_child)
        return store

    # For readers

    def engine(self, version: int | None = None) -> Engine:
        """Return the proven engine that is served, or another version that is still loaded.

        Raises:
            NotReadyError: there is none; the detail says why.
            NotFoundError: that version is not loaded.
        """
        loaded = self._loaded
        if not loaded:
            raise self._not_ready(
                readiness_report.no_model(self._reason),
                "Publish or restore a version, then wait until it is noticed (GLYPH_RELOAD_SECONDS), restart "
                "the service or send it SIGHUP; 'python -m bundle verify' checks a version.",
            )
        if version is None:
            return loaded[0].engine
        for one in loaded:
            if one.engine.bundle.version == version:
                return one.engine
        raise NotFoundError(
            f"version {version} is not loaded",
            remedy=f"Ask for one of the versions that are: {', '.join(map(str, self.versions()))}.",
        )

    def versions(self) -> list[int]:
        """Return the versions that `engine` gives, ascending."""
        return sorted(one.engine.bundle.version for one in self._loaded)

    def report(self) -> dict[str, Any]:
        """Return what `/readyz` answers.

        Raises:
            NotReadyError: predictions are not answered, or not for long any more.
        """
        if self._draining:
            raise self._not_ready(*readiness_report.ENDING)
        return readiness_report.report(self.facts(self.engine()))

    def facts(self, engine: Engine) -> dict[str, Any]:
        """Return what is told of the served engine, and of the versions beside it."""
        manifest = engine.bundle.manifest
        return {
            "model": {"name": manifest.name, "version": engine.bundle.version, "digest": manifest.digest},
            "provider": engine.provider,
            "arithmetic": engine.arithmetic,
            "loaded": self.versions(),
            "refused": self._refused(),
        }

    # For the process

    def drain(self) -> None:
        """Report not ready from now on, because this process is ending; safe in a signal handler."""
        if not self.lost:  # then it reports that already, with the reason
            self._draining = True
            self.metrics.state("draining")

    def lose(self, reason: str) -> NotReadyError:
        """Be not ready for good, because the GPU computes no more; return what requests are answered with.

        The worker looks at `lost` and ends, and the arbiter starts another. From whatever thread.
        """
        if not self.lost:
            self._reason = f"the GPU was lost: {reason}"
            self.lost = True
            self._loaded = ()
            log.critical("%s; this worker ends, and another takes its place", self._reason)
            self._publish()
        return self._not_ready(
            readiness_report.no_model(self._reason), "Ask again: another process takes this one's place."
        )

    def close(self) -> None:
        """Let go of all models: freed by the interpreter's end, they would find CUDA gone, and crash it."""
        self._loaded = ()
        PROOFS.withdraw()

    def load(self, *, by_child: bool = True) -> None:
        """Serve the newest version that can be proven, or the pinned one; keep what is served if there is none.

        Nothing is done for a version that is served already or that was refused, unless its files
        have changed since. Without `by_child` a version is loaded before a child has proven it, unless a worker has
        died of it. Where the served version is no longer published, the newest that is takes
        its place, so that removing a version rolls back.

        Raises:
            ProviderError: nothing is served yet, the policy is `cuda`, and CUDA refuses every version that can be
                proven otherwise.
        """
        if self.lost:
            return
        failed: dict[int, ProviderError] = {}
        with self._loading:
            try:
                self.pending = False
                before = self._loaded, dict(self._refusals)
                candidates = self._candidates()
                self._forget(candidates)
                for version in candidates:
                    try:
                        if self._serve(version, by_child=by_child):
                            break
                    except ProviderError as error:  # an older version may work
                        failed[version] = error
            except BundleError as error:  # nothing is published, or the directory cannot be read
                if not self._loaded and self._reason != str(error):
                    self._reason = str(error)
                    log.error("not ready: %s", error)  # noqa: TRY400  the sentence says all, a traceback nothing
            if before != (self._loaded, self._refusals) or not self._loaded:
                self._publish()
            for version, failure in failed.items():
                if not self._loaded:
                    raise failure
                found = fingerprint(self.settings.model / str(version))
                self._refuse(Refusal(version, one_line(failure, MAX_REASON), found, golden=False))

    def _candidates(self) -> list[int]:
        if self.settings.version is None and (published := versions(self.settings.model)):
            return published[::-1]
        return [resolve_version(self.settings.model, self.settings.version)]

    def _forget(self, candidates: list[int]) -> None:
        """Drop refusals that no longer matter: of versions that are gone or older than what is served."""
        served = self._loaded[0].engine.bundle.version if self._loaded else 0
        for version in list(self._refusals):
            if version not in candidates or version < served:
                del self._refusals[version]

    def _serve(self, version: int, *, by_child: bool) -> bool:
        """Serve this version if it can be proven, and tell whether to look no further."""
        path = self.settings.model / str(version)
        found = fingerprint(path)
        for one in self._loaded:
            if one.engine.bundle.version == version and one.fingerprint == found:
                self._refusals.pop(version, None)  # as of files that were damaged for a while
                self._swap(one)
                return True
        refusal = self._refusals.get(version)
        if refusal is None or refusal.due or refusal.fingerprint != found:
            started = time.perf_counter()
            try:
                engine = self._open(Bundle.open(path), found, by_child=by_child)
            except NotYetError as error:
                self.pending = True
                reason = str(error)
                if reason and (refusal is None or refusal.reason != reason):
                    self._refuse(Refusal(version, reason, found, golden=False, due=True))
                return bool(self._loaded)  # an older one, only where there is none
            except (BundleError, ProviderError) as error:
                if isinstance(error, ProviderError) and not self._loaded:
                    raise
                reason = one_line(error, MAX_REASON)  # it can quote a graph's own names
                self._refuse(Refusal(version, reason, found, isinstance(error, GoldenMismatchError)))
            except Exception as error:
                log.exception("loading version %d failed", version)
                reason = f"an unexpected error: {one_line(error, MAX_REASON)}"
                self._refuse(Refusal(version, reason, found, golden=False))
            else:
                self._refusals.pop(version, None)
                self._swap(Loaded(engine, found))
                self.metrics.golden(passed=True)
                self.metrics.loaded(time.perf_counter() - started)
                return True
        # The served version's files were damaged after it was loaded: what is in memory is still good.
        return bool(self._loaded) and self._loaded[0].engine.bundle.version == version

    def _open(self, bundle: Bundle, found: Fingerprint, *, by_child: bool) -> Engine:
        """Open the bundle on the chosen provider; at start, under `auto`, on the CPU if CUDA fails it."""
        try:
            return self._open_on(self.provider, bundle, found, by_child=by_child)
        except ProviderError as error:
            if self.settings.provider != "auto" or self._loaded:
                raise
            log.warning("execution provider: CPU (auto, because %s)", error)
            self.provider = "cpu"
            return self._open_on(self.provider, bundle, found, by_child=by_child)

    def _open_on(self, provider: Provider, bundle: Bundle, found: Fingerprint, *, by_child: bool) -> Engine:
        trial = Trial(self.settings, self.ending, provider, bundle, found)
        return trial.open(by_child=by_child)

    def _swap(self, chosen: Loaded) -> None:
        if self._loaded and self._loaded[0] is chosen:
            return
        version = chosen.engine.bundle.version
        others = [one for one in self._loaded if one.engine.bundle.version != version]
        self._loaded = (chosen, *others[: self.settings.kept_versions])
        if self.lost:  # meanwhile
            self._loaded = ()
            return
        self._publish()
        manifest = chosen.engine.bundle.manifest
        log.info(
            "ready: %s version %d on %s in %s arithmetic, digest %s",
            manifest.name,
            version,
            chosen.engine.provider,
            chosen.engine.arithmetic,
            manifest.digest[:12],
        )

    def _refuse(self, refusal: Refusal) -> None:
        """Report a refusal: first what it is, then that there is one more."""
        if not self._loaded and refusal.version >= max(self._refusals, default=0):
            self._reason = refusal.reason  # of the newest, which is what an operator expects served
        self._refusals[refusal.version] = refusal
        self._publish()
        if refusal.golden:
            self.metrics.golden(passed=False)
        self.metrics.refused()
        if self._loaded:
            log.error(
                "refused version %d: %s; version %d keeps serving",
                refusal.version,
                refusal.reason,
                self._loaded[0].engine.bundle.version,
            )
        else:
            log.error("not ready: %s", refusal.reason)

    def _not_ready(self, detail: str, remedy: str) -> NotReadyError:
        extensions = {"refused": self._refused()} if self._refusals else {}
        return readiness_report.not_ready(detail, remedy, extensions)

    def _refused(self) -> list[dict[str, Any]]:
        refusals = list(self._refusals.values())  # at once: readers are other threads
        return readiness_report.newest_first(
            {"version": each.version, "reason": each.reason} for each in refusals
        )

    def _publish(self) -> None:
        """Tell the management process, which answers probes and metrics for all workers."""
        facts: dict[str, Any] = {
            "loaded": self.versions(),
            "refused": self._refused(),
            "reason": self._reason,
        }
        if self._loaded:
            engine = self._loaded[0].engine
            device = "cpu" if engine.provider == "cpu" else f"cuda:{self.settings.device_id}"
            facts |= self.facts(engine) | {"device": device}
        self.metrics.publish(facts)
        self.metrics.golden_check(passed=not any(refusal.golden for refusal in self._refusals.values()))
        if not self._draining:
            self.metrics.state("ready" if self._loaded else "unready")


def resolve_version(model: Path, version: int | None) -> int:
    """Return the version to open, or raise the sentence that says why there is none."""
    published = versions(model)
    if version is not None and version in published:
        return version
    return resolve(model, version).version
