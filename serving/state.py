"""What the service answers with at this moment: a proven engine, or the reason why there is none."""

import logging
from dataclasses import dataclass

from bundle.errors import BundleError
from bundle.repository import Bundle, resolve
from serving.engine import Engine, Provider, choose_provider, open_engine
from serving.errors import NotFoundError, NotReadyError, ProviderError
from serving.settings import ServiceSettings

log = logging.getLogger("glyph.serving")


@dataclass(slots=True)
class ModelState:
    """One process's model. Readers take `engine()` once a request and keep what they got.

    A reload replaces the attribute `_engine` by one assignment, so that no reader ever sees half
    of one model and half of another; a version that cannot be proven leaves the old one in place.
    """

    settings: ServiceSettings
    provider: Provider
    _engine: Engine | None = None
    _reason: str = "the model is not loaded yet"

    @classmethod
    def start(cls, settings: ServiceSettings) -> "ModelState":
        """Choose the provider and load the model; a model that cannot be loaded is no error here.

        Raises:
            ProviderError: the policy is `cuda` and CUDA does not work. There is no sense in
                serving on without it.
        """
        state = cls(settings, choose_provider(settings.provider, settings.device_id))
        state.load()
        return state

    def load(self) -> None:
        """Load and prove the version that the settings ask for; on failure, log and keep the reason.

        Raises:
            ProviderError: the policy is `cuda` and CUDA refuses this model.
        """
        try:
            engine = self._open(resolve(self.settings.model, self.settings.version))
        except BundleError as error:
            self._reason = str(error)
            log.error("not ready: %s", error)  # noqa: TRY400  the sentence says all, a traceback nothing
            return
        self._engine = engine
        log.info(
            "ready: %s version %d on %s, digest %s",
            engine.bundle.manifest.name,
            engine.bundle.version,
            engine.provider,
            engine.bundle.manifest.digest[:12],
        )

    def _open(self, bundle: Bundle) -> Engine:
        """Open the bundle on the chosen provider; under `auto`, on the CPU if CUDA fails it."""
        try:
            return open_engine(bundle, self.provider, self.settings.device_id)
        except ProviderError as error:
            if self.settings.provider != "auto":
                raise
            log.warning("execution provider: CPU (auto, because %s)", error)
            self.provider = "cpu"
            return open_engine(bundle, self.provider, self.settings.device_id)

    def engine(self, version: int | None = None) -> Engine:
        """Return the proven engine: of `version`, or the one that is served where none is asked for.

        Raises:
            NotReadyError: there is none; the detail says why.
            NotFoundError: that version is not loaded; the detail says which are.
        """
        if self._engine is None:
            raise NotReadyError(
                f"no model is served: {self._reason}",
                remedy="Publish or restore a version, then restart the service or send it SIGHUP; "
                "'python -m bundle verify' checks a version.",
            )
        if version not in (None, self._engine.bundle.version):
            raise NotFoundError(
                f"version {version} is not loaded",
                remedy=f"Ask for one of the versions that are: {', '.join(map(str, self.versions()))}.",
            )
        return self._engine

    def versions(self) -> list[int]:
        """Return the versions that `engine` has, ascending."""
        return [] if self._engine is None else [self._engine.bundle.version]
