"""The training loop: the mathematics of its parts, repeatability, and what it writes down."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from training.data import Images, Resident
from training.errors import TrainingError
from training.fit import Fitted, fit
from training.model import MLP, Standardisation, parameter_groups
from training.progress import Progress
from training.settings import TrainingSettings


def blobs(count: int, seed: int) -> Images:
    """Three classes of noisy images, each bright in another third."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, count)
    images = generator.integers(0, 100, (count, 28, 28), dtype=np.uint8)
    for index, label in enumerate(labels):
        images[index, 9 * label : 9 * label + 9] += 100
    return Images(images=images, labels=labels.astype(np.int64))


def train(directory: Path, **settings: object) -> Fitted:
    """Fit a small network to the blobs for three epochs."""
    chosen = TrainingSettings.model_validate(
        {"epochs": 3, "hidden": (32, 16), "batch_size": 32, "learning_rate": 3e-3} | settings
    )
    cpu = torch.device("cpu")
    parts: tuple[Resident, Resident] = blobs(500, 1).to(cpu), blobs(100, 2).to(cpu)
    return fit(chosen, *parts, 3, directory / "metrics.jsonl", Progress(quiet=True))


def weights(fitted: Fitted) -> bytes:
    """Return every weight and bias as bytes."""
    return b"".join(p.detach().numpy().tobytes() for p in fitted.model.parameters())


def test_it_learns(tmp_path: Path) -> None:
    """Three separable classes are told apart after three epochs."""
    history = train(tmp_path).history
    assert history[-1].validation_accuracy > 0.95
    assert history[-1].validation_loss < history[0].validation_loss


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    """Equal settings give byte-identical weights, another seed others."""
    assert weights(train(tmp_path, seed=7)) == weights(train(tmp_path, seed=7))
    assert weights(train(tmp_path, seed=7)) != weights(train(tmp_path, seed=8))


def test_one_json_line_is_written_per_epoch(tmp_path: Path) -> None:
    """The metrics file has the fields of every epoch, in order."""
    history = train(tmp_path).history
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines[1]["validation_loss"] == history[1].validation_loss
    assert all(math.isfinite(line["train_loss"]) for line in lines)


def test_the_model_comes_back_in_evaluation_mode(tmp_path: Path) -> None:
    """Two passes over one batch agree, which dropout would prevent."""
    fitted = train(tmp_path, dropout=0.5)
    batch = torch.randn(16, 784)
    assert not fitted.model.training
    assert torch.equal(fitted.model(batch), fitted.model(batch))


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    """An absurd learning rate ends in a sentence, not in a published model."""
    with pytest.raises(TrainingError, match="not finite"):
        train(tmp_path, learning_rate=1e30)


def test_the_first_step_is_adamw_by_hand(tmp_path: Path) -> None:
    """One step from known weights equals Loshchilov and Hutter's algorithm 2, written out in NumPy."""
    torch.manual_seed(0)
    model = MLP((), 3, 0.0).double()
    x, y = torch.randn(8, 784, dtype=torch.float64), torch.arange(8) % 3
    (linear,) = model
    assert isinstance(linear, nn.Linear)
    before_w, before_b = linear.weight.detach().numpy().copy(), linear.bias.detach().numpy().copy()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=0.01)
    nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    z = x.numpy() @ before_w.T + before_b
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    error = (p - np.eye(3)[y.numpy()]) / 8
    for after, before, gradient, decay in (
        (linear.weight, before_w, error.T @ x.numpy(), 0.1),
        (linear.bias, before_b, error.sum(0), 0.0),
    ):
        # After one step the corrected moments are g and g^2 themselves.
        expected = before * (1 - 0.01 * decay) - 0.01 * gradient / (np.abs(gradient) + 1e-8)
        np.testing.assert_allclose(after.detach().numpy(), expected, rtol=0, atol=1e-9)


def test_dropout_keeps_the_expectation() -> None:
    """Inverted dropout's mean over many masks is the value without dropout."""
    torch.manual_seed(0)
    layer = MLP((4,), 2, 0.3)[2]
    layer.train()
    mean = layer(torch.ones(200_000, 4)).mean(0)
    torch.testing.assert_close(mean, torch.ones(4), atol=0.01, rtol=0)


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
