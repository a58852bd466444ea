"""Layers that draw at random while training and are the identity afterwards: dropout and noise."""

import numpy as np
import torch
from torch import nn

FINE = 1 / 16
"""Probabilities are taken to the nearest multiple of 2^-8; nearer than this to 0 or 1, of 2^-16."""


class Dropout(nn.Dropout):
    """Zeroes each unit with probability p while training and divides the others by 1 - p.

    On a CPU the masks are 8-bit slices of the words of an SFC64 generator, which torch's own seeds
    anew for each mask: torch's Bernoulli sampler takes one word a unit and was a quarter of the
    training step. What is kept is scaled by the probability as it was rounded, so that the expectation
    is exact. Elsewhere it is torch's own.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the units that are kept, scaled; in evaluation mode, all of them as they are."""
        if not self.training or x.device.type != "cpu" or not self.p:
            return super().forward(x)
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))  # as the product that follows would do
        bits = np.int8 if FINE <= self.p <= 1 - FINE else np.int16
        levels = 1 << np.iinfo(bits).bits
        dropped = min(round(self.p * levels), levels - 1)
        seed = int(torch.empty((), dtype=torch.int64).random_())
        words = np.random.SFC64(seed).random_raw(-(-x.numel() * np.iinfo(bits).bits // 64))
        drawn = torch.from_numpy(words.view(bits))[: x.numel()].view(x.shape)
        mask = torch.empty_like(x)
        torch.ge(drawn, dropped - levels // 2, out=mask)  # into floats: five times as fast as by way of bool
        return x * mask.mul_(levels / (levels - dropped))


class GaussianNoise(nn.Module):
    """Adds normal noise while training.

    Source: Rasmus et al., "Semi-supervised learning with ladder networks", NeurIPS 2015, whose
    supervised baseline it is (0.80% on MNIST with all labels, table 1).
    """

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = deviation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x plus noise of mean 0 and the deviation given; in evaluation mode, x itself."""
        if not self.training:
            return x
        # Drawn in float32 whatever x is: bfloat16's sampler is slower on a CPU.
        noise = torch.randn(x.shape, device=x.device).mul_(self.deviation)
        return x + noise.to(x.dtype)
