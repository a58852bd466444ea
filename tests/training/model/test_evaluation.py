"""Losses and calibration, against PyTorch, a worked example, plain loops and other minimisers."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from training.model.evaluation import (
    PRIOR_IMAGES,
    Labels,
    Logits,
    expected_calibration_error,
    fit_temperature,
    log_softmax,
    logits_of,
    map_temperature,
    metrics,
    negative_log_likelihood,
)
from training.model.mlp import Standardisation

COURSE_PROBABILITIES = [
    [0.3792, 0.3104, 0.3104],
    [0.3072, 0.4147, 0.2780],
    [0.4263, 0.2248, 0.3490],
    [0.2668, 0.2978, 0.4354],
]
COURSE_LABELS = np.array([0, 1, 2, 2])
COURSE_LOSSES = [0.969692, 0.880200, 1.05268, 0.831490]


def some_logits(seed: int, count: int = 400, classes: int = 5, scale: float = 3.0) -> tuple[Logits, Labels]:
    """Return logits that are right about half of the time, and the true classes."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, count)
    logits = generator.normal(0, 1, (count, classes))
    logits[np.arange(count), labels] += 1
    return (logits * scale).astype(np.float32), labels


def test_the_courses_worked_example() -> None:
    """Four softmax outputs of the course give its four losses, and their mean of 0.9335."""
    logits = np.log(np.array(COURSE_PROBABILITIES)).astype(np.float32)
    for row, label, loss in zip(logits, COURSE_LABELS, COURSE_LOSSES, strict=True):
        # The probabilities were rounded to four digits; softmax makes them sum to exactly 1 again.
        renormalised = loss + math.log(float(np.exp(row).sum()))
        assert negative_log_likelihood(row[None], np.array([label])) == pytest.approx(renormalised, abs=5e-6)
    assert negative_log_likelihood(logits, COURSE_LABELS) == pytest.approx(0.9335, abs=5e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_pytorchs_cross_entropy(seed: int, temperature: float) -> None:
    """The loss equals torch.nn.functional.cross_entropy in float64."""
    logits, labels = some_logits(seed)
    expected = nn.functional.cross_entropy(
        torch.from_numpy(logits).double() / temperature, torch.from_numpy(labels)
    )
    assert negative_log_likelihood(logits, labels, temperature) == pytest.approx(float(expected), rel=1e-12)


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3),
        min_size=1,
        max_size=5,
    ),
    st.floats(0.02, 50),
)
def test_log_softmax_is_stable(rows: list[list[float]], temperature: float) -> None:
    """For logits up to 1e4, probabilities are finite, sum to 1 and keep the logits' order and differences."""
    logits = np.array(rows, dtype=np.float32)
    result = log_softmax(logits, temperature)
    assert np.isfinite(result).all()
    assert np.exp(result).sum(axis=1) == pytest.approx(1, abs=1e-9)
    differences = (logits.astype(np.float64) - logits[:, :1]) / temperature
    assert result - result[:, :1] == pytest.approx(differences, rel=1e-9, abs=1e-6)


def test_the_logits_are_not_changed() -> None:
    """Evaluating leaves its arguments as they were."""
    logits, labels = some_logits(0)
    before = logits.copy()
    metrics(logits, labels, 2.0)
    fit_temperature(logits, labels)
    assert (logits == before).all()


def logits_with_confidence(confidences: list[float]) -> Logits:
    """Return two-class logits whose softmax gives class 0 these probabilities, all above one half."""
    return np.array([[math.log(p / (1 - p)), 0.0] for p in confidences], dtype=np.float32)


def test_ece_of_an_example_by_hand() -> None:
    """Three bins by hand: (2 * |1 - .91| + 2 * |.5 - .74| + 1 * |0 - .62|) / 5 = 0.256."""
    # Bins of 1/15: .90 and .92 lie in [.867, .933), .735 and .745 in [.733, .8), .62 in [.6, .667).
    logits = logits_with_confidence([0.90, 0.92, 0.735, 0.745, 0.62])
    labels = np.array([0, 0, 0, 1, 1])
    assert expected_calibration_error(logits, labels) == pytest.approx(0.256, abs=1e-6)


def naive_ece(probabilities: npt.NDArray[np.float64], labels: Labels) -> float:
    """Compute equation 3 of Guo et al. (2017) bin by bin, image by image."""
    total = 0.0
    for bin_ in range(15):
        members = [
            (row.max(), int(row.argmax()) == label)
            for row, label in zip(probabilities, labels, strict=True)
            if bin_ / 15 <= row.max() < (bin_ + 1) / 15 or (bin_ == 14 and row.max() >= 1)
        ]
        if members:
            accuracy = sum(right for _, right in members) / len(members)
            confidence = sum(p for p, _ in members) / len(members)
            total += len(members) / len(labels) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 1000.0])
def test_ece_is_that_of_a_naive_loop(seed: int, scale: float) -> None:
    """Over weak and over saturated confidences, the vectorised sum equals the definition."""
    logits, labels = some_logits(seed, scale=scale)
    exact = torch.softmax(torch.from_numpy(logits).double(), dim=1).numpy()
    assert expected_calibration_error(logits, labels) == pytest.approx(naive_ece(exact, labels), abs=1e-9)


