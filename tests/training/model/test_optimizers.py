"""Optimizers, schedules, penalties and averages, against formulas and torch's own."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from training.model.mlp import MLP
from training.model.optimizers import AveragedWeights, LearningRates, build_optimizers, penalty, rate_factor
from training.settings import ModelSettings, OptimizationSettings


def settings(**values: object) -> OptimizationSettings:
    """Return optimization settings with `values` changed."""
    return OptimizationSettings.model_validate(values)


def small_model(seed: int = 0) -> MLP:
    """Return a network of one hidden layer in float64, without dropout."""
    torch.manual_seed(seed)
    return MLP(ModelSettings(hidden=(6,), dropout=(0.0,)), 3).double()


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sixteen random inputs and labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(16, 784, dtype=torch.float64, generator=generator)
    return x, torch.randint(0, 3, (16,), generator=generator)


def step(model: MLP, optimizers: list[torch.optim.Optimizer], seed: int, extra: OptimizationSettings) -> None:
    """Take one step on a batch, with the penalties of `extra`."""
    x, y = batch(seed)
    loss = nn.functional.cross_entropy(model(x), y)
    regularisation = penalty(model, extra, 100)
    if regularisation is not None:
        loss = loss + regularisation
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()


def test_the_l2_penalty_equals_sgds_weight_decay_step_for_step() -> None:
    """A penalty of half lambda times the squared norm, biases included, is weight decay lambda."""
    decay = 0.04  # as a penalty: l2 / n * sum of squares with l2 / n = decay / 2
    by_penalty = settings(
        optimizer="sgd", learning_rate=0.1, weight_decay=0, l2=decay / 2 * 100, decay_biases=True
    )
    by_optimizer = settings(optimizer="sgd", learning_rate=0.1, weight_decay=decay, decay_biases=True)
    one, two = small_model(), small_model()
    first = build_optimizers(one, by_penalty)
    second = build_optimizers(two, by_optimizer)
    for number in range(10):
        step(one, first, number, by_penalty)
        step(two, second, number, by_optimizer)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("biases", [False, True])
def test_penalties_match_the_formula(biases: bool) -> None:
    """Lambda / n times the squared Frobenius norms, or the sums of magnitudes, by NumPy."""
    model = small_model()
    chosen = [p.detach().numpy() for p in model.parameters() if p.ndim == 2 or biases]
    l2 = penalty(model, settings(l2=3.0, decay_biases=biases), 50)
    l1 = penalty(model, settings(l1=2.0, decay_biases=biases), 50)
    assert l2 is not None
    assert l1 is not None
    assert l2.item() == pytest.approx(3 / 50 * sum((p**2).sum() for p in chosen), rel=1e-12)
    assert l1.item() == pytest.approx(2 / 50 * sum(np.abs(p).sum() for p in chosen), rel=1e-12)
    assert penalty(model, settings(), 50) is None


def test_l1_makes_weights_exactly_smaller_by_a_constant() -> None:
    """The gradient of the L1 penalty is lambda / n times the sign."""
    model = small_model()
    value = penalty(model, settings(l1=5.0), 100)
    assert value is not None
    value.backward()
    for layer in model.linear_layers():
        assert layer.weight.grad is not None
        torch.testing.assert_close(layer.weight.grad, 0.05 * layer.weight.sign())
        assert layer.bias.grad is None


def test_one_hot_cross_entropy_is_torchs() -> None:
    """The course's sum of -t log y, with one-hot t, equals F.cross_entropy, and so does smoothing."""
    x, y = batch(1)
    logits = small_model()(x)
    log_p = logits - torch.logsumexp(logits, 1, keepdim=True)
    one_hot = torch.eye(3, dtype=torch.float64)[y]
    torch.testing.assert_close(-(one_hot * log_p).sum(1).mean(), nn.functional.cross_entropy(logits, y))
    smooth = 0.9 * one_hot + 0.1 / 3
    torch.testing.assert_close(
        -(smooth * log_p).sum(1).mean(), nn.functional.cross_entropy(logits, y, label_smoothing=0.1)
    )


def test_one_step_of_adamw_by_hand() -> None:
    """One step equals Loshchilov and Hutter's algorithm 2 written out, and biases do not decay."""
    model = small_model()
    before = copy.deepcopy(model)
    step(
        model,
        build_optimizers(model, settings(learning_rate=0.01, weight_decay=0.1)),
        0,
        settings(),
    )
    x, y = batch(0)
    nn.functional.cross_entropy(before(x), y).backward()
    for old, new in zip(before.parameters(), model.parameters(), strict=True):
        assert old.grad is not None
        decay = 0.1 if old.ndim == 2 else 0.0
        # After one step the bias-corrected moments are g and g squared themselves.
        expected = old * (1 - 0.01 * decay) - 0.01 * old.grad / (old.grad.abs() + 1e-8)
        torch.testing.assert_close(new, expected)


def test_sgd_with_nesterov_momentum_by_hand() -> None:
    """Three steps equal v = m v + g; w -= lr (g + m v), in NumPy."""
    chosen = settings(optimizer="sgd", learning_rate=0.1, momentum=0.8, weight_decay=0)
    model = small_model()
    optimizers = build_optimizers(model, chosen)
    weights = [p.detach().numpy().copy() for p in model.parameters()]
    velocity = [np.zeros_like(w) for w in weights]
    for number in range(3):
        probe = small_model()
        with torch.no_grad():
            for p, w in zip(probe.parameters(), weights, strict=True):
                p.copy_(torch.from_numpy(w))
        x, y = batch(number)
        nn.functional.cross_entropy(probe(x), y).backward()
        for index, p in enumerate(probe.parameters()):
            assert p.grad is not None
            gradient = p.grad.numpy()
            velocity[index] = 0.8 * velocity[index] + gradient
            weights[index] = weights[index] - 0.1 * (gradient + 0.8 * velocity[index])
        step(model, optimizers, number, chosen)
    for p, w in zip(model.parameters(), weights, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-10)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "muon"])
