"""Opens the statistics of a run's parts, with the reference histograms of the model and the labels."""

from bundle.errors import BundleError
from bundle.manifest import Reference
from bundle.repository import resolve
from serving.scoring.backends.local import LocalBackend
from serving.scoring.records import Backend
from serving.scoring.reporting.labels import open_labels
from serving.scoring.reporting.summary import PartStatistics
from serving.scoring.settings import ScoreSettings


def open_statistics(settings: ScoreSettings, backend: Backend) -> PartStatistics:
    """Return what computes the statistics of the parts.

    Raises:
        InputError: the labels cannot be read.
    """
    return PartStatistics(
        classes=backend.classes,
        reference=backend.session.bundle.manifest.reference
        if isinstance(backend, LocalBackend)
        else reference_of(settings, backend.digest),
        labels=None if settings.labels is None else open_labels(settings.labels, backend.classes),
    )


def reference_of(settings: ScoreSettings, digest: str) -> Reference | None:
    """Return the reference histograms of the model with this digest; None if it is not on this machine."""
    try:
        found = resolve(settings.model, settings.version).manifest
    except BundleError:
        return None
    return found.reference if found.digest == digest else None
