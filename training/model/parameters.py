"""The number of parameters of a network, and the width that a network of another depth needs for as many."""

from itertools import pairwise

from bundle.images.contract import PIXELS
from bundle.manifest import MAX_MODEL_BYTES, MIB
from common.errors import ConfigurationError
from training.settings import ModelSettings

TOLERANCE = 0.01
"""Largest relative difference in the number of parameters between networks that are compared."""
MOST = (MAX_MODEL_BYTES - MIB) // 4
"""Most parameters of a network: an exported file has four bytes for each, and up to 1 MiB of other content."""


def parameter_count(settings: ModelSettings, classes: int) -> int:
    """Return the number of parameters: weights, biases, and two for each unit with batch normalisation."""
    widths = (PIXELS, *settings.hidden, classes)
    linear = sum((before + 1) * after for before, after in pairwise(widths))
    return linear + (2 * sum(settings.hidden) if settings.batch_norm else 0)


def check_publishable(settings: ModelSettings, classes: int) -> None:
    """Check, before training, that the network's files will not exceed the size limits of a bundle.

    Raises:
        ConfigurationError: they would.
    """
    if (count := parameter_count(settings, classes)) > MOST:
        raise ConfigurationError(
            f"hidden: a network of {count:,} parameters cannot be published; at most {MOST:,} can: give fewer units"
        )


def exported_bytes(settings: ModelSettings, classes: int) -> int:
    """Return a lower bound on the size of a bundle: three of its files have the weights in float32."""
    return 3 * 4 * parameter_count(settings, classes)


def equal_widths(settings: ModelSettings, depth: int, target: int, classes: int) -> tuple[int, ...]:
    """Return `depth` equal widths with which a network of these `settings` has about `target` parameters.

    Raises:
        ConfigurationError: no width comes within 1%.
    """

    def count(width: int) -> int:
        hidden = {"hidden": (width,) * depth, "dropout": settings.dropout[:1]}
        return parameter_count(settings.model_copy(update=hidden), classes)

    low, high = 1, 1
    while count(high) < target:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < target else (low, middle)
    best = min(low, high, key=lambda width: abs(count(width) - target))
    if abs(count(best) - target) > TOLERANCE * target:
        raise ConfigurationError(
            f"hidden: {depth} layers of equal width cannot have {target:,} parameters within 1%: "
            f"{best} units each give {count(best):,}"
        )
    return (best,) * depth
