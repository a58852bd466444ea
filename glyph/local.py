"""Answers in this process: the service's own pipeline, with the newest version of a model, verified as there."""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bundle.errors import BundleError
from bundle.repository import resolve
from common.configuration import Layer, build
from glyph.answers import Answer, ModelError, UnavailableError
from glyph.settings import PredictSettings
from serving.errors import NotReadyError, ProviderError
from serving.model.store import ModelStore
from serving.predict.exchange import Request
from serving.predict.pipeline import PREDICT, Pipeline
from serving.settings import ServiceSettings, environment_layer

OF_A_SERVER = frozenset(
    {"access_log", "docs_token", "metrics_token", "tls_certificate", "tls_key", "tokens_file", "tracing"}
)
"""Settings of the service that have no meaning without clients."""
NOT_ITS_OWN = "GLYPH_TOKEN"
"""A variable of `glyph predict`, which the service does not know."""


class LocalModel:
    """A proven version in this process."""

    def __init__(self, settings: PredictSettings) -> None:
        """Load it.

        Raises:
            ConfigurationError: a setting of the service is unknown or invalid.
            ModelError: no version is published there, or none can be proven.
            UnavailableError: the execution provider does not work.
        """
        service = _service_settings(settings.model, os.environ)
        try:
            if isinstance(service.model, str):
                raise ModelError(
                    f"{service.model} is in an object store: 'python -m bundle fetch' brings it here"
                )
            resolve(service.model, service.version, service.trusted_keys)
            with _quiet_log():
                self.store = ModelStore.start(service)
                report = self.store.report()
        except BundleError as error:
            raise ModelError(str(error)) from error
        except NotReadyError as error:
            raise ModelError(f"{error.detail}: 'python -m bundle verify' says what is wrong") from error
        except ProviderError as error:
            raise UnavailableError(str(error)) from error
        served = report["model"]["version"]
        self.notes = [
            f"version {one['version']} is refused ({one['reason']}); version {served} answers"
            for one in report["refused"]
        ]
        """Sentences about newer versions that could not be proven."""
        self._pipeline = Pipeline(service, self.store)
        self._query = f"resize={settings.resize}" if settings.resize else ""

    def ask(self, image: bytes) -> Answer:
        """Return the service's answer to a file.

        Raises:
            UnavailableError: the GPU failed.
        """
        request = Request(
            method="POST", path=PREDICT, query=self._query, headers={"content-type": "image/*"}, body=image
        )
        response = self._pipeline.answer(self._pipeline.open(request, time.perf_counter()))
        return Answer(int(response.status), response.body)

    def close(self) -> None:
        """Free the model."""
        self.store.close()


def _service_settings(model: Path | None, environment: Mapping[str, str]) -> ServiceSettings:
    """Return the settings that a service with this environment would have."""
    layer = environment_layer({name: value for name, value in environment.items() if name != NOT_ITS_OWN})
    values = {name: value for name, value in layer.values.items() if name not in OF_A_SERVER}
    given = {} if model is None else {"model": model}
    return build(ServiceSettings, [Layer(values, layer.origin), Layer(given, "--{option}")])


@contextmanager
def _quiet_log() -> Iterator[None]:
    """Keep the service's log, whose sentences this command has in its own way, from standard error."""
    handler, log = logging.NullHandler(), logging.getLogger("glyph.serving")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
