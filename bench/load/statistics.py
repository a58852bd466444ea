"""Percentiles, medians over rounds, their spread, and ratios, each with its source."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """The measurement of a server in one round; NaN without responses."""

    rate: float
    """Responses/s."""
    p50: float
    """Seconds."""
    p99: float
    cpu: float
    """CPU seconds of all the server's processes per response."""
    rss: float
    """Bytes."""
    pss: float
    errors: int
    wrong: int
    """Number of checked responses that were wrong."""
    checked: int
    busy: float
    """CPU utilization of the load generator; near 1 it was the bottleneck."""


def percentile(values: npt.NDArray[np.float64], share: float) -> float:
    """Return the smallest value that at least `share` of all are no greater than (nearest rank).

    An observed value, never one between two (R. Hyndman, Y. Fan, "Sample Quantiles in Statistical
    Packages", 1996, definition 1). NaN if there are none.
    """
    if not len(values):
        return float("nan")
    return float(np.quantile(values, share, method="inverted_cdf"))


def middle(readings: Sequence[Reading]) -> Reading:
    """Return the median of each figure over the rounds; errors and checks are summed."""
    if not readings:
        raise ValueError("no rounds: a median needs at least one")
    columns = {name: [asdict(reading)[name] for reading in readings] for name in _NAMES}
    summed = {name: sum(columns[name]) for name in ("errors", "wrong", "checked")}
    return Reading(**{name: statistics.median(column) for name, column in columns.items()} | summed)


def spread(readings: Sequence[Reading], figure: str) -> float:
    """Return how far the round that is farthest from the median is from it, as a share of the median.

    The rounds are few, so that quartiles would be interpolated; all of them lie within median ± spread. NaN of less
    than two rounds, which say nothing of it, and without responses.
    """
    values = [float(getattr(reading, figure)) for reading in readings]
    if len(values) < 2:
        return float("nan")
    center = statistics.median(values)
    return ratio(max(abs(value - center) for value in values), center)


def ratio(value: float, baseline: float) -> float:
    """Return `value / baseline`; NaN without a baseline."""
    return value / baseline if baseline > 0 else float("nan")


_NAMES = [field.name for field in fields(Reading)]