def test_every_optimizer_owns_every_parameter_once_and_learns(name: str) -> None:
    """No parameter is left out or moved twice, and the loss falls."""
    torch.manual_seed(0)
    model = MLP(ModelSettings(hidden=(16, 12), dropout=(0.0,)), 3)
    optimizers = build_optimizers(model, settings(optimizer=name, learning_rate=0.01))
    owned = [id(p) for o in optimizers for group in o.param_groups for p in group["params"]]
    assert sorted(owned) == sorted(id(p) for p in model.parameters())
    x, y = batch(0)
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(model(x.float()), y)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_where_steps_can_be_captured_the_rate_is_a_tensor(name: str) -> None:
    """Recorded or not, its address stays while the schedule sets it; Muon, never recorded, has Python's floats."""
    chosen = settings(optimizer=name, schedule="cosine", warmup=0.0, learning_rate=0.5)
    (optimizer,) = build_optimizers(small_model(), chosen, capturable=True)
    before = [group["lr"] for group in optimizer.param_groups]
    LearningRates([optimizer], chosen, 100).set(50)
    for rate, group in zip(before, optimizer.param_groups, strict=True):
        assert group["lr"] is rate
        assert float(rate) == pytest.approx(0.25)
        assert group.get("capturable", True)
    for other in build_optimizers(small_model(), settings(optimizer="muon"), capturable=True):
        assert all(isinstance(group["lr"], float) for group in other.param_groups)


def torch_rates(schedule: torch.optim.lr_scheduler.LRScheduler, total: int) -> list[float]:
    """Return the factors that one of torch's own schedules gives."""
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # stepping a schedule without its optimizer
        for _ in range(total):
            rates.append(float(schedule.get_last_lr()[0]))
            schedule.step()
    return rates


def test_one_cycle_is_torchs() -> None:
    """The pure function equals OneCycleLR without momentum cycling, step by step."""
    parameter = nn.Parameter(torch.zeros(1))
    reference = torch.optim.lr_scheduler.OneCycleLR(
        torch.optim.SGD([parameter]), max_lr=1.0, total_steps=200, pct_start=0.3, cycle_momentum=False
    )
    mine = [rate_factor(s, 200, settings(schedule="one_cycle", warmup=0.3)) for s in range(200)]
    np.testing.assert_allclose(mine, torch_rates(reference, 200)[:200], rtol=1e-9)


def test_cosine_without_warmup_is_torchs() -> None:
    """The half cosine equals CosineAnnealingLR down to 0."""
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(
        torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), T_max=150
    )
    mine = [rate_factor(s, 150, settings(schedule="cosine", warmup=0.0)) for s in range(150)]
    np.testing.assert_allclose(mine, torch_rates(reference, 150), rtol=1e-9, atol=1e-12)


def test_step_and_constant_schedules() -> None:
    """Step divides by ten at a half and at three quarters; constant stays; warm-up rises to it."""
    stepped = [rate_factor(s, 100, settings(schedule="step", warmup=0.0)) for s in (0, 49, 50, 74, 75, 99)]
    assert stepped == [1, 1, 0.1, 0.1, 0.01, 0.01]
    constant = [rate_factor(s, 100, settings(schedule="constant", warmup=0.1)) for s in range(100)]
    assert constant[:10] == sorted(constant[:10])
    assert 0 < constant[0] < 0.2
    assert set(constant[10:]) == {1.0}


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine", "one_cycle"])
@pytest.mark.parametrize("warmup", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("total", [1, 2, 3, 50])
def test_rates_stay_between_nothing_and_the_peak(schedule: str, warmup: float, total: int) -> None:
    """Whatever the schedule, warm-up and length, no step has a negative or too large rate."""
    factors = [rate_factor(s, total, settings(schedule=schedule, warmup=warmup)) for s in range(total)]
    assert all(0 <= factor <= 1 + 1e-9 for factor in factors)
    assert max(factors) > 0


def test_rates_reach_groups_that_a_loaded_state_replaced() -> None:
    """After load_state_dict, which makes new groups, the schedule still sets the rate."""
    model = small_model()
    chosen = settings(schedule="cosine", warmup=0.0, learning_rate=0.5)
    optimizers = build_optimizers(model, chosen)
    rates = LearningRates(optimizers, chosen, 100)
    rates.set(10)
    optimizers[0].load_state_dict(optimizers[0].state_dict())
    rates.set(50)
    assert optimizers[0].param_groups[0]["lr"] == pytest.approx(0.25)


def test_averaged_weights_follow_the_recursion() -> None:
    """The average is a = d a + (1 - d) w with d = min(decay, (1 + t) / (10 + t))."""
    model = small_model()
    average = AveragedWeights(model, 0.5)
    expected = [p.detach().numpy().copy() for p in model.parameters()]
    generator = torch.Generator().manual_seed(5)
    for t in range(20):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, dtype=p.dtype, generator=generator))
        average.update(model, t)
        decay = min(0.5, (1 + t) / (10 + t))
        expected = [
            decay * e + (1 - decay) * p.detach().numpy()
            for e, p in zip(expected, model.parameters(), strict=True)
        ]
    for mine, theirs in zip(average.model.parameters(), expected, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs, rtol=1e-10)
