"""How many parameters a network has, and how wide one of a given depth must be to have as many."""

from itertools import pairwise

from bundle.images.contract import PIXELS
from bundle.manifest import MAX_MODEL_BYTES, MIB
from common.errors import ConfigurationError
from training.settings import ModelSettings

TOLERANCE = 0.01
"""Networks of one comparison differ by this share of their parameters at most."""
MOST = (MAX_MODEL_BYTES - MIB) // 4
"""Of one network: an exported file has four bytes for each, and what else is in it."""


def parameter_count(settings: ModelSettings, classes: int) -> int:
    """Return the number of trained numbers: weights, biases, and batch normalisation's two a unit."""
    widths = (PIXELS, *settings.hidden, classes)
    linear = sum((before + 1) * after for before, after in pairwise(widths))
    return linear + (2 * sum(settings.hidden) if settings.batch_norm else 0)


def check_publishable(settings: ModelSettings, classes: int) -> None:
    """Make sure, before it is trained, that the network's files are not larger than a bundle's may be.

    Raises:
        ConfigurationError: they would be.
    """
    if (count := parameter_count(settings, classes)) > MOST:
        raise ConfigurationError(
            f"hidden: a network of {count:,} parameters cannot be published, {MOST:,} can: give fewer units"
        )


def equal_widths(settings: ModelSettings, depth: int, target: int, classes: int) -> tuple[int, ...]:
    """Return `depth` equal widths that give nearest to `target` parameters, else as `settings`.

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
            f"{depth} hidden layers of equal width cannot have {target} parameters within 1%: "
            f"{best} units each give {count(best)}"
        )
    return (best,) * depth
