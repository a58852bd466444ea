"""Adversarial training: images moved in the direction in which their loss grows fastest."""

import torch

INK = 255
"""The largest pixel: the unit of the perturbation's size."""


def adversarial(inputs: torch.Tensor, gradient: torch.Tensor, size: float) -> torch.Tensor:
    """Return the inputs, each moved by `size` along its gradient: r = size * g / ||g||.

    Of all r with a Euclidean norm of `size` it maximises g · r, the growth of the loss to first order; for logistic
    regression, whose loss is monotonic in one direction, it is the exact worst case. An input without a gradient
    stays. Source: Goodfellow, Shlens and Szegedy, "Explaining and harnessing adversarial examples" (2015), section 5,
    with the Euclidean norm in place of the largest pixel, as in Miyato et al., "Distributional smoothing with virtual
    adversarial training" (2016), section 4.2.

    Args:
        inputs: `float32[n, d]`.
        gradient: of each input's loss, times any positive number; same shape.
        size: Euclidean norm of the perturbation, in the units of the inputs.
    """
    norms: torch.Tensor = gradient.norm(dim=1, keepdim=True)
    return inputs + gradient * (size / norms.clamp_min(torch.finfo(norms.dtype).tiny))
