"""The first layer in 8 bits: the grid against NumPy's integers, folding, and the straight-through gradient by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from bench.support.runs import small_run, weights
from training.loop.fit import fit
from training.model.evaluation import logits_of, negative_log_likelihood
from training.model.mlp import MLP, RAW_PIXELS, Standardisation
from training.model.quantisation import quantise, quantised, straight_through
from training.release.export import ExportedModel
from training.settings import ModelSettings

STANDARDISE = Standardisation(mean=33.3, deviation=78.6)
SMALLEST = float(np.finfo(np.float32).tiny)


def some_weights(kind: str) -> npt.NDArray[np.float32]:
    """Return weights of 40 units: usual ones, or what could break."""
    random = np.random.default_rng(5)
    weights = random.normal(0, 0.05, (40, 784)).astype(np.float32)
    if kind == "scales":
        weights *= np.float32(10.0) ** np.linspace(-34, 36, 40, dtype=np.float32)[:, None]
    elif kind == "extremes":
        weights = np.where(random.random(weights.shape) < 0.5, -1, 1).astype(np.float32)
        weights[0], weights[1], weights[2], weights[3] = 1, -1, 0, SMALLEST
        weights[4] = 0
        weights[4, 7] = -3e38
    return weights


def a_network(**changes: Any) -> MLP:
    """Return a network of seven classes with random weights, seeded, in evaluation mode."""
    torch.manual_seed(3)
    network = MLP(ModelSettings.model_validate({"hidden": (40, 30)} | changes), 7).eval()
    for layer in network:
        if isinstance(layer, nn.BatchNorm1d):
            for values in (layer.weight, layer.bias, layer.running_mean):
                assert values is not None
                nn.init.normal_(values)
            assert layer.running_var is not None
            nn.init.uniform_(layer.running_var, 0.1, 4)
    return network


@pytest.mark.parametrize("kind", ["usual", "scales", "extremes"])
def test_every_weight_is_an_integer_times_its_units_scale_exactly(kind: str) -> None:
    """In exact arithmetic too: a double holds any product of an int8 and a float32, and a float32 holds these."""
    weights = some_weights(kind)
    integers, scales = (found.numpy() for found in quantise(torch.from_numpy(weights)))
    assert np.array_equal(integers, np.rint(integers))
    assert np.abs(integers).max() == 127
    assert scales.dtype == np.float32
    assert scales.min() >= SMALLEST
    exact = integers * scales.astype(np.float64)
    rounded = quantised(torch.from_numpy(weights)).numpy()
    assert rounded.dtype == np.float32
    assert np.array_equal(rounded.astype(np.float64), exact)
    assert np.array_equal(rounded, integers.astype(np.int8) * scales)


@pytest.mark.parametrize("kind", ["usual", "scales", "extremes"])
def test_no_weight_moves_by_more_than_half_a_step(kind: str) -> None:
    """Integers are the nearest of 127 w / max|w|; a step is the largest weight by 127, and 2^-16 of it off."""
    weights = some_weights(kind).astype(np.float64)
    rounded = quantised(torch.from_numpy(some_weights(kind))).numpy()
    largest = np.abs(weights).max(axis=1, keepdims=True)
    usual = largest[:, 0] > 127 * SMALLEST
    assert (np.abs(rounded - weights) <= largest / 127 / 2 + largest * 2**-16)[usual].all()
    expected = np.rint(weights[usual] * 127 / largest[usual])
    assert np.array_equal(quantise(torch.from_numpy(some_weights(kind)))[0].numpy()[usual], expected)
    assert not rounded[~usual].any()


@pytest.mark.parametrize("kind", ["usual", "scales", "extremes"])
def test_rounding_twice_is_rounding_once(kind: str) -> None:
    """What is on the grid stays where it is, to the last bit."""
    once = quantised(torch.from_numpy(some_weights(kind)))
    assert torch.equal(quantised(once), once)


@pytest.mark.parametrize("factor", [3.7, -0.01, 1e-4])
def test_rounding_commutes_with_a_factor_on_a_unit(factor: float) -> None:
    """As folding multiplies units by factors, the integers are the same before and after, but for the sign."""
    weights = torch.from_numpy(some_weights("usual")).double()
    before, after = quantise(weights)[0], quantise(weights * factor)[0]
    assert torch.equal(after, before * np.sign(factor))


@pytest.mark.parametrize("batch_norm", [False, True])
def test_what_is_exported_is_the_rounded_network(batch_norm: bool) -> None:
    """Rounding the trained weights and folding by hand, in float64, gives the exported network's logits.

    It rounds after folding, so this holds only if the two commute, and if the bias is that of the rounded weights.
    """
    network = a_network(batch_norm=batch_norm)
    exported = ExportedModel(network, STANDARDISE, quantise=True)
    images = np.random.default_rng(0).integers(0, 256, (200, 28, 28), dtype=np.uint8)
    x = (images.reshape(200, 784).astype(np.float64) - STANDARDISE.mean) / STANDARDISE.deviation
    first = network.linear_layers()[0]
    for layer in network:
        if isinstance(layer, nn.Linear):
            weights = layer.weight.detach().double().numpy()
            if layer is first:
                largest = np.abs(weights).max(axis=1, keepdims=True)
                weights = np.rint(weights * 127 / largest) * largest / 127
            x = x @ weights.T + layer.bias.detach().double().numpy()
        elif isinstance(layer, nn.BatchNorm1d):
            mean, variance, scale, bias = (
                value.detach().double().numpy()
                for value in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
                if value is not None
            )
            x = (x - mean) / np.sqrt(variance + layer.eps) * scale + bias
        elif isinstance(layer, nn.ReLU):
            x = np.maximum(x, 0)
    logits = exported(torch.from_numpy(images))[0].numpy()
    # A scale of 16 bits is up to 2^-17 of itself off.
    np.testing.assert_allclose(logits, x, atol=2**-16 * np.abs(x).max())
    unrounded = ExportedModel(network, STANDARDISE)(torch.from_numpy(images))[0].numpy()
    assert np.abs(unrounded - x).max() > 100 * np.abs(logits - x).max()


def test_an_image_of_the_mean_pixel_keeps_its_pre_activations() -> None:
    """The bias makes up for what rounding changed in the sum of a unit's weights."""
    network = a_network()
    gray = torch.full((1, 784), STANDARDISE.mean, dtype=torch.float64)
    exact, rounded = (
        ExportedModel(network, STANDARDISE, quantise=quantise).first_layer.double()
        for quantise in (False, True)
    )
    assert not torch.equal(exact.weight, rounded.weight)
    torch.testing.assert_close(exact(gray), rounded(gray), atol=1e-4, rtol=0)
    assert torch.equal(RAW_PIXELS(torch.arange(256.0).reshape(1, 256)), torch.arange(256.0).reshape(1, 256))


