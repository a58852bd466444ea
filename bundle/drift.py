"""Drift: histograms of images and predictions over the manifest's bins, and their population stability index.

The population stability index compares two histograms over the same bins (N. Siddiqi, Credit Risk Scorecards, 2006,
chapter 6): PSI = sum of (p - q) * ln(p / q), where p and q are the shares of a bin. By convention a PSI below 0.1 is
no drift, 0.1 to 0.25 deserves a look, and above 0.25 the population is another.
"""

import numpy as np
import numpy.typing as npt

from bundle.images.brightness import border_brightness, mean_ink
from bundle.manifest import Histogram, Reference

FEATURES = ("mean_ink", "border_brightness", "class")
PRIOR = 0.5
"""Added to the count of each bin, so that an empty bin gives a finite index (Jeffreys' prior)."""
LEAST_IMAGES = 100
"""With fewer images the index measures chance: its mean without any drift is about (bins - 1) / images."""

Counts = npt.NDArray[np.float64]


def binned(values: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]) -> Counts:
    """Return the counts by bin as `numpy.histogram` does, but with outliers in the first and the last bin."""
    bins = np.searchsorted(edges[1:-1], values, side="right")
    return np.bincount(bins, minlength=len(edges) - 1).astype(np.float64)


def references(reference: Reference) -> dict[str, Counts]:
    """Return the manifest's reference counts by feature."""
    histograms: dict[str, Histogram] = {
        "mean_ink": reference.mean_ink,
        "border_brightness": reference.border_brightness,
    }
    counts = {feature: np.array(histogram.counts, np.float64) for feature, histogram in histograms.items()}
    return counts | {"class": np.array(reference.predicted, np.float64)}


def reference(
    images: npt.NDArray[np.uint8], confidence: npt.NDArray[np.float64], predicted: npt.NDArray[np.int64]
) -> Reference:
    """Return the reference histograms for the manifest, against which the service measures drift.

    Args:
        images: the validation set, `uint8[n, 28, 28]`.
        confidence: calibrated probability of the predicted class, `float64[n]`.
        predicted: number of predictions of each class, `int64[classes]`.
    """
    pixels = np.linspace(0, 256, 33)
    return Reference(
        mean_ink=_histogram(mean_ink(images), pixels),
        border_brightness=_histogram(border_brightness(images), pixels),
        confidence=_histogram(confidence, np.linspace(0, 1, 21)),
        predicted=tuple(map(int, predicted)),
    )


def _histogram(values: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]) -> Histogram:
    return Histogram(edges=tuple(map(float, edges)), counts=tuple(map(int, binned(values, edges))))


def psi(observed: Counts, reference: Counts) -> float:
    """Return the population stability index of two histograms over the same bins; NaN below 100 images."""
    if observed.sum() < LEAST_IMAGES:
        return float("nan")
    p = (observed + PRIOR) / (observed + PRIOR).sum()
    q = (reference + PRIOR) / (reference + PRIOR).sum()
    return float(((p - q) * np.log(p / q)).sum())
