"""Adversarial training: the perturbation is the worst one, and half of the loss is that of the moved images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.support.runs import small_run, weights
from training.loop.fit import Fitted, begin, fit, train_step
from training.model.adversarial import adversarial
from training.model.evaluation import accuracy, logits_of


def test_the_worst_perturbation_of_logistic_regression_is_exact() -> None:
    """The loss becomes log(1 + exp(-y(w·x + b) + size ||w||)), and no other perturbation of that norm exceeds it."""
    torch.manual_seed(0)
    layer = nn.Linear(7, 2).double()
    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    labels, size = torch.tensor([0, 1, 1, 0, 1]), 0.7

    def losses(inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(layer(inputs), labels, reduction="none")

    losses(x).sum().backward()
    assert x.grad is not None
    moved = adversarial(x.detach(), x.grad, size)
    weight, bias = (value[1] - value[0] for value in (layer.weight.detach(), layer.bias.detach()))
    margins = (2 * labels - 1) * (x.detach() @ weight + bias)
    np.testing.assert_allclose(
        losses(moved).detach(), torch.log1p(torch.exp(-margins + size * weight.norm()))
    )
    others = torch.randn(1000, 5, 7, dtype=torch.float64)
    for other in size * others / others.norm(dim=2, keepdim=True):
        assert (losses(x.detach() + other) < losses(moved)).all()


def test_an_input_without_a_gradient_stays() -> None:
    """There is no direction, and the result is the input, not NaN; a subnormal gradient is not made infinite."""
    x, gradient = torch.ones(2, 3), torch.tensor([[0.0, 0.0, 0.0], [0.0, 1e-42, 0.0]])
    moved = adversarial(x, gradient, 2.0)
    assert torch.equal(moved[0], x[0])
    assert torch.isfinite(moved).all()


def test_a_step_is_that_of_half_the_loss_of_each(tmp_path: Path) -> None:
    """One step of SGD, against autograd over images that are moved in pixels: ink is 255."""
    plain: dict[str, Any] = {
        "optimizer": "sgd",
        "momentum": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
        "dropout": (0.0,),
    }
    run = small_run(tmp_path, adversarial=1.5, schedule="constant", warmup=0.0, precision="float32", **plain)
    state, batch = begin(run), torch.arange(32)
    images, labels = run.train.take(batch)
    pixels = images.double().flatten(1).requires_grad_()
    reference = begin(run).model.double()

    def loss(values: torch.Tensor) -> torch.Tensor:
        inputs = (values - state.standardise.mean) / state.standardise.deviation
        return nn.functional.cross_entropy(reference(inputs), labels, reduction="none")

    direction = torch.autograd.grad(loss(pixels).sum(), pixels)[0]
    moved = pixels.detach() + 1.5 * 255 * direction / direction.norm(dim=1, keepdim=True)
    (loss(pixels.detach()).mean() / 2 + loss(moved).mean() / 2).backward()
    train_step(run, state, state.model, batch)
    rate = run.settings.learning_rate
    for after, before in zip(state.model.parameters(), reference.parameters(), strict=True):
        assert before.grad is not None
        np.testing.assert_allclose(
            after.detach(), (before - rate * before.grad).detach(), rtol=1e-5, atol=1e-6
        )


def test_it_withstands_what_it_was_trained_against(tmp_path: Path) -> None:
    """Where each is moved against its own gradient, the network trained so errs less than half as often."""
    run = small_run(tmp_path)
    images = run.validation.images
    labels = run.validation.labels

    def errors(fitted: Fitted) -> float:
        x = fitted.standardise(images).requires_grad_()
        nn.functional.cross_entropy(fitted.model(x), labels, reduction="sum").backward()
        assert x.grad is not None
        moved = adversarial(x.detach(), x.grad, 6 * 255 / fitted.standardise.deviation)
        return 1 - float((fitted.model(moved).argmax(1) == labels).float().mean())

    settings: dict[str, Any] = {"epochs": 6, "dropout": (0.0,)}
    plain = fit(small_run(tmp_path / "plain", **settings))
    robust = fit(small_run(tmp_path / "robust", adversarial=6.0, **settings))
    assert accuracy(logits_of(robust.model, robust.standardise, images), labels.numpy()) == pytest.approx(
        1, abs=0.02
    )
    assert errors(plain) > 0.2
    assert errors(robust) < errors(plain) / 2


def test_off_is_off(tmp_path: Path) -> None:
    """A size of 0 gives the bytes of a run without it, and any other does not."""
    assert weights(fit(small_run(tmp_path / "a"))) == weights(fit(small_run(tmp_path / "b", adversarial=0.0)))
    assert weights(fit(small_run(tmp_path / "a"))) != weights(fit(small_run(tmp_path / "c", adversarial=0.1)))
