"""Evaluation and calibration: accuracy, negative log-likelihood, expected calibration error, temperature."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bundle.manifest import Metrics
from training.model.mlp import Standardisation

BATCH = 5000
ECE_BINS = 15
PRIOR_IMAGES = 4.0
"""Weight of the temperature's prior, in images: it matters for a validation set of tens of images that are all
classified correctly, and is negligible beside thousands."""
FOLDS = 5
BISECTIONS = 60
"""Bisections of an interval of length 8; the last one is shorter than float64's rounding."""
LOG_TEMPERATURE_LIMIT = 4.0
"""Temperatures are searched between e^-4 and e^4, 0.018 to 55."""

Logits = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Poll = Callable[[], None]


@torch.inference_mode()
def logits_of(
    model: nn.Module, standardise: Standardisation, images: torch.Tensor, poll: Poll = lambda: None
) -> Logits:
    """Return the logits `float32[n, classes]` of `uint8[n, 28, 28]`, in evaluation mode.

    The model's mode is restored. `poll` is called before each batch of 5,000 images and may raise.
    """
    was_training = model.training
    model.eval()
    parts = []
    try:
        for batch in torch.split(images, BATCH):
            poll()
            parts.append(model(standardise(batch)).float().cpu())
    finally:
        model.train(was_training)
    result: Logits = torch.cat(parts).numpy()
    return result


def accuracy(logits: Logits, labels: Labels) -> float:
    """Return the share of images whose predicted class is their label."""
    return float((logits.argmax(axis=1) == labels).mean())


def log_softmax(logits: Logits, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Return log softmax(logits / temperature), `float64[n, classes]`, numerically stable."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    result: npt.NDArray[np.float64] = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    return result


def negative_log_likelihood(logits: Logits, labels: Labels, temperature: float = 1.0) -> float:
    """Return the mean of -log p(true class), in nats: the cross entropy with one-hot targets."""
    return float(-log_softmax(logits, temperature)[np.arange(len(labels)), labels].mean())


def expected_calibration_error(logits: Logits, labels: Labels, temperature: float = 1.0) -> float:
    """Return the mean |accuracy - confidence| over 15 equal bins of confidence, weighted by count.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.
    """
    confidence, correct, bins = binned_confidence(logits, labels, temperature)
    gaps = np.bincount(bins, weights=correct - confidence, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def binned_confidence(
    logits: Logits, labels: Labels, temperature: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Return each image's confidence, whether its prediction is correct, and the index of its confidence bin."""
    probabilities = np.exp(log_softmax(logits, temperature))
    confidence = probabilities.max(axis=1)
    bins = np.minimum((confidence * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    return confidence, probabilities.argmax(axis=1) == labels, bins


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """Return the temperature T of softmax(logits / T), or 1 if cross-validation does not show that T is better.

    In a 5-fold cross-validation the log loss of each fold is computed at the temperature fitted on the others
    (`map_temperature`). Only if its mean is below the log loss at T = 1, T is fitted on all images.

    Args:
        logits: `float32[n, classes]` of images that the model was not trained on.
        labels: `int64[n]`.
    """
    parts = np.arange(len(labels)) % FOLDS
    held_out = 0.0
    for part in range(min(FOLDS, len(labels))):
        there = parts == part
        temperature = map_temperature(logits[~there], labels[~there]) if not there.all() else 1.0
        held_out += negative_log_likelihood(logits[there], labels[there], temperature) * int(there.sum())
    if held_out / len(labels) >= negative_log_likelihood(logits, labels):
        return 1.0
    return map_temperature(logits, labels)


def map_temperature(logits: Logits, labels: Labels) -> float:
    """Return the maximum a posteriori (MAP) temperature, with a prior whose mode is 1.

    The likelihood alone has no maximum if every image is classified correctly: T goes to 0, and a later wrong image
    costs hundreds of nats. The prior of b = 1/T is the Gamma distribution of rate k = PRIOR_IMAGES and shape k + 1,
    -ln p(b) = k (b - ln b) + constant. It is convex in b, like the loss of n images, and so is their sum,
    n loss(b) + k (b - ln b). Its derivative, n mean(E_p[z] - z_true) + k (1 - T), has one zero, found by bisection.

    Source: Guo et al. (2017), section 4.2, for the loss.

    Args:
        logits: `float32[n, classes]` of images that the model was not trained on.
        labels: `int64[n]`.
    """
    true = logits[np.arange(len(labels)), labels].astype(np.float64)

    def slope(temperature: float) -> float:
        expected = (np.exp(log_softmax(logits, temperature)) * logits).sum(axis=1)
        return float((expected - true).sum()) + PRIOR_IMAGES * (1 - temperature)

    low, high = -LOG_TEMPERATURE_LIMIT, LOG_TEMPERATURE_LIMIT
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        # The slope in b is positive where b is too large, that is, where T is too small.
        low, high = (middle, high) if slope(float(np.exp(middle))) > 0 else (low, middle)
    return float(np.exp((low + high) / 2))


def metrics(logits: Logits, labels: Labels, temperature: float) -> Metrics:
    """Return the manifest's metrics of one part of the data."""
    return Metrics(
        images=len(labels),
        accuracy=accuracy(logits, labels),
        nll=negative_log_likelihood(logits, labels),
        ece=expected_calibration_error(logits, labels),
        nll_calibrated=negative_log_likelihood(logits, labels, temperature),
        ece_calibrated=expected_calibration_error(logits, labels, temperature),
    )