def golden_section(logits: Logits, labels: Labels) -> float:
    """Minimise the loss and the prior's -ln over log T by golden-section search, with PyTorch's densities."""
    z, y = torch.from_numpy(logits).double(), torch.from_numpy(labels)
    prior = torch.distributions.Gamma(
        torch.tensor(PRIOR_IMAGES + 1).double(), torch.tensor(PRIOR_IMAGES).double()
    )

    def loss(log_temperature: float) -> float:
        inverse = torch.tensor(math.exp(-log_temperature)).double()
        likelihood = nn.functional.cross_entropy(z * inverse, y, reduction="sum")
        return float(likelihood - prior.log_prob(inverse))

    low, high, ratio = -4.0, 4.0, (math.sqrt(5) - 1) / 2
    while high - low > 1e-7:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return math.exp((low + high) / 2)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", [0.3, 1.0, 8.0])
def test_the_temperature_is_the_minimum(seed: int, scale: float) -> None:
    """Bisection on the slope finds what a search on the loss itself finds."""
    logits, labels = some_logits(seed, scale=scale)
    assert map_temperature(logits, labels) == pytest.approx(golden_section(logits, labels), rel=1e-4)


def test_many_images_outweigh_the_prior() -> None:
    """Labels drawn from softmax(logits / T) give T back, whatever it is."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 3, (20_000, 5)).astype(np.float32)
    for true in (0.5, 1.0, 2.0):
        gumbel = generator.gumbel(size=logits.shape)  # argmax(log p + Gumbel noise) is a draw from p
        labels = (logits / true + gumbel).argmax(axis=1)
        assert fit_temperature(logits, labels) == pytest.approx(true, rel=0.03)


@pytest.mark.parametrize("margin", [0.5, 3.0, 10.0, 100.0])
@pytest.mark.parametrize("images", [5, 66, 5000])
def test_a_validation_set_that_is_all_right_does_not_claim_certainty(images: int, margin: float) -> None:
    """With every image right the likelihood alone takes T to 0; with the prior one later mistake costs a few nats."""
    logits = np.zeros((images, 2), dtype=np.float32)
    labels = np.arange(images) % 2
    logits[np.arange(images), labels] = margin
    temperature = fit_temperature(logits, labels)
    assert temperature <= 1  # they could all be surer
    mistake = negative_log_likelihood(-logits[:1], labels[:1], temperature)
    assert mistake <= max(margin, math.log(images)) + 2


def test_a_temperature_that_does_not_hold_up_is_not_taken() -> None:
    """Where the parts of the validation set contradict each other, the logits stay as they are."""
    # Right and wrong by the same margin, in an order that gives each of the five parts other proportions.
    right = np.tile([True, True, True, True, False], 4)
    labels = np.where(right, 0, 1)
    logits = np.tile(np.array([[math.log(3), 0.0]], dtype=np.float32), (20, 1))  # says 75%, and 80% are right
    assert map_temperature(logits, labels) < 1
    assert fit_temperature(logits, labels) == 1


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 30))
def test_calibration_never_makes_the_loss_larger(seed: int, scale: float) -> None:
    """On the images it was fitted on, the calibrated loss is at most the uncalibrated one."""
    logits, labels = some_logits(seed, count=60, scale=scale)
    stated = metrics(logits, labels, fit_temperature(logits, labels))
    assert stated.nll_calibrated <= stated.nll + 1e-12


@pytest.mark.parametrize("huge", [1e4, -1e4])
def test_huge_logits_give_finite_numbers(huge: float) -> None:
    """Logits of 1e4, right and wrong, give finite losses and a temperature within its limits."""
    logits = np.zeros((6, 3), dtype=np.float32)
    labels = np.array([0, 1, 2, 0, 1, 2])
    logits[np.arange(6), labels] = huge
    temperature = fit_temperature(logits, labels)
    assert math.exp(-4) <= temperature <= math.exp(4)
    stated = metrics(logits, labels, temperature)
    assert stated.nll == pytest.approx(max(0.0, -huge + math.log(2)) if huge < 0 else 0.0, rel=1e-9)
    assert stated.accuracy == float(huge > 0)


def test_calibration_keeps_the_accuracy_and_every_label() -> None:
    """A temperature changes how sure the model is, never what it says."""
    logits, labels = some_logits(1)
    for temperature in (0.05, 1.0, 40.0):
        assert (log_softmax(logits, temperature).argmax(1) == logits.argmax(1)).all()
        assert metrics(logits, labels, temperature).accuracy == pytest.approx(
            np.mean([row.argmax() == label for row, label in zip(logits, labels, strict=True)])
        )


class Remembering(nn.Module):
    """Gives the sum of its input as one logit and remembers the mode and sizes that it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bool, int]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return `float32[n, 2]`."""
        self.seen.append((self.training, len(images)))
        return torch.stack([images.sum(1), torch.zeros(len(images))], dim=1)


@pytest.mark.parametrize("training", [False, True])
def test_logits_are_computed_in_evaluation_mode_and_in_batches(training: bool) -> None:
    """Every image is answered once, in order, without dropout; the model's mode is given back."""
    model = Remembering().train(training)
    images = torch.randint(0, 256, (5001, 28, 28), dtype=torch.uint8)
    logits = logits_of(model, Standardisation(mean=0.0, deviation=1.0), images)
    assert logits[:, 0] == pytest.approx(images.flatten(1).sum(1).numpy(), rel=1e-5)
    assert model.seen == [(False, 5000), (False, 1)]
    assert model.training is training


def test_dropout_does_not_touch_an_evaluation() -> None:
    """A network with heavy dropout gives the same logits twice."""
    model = nn.Sequential(nn.Linear(784, 16), nn.ReLU(), nn.Dropout(0.9), nn.Linear(16, 3)).train()
    images = torch.randint(0, 256, (20, 28, 28), dtype=torch.uint8)
    standardise = Standardisation(mean=30.0, deviation=80.0)
    first, second = (logits_of(model, standardise, images) for _ in range(2))
    assert (first == second).all()
