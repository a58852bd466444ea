"""Quantisation of the first layer's weights to 8 bits: symmetric, with a scale for each unit.

Pixels are bytes, so a first layer whose weights are bytes as well is a product of integers, which processors compute
several times as fast as one of floats and without rounding. Source: Jacob et al., "Quantization and training of neural
networks for efficient integer-arithmetic-only inference" (2018), section 2, with zero points of 0.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bundle.manifest import ModelMetadata

LARGEST = 127
"""Largest |integer|; -128 is not used, so that the grid is symmetric."""
SPARE_BITS = 8
"""Low bits of a scale's significand that are 0. The other 16 and the 7 of an integer fit the 24 of a float32, so their
product is exact."""
TINY = float(torch.finfo(torch.float32).tiny)


def quantise(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return integers -127..127, `float64[units, inputs]`, and scales, `float32[units, 1]`.

    The integers are round(127 w / max |w|) of each unit, and do not depend on its scale. So quantisation commutes with
    a factor on a unit's weights: it makes no difference whether standardisation and batch normalisation are folded
    into the layer before or after. A unit's largest integer is 127, so quantising twice changes nothing.

    Args:
        weights: `float[units, inputs]`, of the layer.
    """
    exact = weights.detach().double()
    found = exact.abs().amax(dim=1, keepdim=True)
    # A scale is a normal number, so that products keep all their bits; smaller weights become 0.
    largest = found.clamp_min(TINY * LARGEST)
    bits = (largest / LARGEST).float().view(torch.int32)
    scales = ((bits + (1 << SPARE_BITS - 1)) >> SPARE_BITS << SPARE_BITS).view(torch.float32)
    return torch.round(exact * LARGEST / largest) * (found == largest), scales


def quantised(weights: torch.Tensor) -> torch.Tensor:
    """Return the weights rounded to their grid, scale * integer, in the type and on the device of `weights`."""
    integers, scales = quantise(weights)
    return (integers * scales).to(weights.dtype)


@contextmanager
def straight_through(weights: torch.Tensor, active: torch.Tensor) -> Iterator[None]:
    """Quantise a parameter in place where `active`, and restore it at the end of the block.

    Forward and backward pass see the rounded weights, and the gradient that they leave is applied to the exact ones: a
    straight-through estimator, which takes the derivative of rounding to be 1. Sources: Bengio et al., "Estimating or
    propagating gradients through stochastic neurons for conditional computation" (2013); for weights, Courbariaux et
    al., "BinaryConnect" (2015).

    Args:
        weights: a leaf, `float[units, inputs]`.
        active: `bool[]` on the same device, which a CUDA graph reads at each replay.
    """
    exact = weights.detach().clone()
    with torch.no_grad():
        weights.copy_(torch.where(active, quantised(exact), exact))
    try:
        yield
    finally:
        with torch.no_grad():
            weights.copy_(exact)


def describe_quantisation(metadata: ModelMetadata) -> str:
    """Return a sentence with what rounding the first layer changed."""
    before, after = metadata.quantisation, metadata.test
    if before is None:
        return "The first layer's weights are float32."
    return (
        f"The first layer's weights are rounded to 8 bits, with a scale for each unit: the test error was "
        f"{1 - before.accuracy:.2%} before and is {1 - after.accuracy:.2%}, the loss {before.nll:.4f} and "
        f"{after.nll:.4f} nats, and {before.labels_differing} of {after.images} labels differ."
    )
