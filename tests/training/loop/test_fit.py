"""The training run: it learns, is reproducible, and logs its metrics."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.support.runs import blobs, small_run, weights
from common.errors import ConfigurationError
from training.errors import DivergedError
from training.loop.fit import Fitted, Run, epoch_order, fit
from training.model.mlp import MLP, Standardisation


@torch.inference_mode()
def validation_loss(run: Run, fitted: Fitted) -> float:
    """Return torch's own cross entropy of the fitted model on the run's validation images."""
    logits = fitted.model(fitted.standardise(run.validation.images))
    return float(nn.functional.cross_entropy(logits, run.validation.labels))


def test_it_learns(tmp_path: Path) -> None:
    """Three separable classes are told apart after three epochs."""
    history = fit(small_run(tmp_path)).history
    assert history[-1].validation_accuracy > 0.95
    assert history[-1].validation_loss < history[0].validation_loss


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    """Equal settings give byte-identical weights, another seed others."""
    assert weights(fit(small_run(tmp_path, seed=7))) == weights(fit(small_run(tmp_path, seed=7)))
    assert weights(fit(small_run(tmp_path, seed=7))) != weights(fit(small_run(tmp_path, seed=8)))


def test_one_json_line_is_written_per_epoch(tmp_path: Path) -> None:
    """The metrics file has the fields of every epoch, in order."""
    history = fit(small_run(tmp_path)).history
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines[1]["validation_loss"] == history[1].validation_loss
    assert all(math.isfinite(line["train_loss"]) for line in lines)


def test_the_model_comes_back_in_evaluation_mode(tmp_path: Path) -> None:
    """Two passes over one batch agree, which dropout would prevent."""
    fitted = fit(small_run(tmp_path, dropout=0.5))
    batch = torch.randn(16, 784)
    assert not fitted.model.training
    assert torch.equal(fitted.model(batch), fitted.model(batch))


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    """An absurd learning rate ends in a sentence, not in a published model."""
    with pytest.raises(DivergedError, match="not finite"):
        fit(small_run(tmp_path, learning_rate=1e30, optimizer="sgd"))


def test_standardisation_matches_the_definition() -> None:
    """Pixels come out with mean 0 and deviation 1, measured by NumPy in float64."""
    images = blobs(200, 3).images
    standardise = Standardisation.of(torch.from_numpy(images))
    assert standardise.mean == pytest.approx(images.mean(dtype=np.float64), rel=1e-12)
    assert standardise.deviation == pytest.approx(images.std(dtype=np.float64), rel=1e-12)
    out = standardise(torch.from_numpy(images))
    assert out.shape == (200, 784)
    assert float(out.double().mean()) == pytest.approx(0, abs=1e-5)
    assert float(out.double().std(correction=0)) == pytest.approx(1, abs=1e-5)


def test_blank_images_do_not_divide_by_zero() -> None:
    """A data set of one gray has deviation 0; standardising it stays finite."""
    images = torch.full((5, 28, 28), 9, dtype=torch.uint8)
    assert torch.isfinite(Standardisation.of(images)(images)).all()


def test_accumulation_gives_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    """Batches worked through in four parts end at the same weights, up to rounding."""
    whole = fit(small_run(tmp_path, dropout=0.0, optimizer="sgd", epochs=1))
    parts = fit(small_run(tmp_path, dropout=0.0, optimizer="sgd", epochs=1, accumulate=4))
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    """With SGD without momentum, one step is at most learning rate times the clipped norm."""
    run = small_run(
        tmp_path,
        clip=0.01,
        learning_rate=1.0,
        optimizer="sgd",
        momentum=0.0,
        weight_decay=0.0,
        schedule="constant",
        warmup=0.0,
        epochs=1,
        batch_size=500,
    )
    torch.manual_seed(run.settings.seed)
    before = MLP(run.settings, 3)
    after = fit(run).model
    moved = [(a - b).square().sum() for a, b in zip(after.parameters(), before.parameters(), strict=True)]
    assert float(torch.stack(moved).sum().sqrt().detach()) == pytest.approx(0.01, rel=1e-3)


def test_early_stopping_stops_and_restores_the_best(tmp_path: Path) -> None:
    """After `patience` epochs without improvement training ends with the best epoch's weights."""
    run = small_run(tmp_path, epochs=60, patience=3, monitor="loss", learning_rate=0.02, schedule="constant")
    fitted = fit(run)
    losses = [epoch.validation_loss for epoch in fitted.history]
    assert len(losses) < 60
    assert losses.index(min(losses)) == len(losses) - 1 - 3
    assert validation_loss(run, fitted) == pytest.approx(min(losses), rel=1e-4, abs=1e-7)


