"""The multilayer perceptron and the standardisation of its input."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it

from bundle.images.contract import PIXELS
from training.model.noise_layers import Dropout, GaussianNoise
from training.settings import ModelSettings

LEAKY_SLOPE = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Standardisation:
    """Standardisation of pixels to zero mean and unit variance, by the statistics of the training images."""

    mean: float
    """Mean pixel, 0..255."""
    deviation: float
    """Standard deviation of a pixel, 0..255."""

    @classmethod
    def of(cls, images: torch.Tensor) -> "Standardisation":
        """Compute the statistics of `uint8[n, 28, 28]` from pixel counts, which are exact in any order of summation."""
        counts = torch.bincount(images.flatten().cpu(), minlength=256).double()
        values = torch.arange(256, dtype=torch.float64)
        mean = float((counts * values).sum() / counts.sum())
        variance = float((counts * (values - mean) ** 2).sum() / counts.sum())
        return cls(mean=mean, deviation=max(variance**0.5, 1.0))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Standardise `[n, 28, 28]`, uint8 or float in 0..255, to `float32[n, 784]`."""
        return images.flatten(1).float().sub(self.mean).mul_(1 / self.deviation)


RAW_PIXELS = Standardisation(mean=0.0, deviation=1.0)
"""For a network whose first layer has the standardisation folded into it: pixels stay as they are."""


class MLP(nn.Sequential):
    """A multilayer perceptron: in each hidden layer linear, batch norm, noise, activation and dropout; a linear output.

    It maps standardised `float32[n, 784]` to logits `float32[n, classes]`. The softmax is not part of it: cross entropy
    takes logits and is exact where probabilities would underflow. Without hidden layers it is softmax regression; with
    two classes that is logistic regression, whose weight vector is the difference of the two rows here.

    Dropout is inverted (kept units are divided by 1 - p in training), so that `eval()` needs no rescaling. Source:
    Srivastava et al., "Dropout", JMLR 15 (2014), section 10.
    """

    def __init__(self, settings: ModelSettings, classes: int) -> None:
        layers: list[nn.Module] = []
        if settings.input_noise:
            layers.append(GaussianNoise(settings.input_noise))
        if settings.input_dropout:
            layers.append(Dropout(settings.input_dropout))
        width = PIXELS
        for index, units in enumerate(settings.hidden):
            layers.append(nn.Linear(width, units))
            if settings.batch_norm:
                layers.append(_normalisation(units, noisy=settings.noise > 0))
            if settings.noise:
                layers.append(GaussianNoise(settings.noise))
            layers.append(_activation(settings.activation))
            if settings.dropout_of(index):
                layers.append(Dropout(settings.dropout_of(index)))
            width = units
        super().__init__(*layers, nn.Linear(width, classes))
        if settings.initialisation != "pytorch":
            _initialise(self, settings)

    def linear_layers(self) -> list[nn.Linear]:
        """Return the linear layers, first to last."""
        return [layer for layer in self if isinstance(layer, nn.Linear)]


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation that also trains on a single image, which has no variance, by the running statistics.

    The last batch of an epoch, a part of an accumulated batch, or a process's share of one may have one image, or none.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `float[n, units]` normalised, for any n; with fewer than two images no statistics are updated."""
        if not self.training or len(x) > 1:
            return super().forward(x)
        mean, variance = self.running_mean, self.running_var
        return F.batch_norm(x, mean, variance, self.weight, self.bias, training=False, eps=self.eps)


def _normalisation(units: int, *, noisy: bool) -> BatchNorm:
    """Return batch normalisation; if noise follows, its scale is fixed at 1, as training would outgrow the noise.

    Source: Rasmus et al. (2015), equations 5 to 7, where noise is added before scale and shift, and rectifiers have no
    scale because the next layer has one.
    """
    layer = BatchNorm(units)
    layer.weight.requires_grad_(not noisy)
    return layer


def _activation(name: str) -> nn.Module:
    choices: dict[str, nn.Module] = {
        "relu": nn.ReLU(),
        "leaky_relu": nn.LeakyReLU(LEAKY_SLOPE),
        "elu": nn.ELU(),
        "gelu": nn.GELU(),
        "tanh": nn.Tanh(),
        "sigmoid": nn.Sigmoid(),
    }
    return choices[name]


def _initialise(model: MLP, settings: ModelSettings) -> None:
    """Initialise the weights by the chosen rule and the biases to 0; the output layer has gain 1.

    He: normal, variance gain^2 / fan-in (He et al., "Delving Deep into Rectifiers", 2015).
    Xavier: uniform, variance 2 / (fan-in + fan-out) times gain^2 (Glorot and Bengio, 2010).
    Orthogonal: Saxe et al., "Exact solutions to the nonlinear dynamics of learning", 2014.
    """
    *hidden, last = model.linear_layers()
    for layer in (*hidden, last):
        gain = 1.0 if layer is last else _gain(settings.activation)
        if settings.initialisation == "he":
            nn.init.normal_(layer.weight, std=gain / layer.in_features**0.5)
        elif settings.initialisation == "xavier":
            nn.init.xavier_uniform_(layer.weight, gain=gain)
        else:
            nn.init.orthogonal_(layer.weight, gain=gain)
        nn.init.zeros_(layer.bias)


def _gain(activation: str) -> float:
    """Return the gain that preserves the variance through an activation; ELU and GELU take that of ReLU."""
    if activation == "leaky_relu":
        return nn.init.calculate_gain("leaky_relu", LEAKY_SLOPE)
    if activation == "tanh":
        return nn.init.calculate_gain("tanh")
    return nn.init.calculate_gain("sigmoid" if activation == "sigmoid" else "relu")


@torch.no_grad()
def constrain_norms(model: MLP, limit: float) -> None:
    """Apply the max-norm constraint: scale each hidden unit's incoming weights to a Euclidean norm of at most `limit`.

    Source: Srivastava et al. (2014), section 5.1.
    """
    for layer in model.linear_layers()[:-1]:
        norms = layer.weight.norm(dim=1, keepdim=True)
        layer.weight.mul_((limit / norms.clamp_min(1e-12)).clamp_max(1.0))
