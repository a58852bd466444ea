"""Layers that are random in training mode and the identity in evaluation mode: dropout and Gaussian noise."""

import numpy as np
import torch
from torch import nn

FINE = 1 / 16
"""Probabilities are rounded to a multiple of 2^-8, or of 2^-16 if they are closer than this to 0 or 1."""


class Dropout(nn.Dropout):
    """Inverted dropout: in training mode, zeroes each unit with probability p and divides the others by 1 - p.

    On a CPU the masks are 8-bit slices of the words of an SFC64 generator, which PyTorch's generator seeds for each
    mask: PyTorch's Bernoulli sampler takes a word for each unit and was a quarter of the training step. Kept units are
    scaled by the rounded probability, so that the expectation is exact. On other devices it is PyTorch's dropout.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x with the mask applied; in evaluation mode, x."""
        if not self.training or x.device.type != "cpu" or not self.p:
            return super().forward(x)
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))  # as the following product would
        bits = np.int8 if FINE <= self.p <= 1 - FINE else np.int16
        levels = 1 << np.iinfo(bits).bits
        dropped = min(round(self.p * levels), levels - 1)
        seed = int(torch.empty((), dtype=torch.int64).random_())
        words = np.random.SFC64(seed).random_raw(-(-x.numel() * np.iinfo(bits).bits // 64))
        drawn = torch.from_numpy(words.view(bits))[: x.numel()].view(x.shape)
        mask = torch.empty_like(x)
        torch.ge(
            drawn, dropped - levels // 2, out=mask
        )  # writing floats is five times as fast as through bool
        return x * mask.mul_(levels / (levels - dropped))


class GaussianNoise(nn.Module):
    """Adds Gaussian noise in training mode.

    Source: Rasmus et al., "Semi-supervised learning with ladder networks", NeurIPS 2015, whose
    supervised baseline it is (0.80% on MNIST with all labels, table 1).
    """

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = deviation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x plus noise of mean 0; in evaluation mode, x."""
        if not self.training:
            return x
        # Drawn in float32 for any dtype of x: the sampler of bfloat16 is slower on a CPU.
        noise = torch.randn(x.shape, device=x.device).mul_(self.deviation)
        return x + noise.to(x.dtype)