def test_the_averaged_weights_are_evaluated(tmp_path: Path) -> None:
    """With a moving average, validation and the result are the average's, not the last weights'."""
    run = small_run(tmp_path, ema=0.99)
    fitted = fit(run)
    assert validation_loss(run, fitted) == pytest.approx(
        fitted.history[-1].validation_loss, rel=1e-4, abs=1e-7
    )
    assert weights(fitted) != weights(fit(small_run(tmp_path)))


def test_averaged_weights_are_normalised_by_statistics_of_their_own(tmp_path: Path) -> None:
    """The first normalisation holds the mean and variance of what the averaged weights give, batch by batch."""
    run = small_run(tmp_path, ema=0.99, batch_norm=True, learning_rate=0.03, schedule="constant")
    fitted = fit(run)
    first, norm = (
        fitted.model.linear_layers()[0],
        next(m for m in fitted.model if isinstance(m, nn.BatchNorm1d)),
    )
    order = epoch_order(500, run.settings.seed, run.settings.epochs - 1)
    pixels = (
        run.train.images.numpy().reshape(500, 784) - fitted.standardise.mean
    ) / fitted.standardise.deviation
    weight, bias = first.weight.detach().double().numpy(), first.bias.detach().double().numpy()
    outputs = [pixels[part.numpy()] @ weight.T + bias for part in torch.split(order, 32)]
    assert norm.running_mean is not None
    assert norm.running_var is not None
    np.testing.assert_allclose(norm.running_mean.numpy(), np.mean([o.mean(0) for o in outputs], 0), atol=1e-4)
    np.testing.assert_allclose(
        norm.running_var.numpy(), np.mean([o.var(0, ddof=1) for o in outputs], 0), rtol=1e-3
    )


@pytest.mark.parametrize("precision", ["auto", "bfloat16"])
def test_mixed_precision_learns_too(tmp_path: Path, precision: str) -> None:
    """In bfloat16 the run ends about where float32 does."""
    assert fit(small_run(tmp_path, precision=precision)).history[-1].validation_accuracy > 0.95


def test_an_epochs_order_is_a_permutation_of_its_own() -> None:
    """Each image comes once; the order depends on seed and epoch, and on nothing else."""
    order = epoch_order(1000, 3, 5)
    assert torch.equal(order.sort().values, torch.arange(1000))
    assert torch.equal(order, epoch_order(1000, 3, 5))
    assert not torch.equal(order, epoch_order(1000, 3, 6))
    assert not torch.equal(order, epoch_order(1000, 4, 5))


def test_max_norm_holds_after_training(tmp_path: Path) -> None:
    """No hidden unit's incoming weights are longer than the limit."""
    fitted = fit(small_run(tmp_path, max_norm=0.5))
    first = fitted.model.linear_layers()[0]
    assert float(first.weight.norm(dim=1).max().detach()) <= 0.5 + 1e-5


@pytest.mark.parametrize(
    "parts",
    [
        {"batch_size": 499},  # of 500 images: the last batch has one
        {
            "batch_size": 32,
            "accumulate": 19,
        },  # each batch has parts of two images and of one, the last one empty ones
        {"batch_size": 498, "accumulate": 3},  # the last batch has two images in three parts
    ],
)
def test_batch_normalisation_trains_on_a_batch_of_one(tmp_path: Path, parts: dict[str, Any]) -> None:
    """A single image has no variance: it is normalised by the running statistics, which it does not change."""
    fitted = fit(small_run(tmp_path, batch_norm=True, ema=0.5, **parts))
    assert fitted.history[-1].validation_accuracy > 0.9
    assert all(np.isfinite(value.numpy()).all() for value in fitted.model.state_dict().values())


def test_a_single_image_leaves_the_running_statistics_as_they_are() -> None:
    """And its gradient reaches the weights; no image at all is no error."""
    model = MLP(small_run(Path()).settings.model_copy(update={"batch_norm": True}), 3).train()
    model(torch.randn(64, 784))
    norm = next(m for m in model if isinstance(m, nn.BatchNorm1d))
    assert norm.running_mean is not None
    before = norm.running_mean.clone()
    model(torch.randn(1, 784)).sum().backward()
    gradient = model.linear_layers()[0].weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0
    assert model(torch.randn(0, 784)).shape == (0, 3)
    assert torch.equal(before, norm.running_mean)
    image = model.linear_layers()[0](torch.randn(1, 784))
    assert torch.equal(norm(image), norm.eval()(image))


@pytest.mark.parametrize("parts", [{"batch_size": 1}, {"batch_size": 8, "accumulate": 8}])
def test_batch_normalisation_of_single_images_alone_is_a_wrong_setting(
    tmp_path: Path, parts: dict[str, Any]
) -> None:
    """There would be no statistics at all; without batch normalisation it trains."""
    with pytest.raises(
        ConfigurationError, match=r"batch_norm: a batch of . is computed in . parts of one image"
    ):
        fit(small_run(tmp_path, batch_norm=True, **parts))
    fit(small_run(tmp_path, epochs=1, **parts))
