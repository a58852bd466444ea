"""Statistics of a part: counts, confidences, drift histograms, comparison with labels, least confident images.

Statistics depend on their part alone, so a run that was killed or ran on several machines has the same summary.
"""

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bundle import drift
from bundle.errors import BundleError
from bundle.images import brightness
from bundle.manifest import Reference
from bundle.repository import resolve
from common.html.confusion_matrix import Confusion
from imagesets.labels import UNKNOWN
from imagesets.source import Source
from serving.scoring.backends.local import LocalBackend
from serving.scoring.records import Backend, Chunk, Predictions
from serving.scoring.reporting.labels import Labels, open_labels
from serving.scoring.settings import ScoreSettings

LOW_CONFIDENCE = 0.8
"""Confidence below which a prediction counts as low: at 0.8 a calibrated model errs once in five."""
LEAST_KEPT = 40
"""Least confident images kept for each part, so that the 40 lowest of the whole run are exact."""
ERRORS_KEPT = 5
"""Errors kept for each part."""
DRIFT_SAMPLE = 1024
"""Images sampled evenly from a part to measure drift; all images would cost a tenth of the run's time."""

Tally = dict[str, Any]
"""`tally` in a part's receipt, as JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartStatistics:
    """Computes the statistics of a part's images and predictions."""

    classes: Sequence[str]
    reference: Reference | None
    """Of the manifest; None if only the remote service has it."""
    labels: Labels | None

    def compute(self, chunk: Chunk, predictions: Predictions) -> Tally:
        """Return a part's statistics."""
        good = np.ones(len(chunk), dtype=bool)
        good[list(chunk.errors)] = False
        places = np.flatnonzero(good)
        confidences = predictions.confidences[places]
        tally: Tally = {
            "classes": np.bincount(predictions.indices[places], minlength=len(self.classes)).tolist(),
            "confidence": float(confidences.sum(dtype=np.float64)),
            "doubtful": int((confidences < LOW_CONFIDENCE).sum()),
            "warned": len(chunk.warnings),
            "faults": [
                [chunk.sources[at], chunk.rows[at], chunk.errors[at]]
                for at in sorted(chunk.errors)[:ERRORS_KEPT]
            ],
        }
        if self.reference is not None:
            sample = chunk.images[places[:: max(1, len(places) // DRIFT_SAMPLE)]]
            for feature, values in (
                ("mean_ink", brightness.mean_ink(sample)),
                ("border_brightness", brightness.border_brightness(sample)),
            ):
                edges = np.array(getattr(self.reference, feature).edges)
                tally[feature] = drift.binned(values, edges).astype(np.int64).tolist()
        true = np.full(len(chunk), UNKNOWN)
        if self.labels is not None:
            true = self.labels.indices(chunk)
            known = places[true[places] != UNKNOWN]
            compared = Confusion(self.classes)
            compared.add(true[known], predictions.indices[known])
            pairs = sorted([*pair, count] for pair, count in compared.counts.items())
            known_by = {"where": self.labels.where, "sha256": self.labels.sha256}
            tally["compared"] = {**known_by, "confusion": pairs}
        tally["least"] = _least(chunk, predictions, places, true)
        return tally


def _least(
    chunk: Chunk, predictions: Predictions, places: npt.NDArray[np.intp], true: npt.NDArray[np.int64]
) -> list[list[Any]]:
    """Return the least confident rows, lowest confidence first, ties by row."""
    confidences = predictions.confidences[places]
    if len(places) > LEAST_KEPT:
        limit = np.partition(confidences, LEAST_KEPT - 1)[LEAST_KEPT - 1]
        places = places[confidences <= limit]
        confidences = predictions.confidences[places]
    kept = []
    for at in places[np.argsort(confidences, kind="stable")[:LEAST_KEPT]].tolist():
        best = predictions.indices[at]
        others = predictions.probabilities[at].copy()
        others[best] = -1
        second = int(others.argmax())
        packed = base64.b64encode(zlib.compress(chunk.images[at].tobytes(), 1)).decode()
        kept.append(
            [
                chunk.sources[at],
                chunk.rows[at],
                int(best),
                float(predictions.confidences[at]),
                second,
                float(others[second]),
                int(true[at]),
                packed,
            ]
        )
    return kept


def open_statistics(settings: ScoreSettings, backend: Backend, sources: Sequence[Source]) -> PartStatistics:
    """Return what computes the statistics of the parts.

    Raises:
        DataError: the labels cannot be read.
    """
    return PartStatistics(
        classes=backend.classes,
        reference=backend.session.bundle.manifest.reference
        if isinstance(backend, LocalBackend)
        else reference_of(settings, backend.digest),
        labels=None if settings.labels is None else open_labels(settings.labels, backend.classes, sources),
    )


def reference_of(settings: ScoreSettings, digest: str) -> Reference | None:
    """Return the reference histograms of the model with this digest; None if it is not on this machine."""
    try:
        found = resolve(settings.model, settings.version, settings.trusted_keys).manifest
    except BundleError:
        return None
    return found.reference if found.digest == digest else None
