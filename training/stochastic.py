"""Layers that draw at random while training and are the identity afterwards: dropout and noise."""

import numpy as np
import torch
from torch import nn

LEVELS = 1 << 16


class Dropout(nn.Dropout):
    """Zeroes each unit with probability p while training and divides the others by 1 - p.

    On a CPU the masks are 16-bit slices of the words of an SFC64 generator, which torch's own seeds
    anew for each mask: torch's Bernoulli sampler takes one word a unit and was a quarter of the
    training step, and its words cost twice as much. The probability is the nearest multiple of 2^-16,
    and what is kept is scaled by that one exactly. Elsewhere it is torch's own.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the units that are kept, scaled; in evaluation mode, all of them as they are."""
        if not self.training or x.device.type != "cpu" or not self.p:
            return super().forward(x)
        dropped = round(self.p * LEVELS)
        seed = int(torch.empty((), dtype=torch.int64).random_())
        words = np.random.SFC64(seed).random_raw(-(-x.numel() // 4))
        bits = torch.from_numpy(words.view(np.int16))[: x.numel()].view(x.shape)
        mask = torch.empty_like(x)
        torch.ge(bits, dropped - LEVELS // 2, out=mask)  # into floats: five times as fast as by way of bool
        return x * mask.mul_(LEVELS / (LEVELS - dropped))


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
