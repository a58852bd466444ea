"""The multilayer perceptron, and the standardisation of pixels that comes before it."""

from dataclasses import dataclass

import torch
from torch import nn

PIXELS = 28 * 28


@dataclass(frozen=True, kw_only=True, slots=True)
class Standardisation:
    """Pixels to zero mean and unit variance, by the training images' own statistics."""

    mean: float
    """Mean pixel, 0..255."""
    deviation: float
    """Standard deviation of a pixel, 0..255."""

    @classmethod
    def of(cls, images: torch.Tensor) -> "Standardisation":
        """Measure `uint8[n, 28, 28]`, exactly: integer sums, which no order of addition changes."""
        counts = torch.bincount(images.flatten().cpu(), minlength=256).double()
        values = torch.arange(256, dtype=torch.float64)
        mean = float((counts * values).sum() / counts.sum())
        variance = float((counts * (values - mean) ** 2).sum() / counts.sum())
        return cls(mean=mean, deviation=max(variance**0.5, 1.0))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Turn `uint8[n, 28, 28]` into `float32[n, 784]`."""
        return images.flatten(1).float().sub_(self.mean).mul_(1 / self.deviation)


class MLP(nn.Sequential):
    """Linear, ReLU and dropout for each hidden layer, then linear to the logits.

    Takes `float32[n, 784]`, standardised, and gives logits `float32[n, classes]`. The softmax is
    not part of it: cross entropy takes logits, which is exact where probabilities would underflow.
    Dropout is inverted (kept units are divided by 1 - p while training), so that `eval()` needs no
    rescaling. Source: Srivastava et al., "Dropout", JMLR 15 (2014), section 10.
    """

    def __init__(self, hidden: tuple[int, ...], classes: int, dropout: float) -> None:
        layers: list[nn.Module] = []
        width = PIXELS
        for units in hidden:
            layers += [nn.Linear(width, units), nn.ReLU(), nn.Dropout(dropout)]
            width = units
        super().__init__(*layers, nn.Linear(width, classes))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split the parameters for the optimizer: weights (matrices) decay, biases do not."""
    weights = [p for p in model.parameters() if p.ndim >= 2]
    biases = [p for p in model.parameters() if p.ndim < 2]
    return [
        {"params": weights, "weight_decay": weight_decay},
        {"params": biases, "weight_decay": 0.0},
    ]