def test_the_straight_through_gradient_is_that_of_the_rounded_weights() -> None:
    """For squared error of a linear unit, by hand: 2 (q.x - t) x, with q the rounded weights and not the exact ones."""
    weights = nn.Parameter(torch.tensor([[1.27, 0.604, -0.3]]))
    before = weights.detach().clone()
    x, target = torch.tensor([3.0, -2.0, 5.0]), 0.5
    rounded = torch.tensor([1.27, 0.60, -0.30])
    with straight_through(weights, torch.tensor(True)):
        assert torch.allclose(weights, rounded, atol=1e-4)
        ((weights[0] @ x - target) ** 2).backward()
    assert torch.equal(weights, before)
    assert weights.grad is not None
    expected = 2 * (rounded @ x - target) * x
    torch.testing.assert_close(weights.grad[0], expected, atol=1e-2, rtol=1e-4)
    exact = 2 * (before[0] @ x - target) * x
    assert not torch.allclose(weights.grad[0], exact, atol=2e-2, rtol=1e-4)


def assert_differ(one: torch.Tensor, other: torch.Tensor) -> None:
    """Check that two tensors are not equal."""
    assert not torch.equal(one, other)


def test_without_its_epochs_nothing_is_rounded() -> None:
    """Where the device says that it is not active, every bit stays; and an error leaves the exact weights too."""
    weights = nn.Parameter(torch.from_numpy(some_weights("usual")))
    before = weights.detach().clone()
    with straight_through(weights, torch.tensor(False)):
        assert torch.equal(weights, before)

    def fail() -> None:
        with straight_through(weights, torch.tensor(True)):
            assert_differ(weights, before)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(weights, before)


@pytest.mark.parametrize(
    "changes", [{}, {"batch_norm": True, "ema": 0.5, "l2": 0.1}, {"precision": "bfloat16"}]
)
def test_the_last_epochs_are_trained_with_rounded_weights(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Two of three epochs are those of a run without; the loss after the third is that of the rounded weights."""
    torch.set_num_threads(1)
    changes |= {"dropout": (0.0,)}
    plain = fit(small_run(tmp_path / "plain", **changes))
    rounded = fit(small_run(tmp_path / "rounded", straight_through=1, **changes))
    assert [e.train_loss for e in plain.history[:2]] == [e.train_loss for e in rounded.history[:2]]
    assert plain.history[2].train_loss != rounded.history[2].train_loss
    validation = small_run(tmp_path).validation
    exported = ExportedModel(rounded.model, rounded.standardise, quantise=True)
    logits = logits_of(exported.layers, RAW_PIXELS, validation.images)
    of_rounded = negative_log_likelihood(logits, validation.labels.numpy())
    assert rounded.history[2].validation_loss == pytest.approx(of_rounded, rel=1e-3)
    exact = negative_log_likelihood(
        logits_of(rounded.model, rounded.standardise, validation.images), validation.labels.numpy()
    )
    assert abs(exact - of_rounded) > 3 * abs(rounded.history[2].validation_loss - of_rounded)


def test_a_network_without_hidden_layers_is_never_rounded(tmp_path: Path) -> None:
    """Softmax regression stays what it is, whatever the setting."""
    torch.set_num_threads(1)
    settings: dict[str, Any] = {"hidden": (), "dropout": (0.0,)}
    assert weights(fit(small_run(tmp_path / "a", **settings))) == weights(
        fit(small_run(tmp_path / "b", straight_through=2, **settings))
    )
