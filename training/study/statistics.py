"""Means and confidence intervals of small samples by Student's t distribution, without SciPy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
BISECTIONS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A sample's mean and the half-width of its confidence interval."""

    mean: float
    half_width: float | None
    """Half-width of the 95% interval by Student's t; None for a sample of one."""
    deviation: float | None
    """Sample standard deviation (n - 1); None for a sample of one."""
    count: int


def summarise(values: Sequence[float]) -> Summary:
    """Return mean and 95% confidence interval of at least one value.

    The interval is mean ± t(0.975, n - 1) * s / sqrt(n). It assumes independent, approximately normal values, such as
    the accuracies of runs that differ only in their seed.
    """
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Summary(mean=mean, half_width=None, deviation=None, count=1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half_width = t_quantile((1 + CONFIDENCE) / 2, count - 1) * deviation / math.sqrt(count)
    return Summary(mean=mean, half_width=half_width, deviation=deviation, count=count)


def t_quantile(probability: float, degrees: int) -> float:
    """Return the quantile of Student's t distribution, by bisection of its distribution function.

    Args:
        probability: at least 0.5 and below 1.
        degrees: degrees of freedom, at least 1.
    """
    low, high = 0.0, 1.0
    while t_cumulative(high, degrees) < probability:
        high *= 2
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cumulative(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def t_cumulative(t: float, degrees: int) -> float:
    """Return P(T <= t) for t >= 0 and integer degrees of freedom, by the finite series, which is exact.

    Source: Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(2 + odd, degrees - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    within = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return (1 + within) / 2
