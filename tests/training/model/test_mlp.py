"""The network's parts, against their definitions."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from training.loop.precision import uses_bfloat16
from training.model.mlp import MLP, constrain_norms
from training.model.noise_layers import Dropout, GaussianNoise
from training.presets import PRESETS
from training.settings import ModelSettings, TrainingSettings


def mlp(classes: int = 3, **settings: object) -> MLP:
    """Return a network made from seed 0."""
    torch.manual_seed(0)
    return MLP(TrainingSettings.model_validate(settings), classes)


def test_the_layers_stand_in_the_courses_order() -> None:
    """Input noise and dropout, then linear, normalisation, noise, activation, dropout; linear last."""
    model = mlp(
        hidden=(5, 4),
        dropout=(0.1, 0.3),
        input_dropout=0.2,
        batch_norm=True,
        activation="tanh",
        noise=0.3,
        input_noise=0.9,
    )
    kinds = [type(layer).__name__ for layer in model]
    layer = ["Linear", "BatchNorm", "GaussianNoise", "Tanh", "Dropout"]
    assert kinds == ["GaussianNoise", "Dropout", *layer, *layer, "Linear"]
    assert [m.p for m in model if isinstance(m, nn.Dropout)] == [0.2, 0.1, 0.3]


def test_no_hidden_layer_is_softmax_regression() -> None:
    """Without hidden layers the logits are Wx + b, and nothing else."""
    model = mlp(hidden=())
    x = torch.randn(6, 784)
    (linear,) = model
    assert isinstance(linear, nn.Linear)
    torch.testing.assert_close(model(x), x @ linear.weight.T + linear.bias)


def test_two_classes_without_hidden_layers_is_logistic_regression() -> None:
    """Softmax of two logits is the sigmoid of their difference, and the loss is binary cross entropy."""
    model = mlp(classes=2, hidden=()).double()
    x = torch.randn(50, 784, dtype=torch.float64)
    y = (torch.arange(50) % 2).long()
    logits = model(x)
    (linear,) = model
    assert isinstance(linear, nn.Linear)
    w, b = linear.weight[1] - linear.weight[0], linear.bias[1] - linear.bias[0]
    torch.testing.assert_close(logits.softmax(1)[:, 1], torch.sigmoid(x @ w + b))
    torch.testing.assert_close(
        nn.functional.cross_entropy(logits, y),
        nn.functional.binary_cross_entropy_with_logits(x @ w + b, y.double()),
    )


@pytest.mark.parametrize(
    ("name", "definition"),
    [
        ("relu", lambda x: np.maximum(x, 0)),
        ("leaky_relu", lambda x: np.where(x > 0, x, 0.01 * x)),
        ("elu", lambda x: np.where(x > 0, x, np.expm1(x))),
        ("gelu", lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))),
        ("tanh", np.tanh),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
    ],
)
def test_activations_match_their_definitions(name: str, definition: object) -> None:
    """Each activation's name gives the function of that name."""
    model = mlp(hidden=(4,), activation=name, dropout=0.0)
    x = torch.linspace(-4, 4, 41, dtype=torch.float64)
    assert callable(definition)
    np.testing.assert_allclose(model[1](x).numpy(), definition(x.numpy()), rtol=1e-9, atol=1e-12)


def test_initialisations_have_their_variances() -> None:
    """He, Xavier and orthogonal weights have the variance, range and products that define them."""
    he = mlp(hidden=(2000,), initialisation="he").linear_layers()[0].weight
    assert float(he.detach().var()) == pytest.approx(2 / 784, rel=0.01)
    xavier = mlp(hidden=(2000,), initialisation="xavier").linear_layers()[0].weight
    limit = math.sqrt(2) * math.sqrt(6 / (784 + 2000))
    assert float(xavier.detach().abs().max()) == pytest.approx(limit, rel=0.01)
    assert float(xavier.detach().var()) == pytest.approx(limit**2 / 3, rel=0.01)
    orthogonal = mlp(hidden=(300,), dropout=0.0, initialisation="orthogonal").linear_layers()[0].weight
    torch.testing.assert_close(orthogonal @ orthogonal.T, 2 * torch.eye(300), atol=1e-4, rtol=0)


def test_a_deep_he_network_keeps_the_scale_of_its_signal() -> None:
    """Through ten ReLU layers the signal neither dies nor explodes with He's weights."""
    model = mlp(hidden=(400,) * 10, dropout=0.0)
    activations = nn.Sequential(*list(model)[:-1])
    out = activations(torch.randn(200, 784))
    assert 0.3 < float(out.detach().square().mean()) < 3


def test_dropout_keeps_the_expectation() -> None:
    """Inverted dropout's mean over many masks is the value without dropout, as the course rescales."""
    torch.manual_seed(0)
    layer = mlp(hidden=(4,), dropout=0.3)[2].train()
    mean = layer(torch.ones(200_000, 4)).mean(0)
    torch.testing.assert_close(mean, torch.ones(4), atol=0.01, rtol=0)
    bernoulli = torch.bernoulli(torch.full((200_000, 4), 0.7)) / 0.7
    torch.testing.assert_close(mean, bernoulli.mean(0), atol=0.02, rtol=0)


def test_dropout_is_off_in_evaluation() -> None:
    """In evaluation mode a network gives the same logits twice; in training mode it does not."""
    model = mlp(dropout=0.5)
    x = torch.randn(8, 784)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


def test_max_norm_shortens_long_rows_only() -> None:
    """Rows above the limit end on it with their direction kept; others, and the last layer, stay."""
    model = mlp(hidden=(3,), dropout=0.0)
    first, last = model.linear_layers()
    with torch.no_grad():
        first.weight[0].fill_(1.0)
        first.weight[1].fill_(0.01)
        last.weight.fill_(100.0)
    before = first.weight.detach().clone()
    constrain_norms(model, 2.0)
    torch.testing.assert_close(first.weight[0].norm(), torch.tensor(2.0))
    torch.testing.assert_close(first.weight[0] / 2.0, before[0] / before[0].norm())
    assert torch.equal(first.weight[1], before[1])
    assert torch.equal(last.weight, torch.full_like(last.weight, 100.0))


@pytest.mark.parametrize(
    ("asked", "p"),
    [(0.1, 26 / 256), (0.5, 0.5), (0.001, 66 / 65536), (0.99, 64881 / 65536), (1 - 1e-9, 65535 / 65536)],
)
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (1000, 301)])
def test_masks_have_their_probability_and_their_scale(asked: float, p: float, shape: tuple[int, int]) -> None:
    """Units are zero with the nearest probability on the grid, independently, and 1 / (1 - p) otherwise."""
    torch.manual_seed(1)
    layer = Dropout(asked).train()
    out = layer(torch.ones(shape))
    kept = out[out > 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - p)), rtol=1e-6, atol=0)
    if out.numel() > 1000:
        deviation = math.sqrt(p * (1 - p) / out.numel())
        assert abs(float((out == 0).float().mean()) - p) < 5 * deviation
        rows = (out == 0).float() - p
        assert abs(float((rows[1:] * rows[:-1]).mean())) < 5 * deviation


def test_the_gradient_passes_where_the_unit_was_kept() -> None:
    """Backward uses the forward pass's mask."""
    torch.manual_seed(1)
    x = torch.ones(50, 40, requires_grad=True)
    out = Dropout(0.4).train()(x)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, out.detach())


def test_noise_is_normal_while_training_and_absent_afterwards() -> None:
    """Its mean, deviation and share beyond two deviations are the normal distribution's."""
    torch.manual_seed(1)
    layer = GaussianNoise(0.3).train()
    x = torch.full((500, 400), 2.0)
    noise = (layer(x) - x) / 0.3
    assert abs(noise.mean().item()) < 0.01
    assert abs(noise.std().item() - 1) < 0.01
    assert abs((noise.abs() > 2).float().mean().item() - 0.0455) < 0.003
    assert torch.equal(layer.eval()(x), x)


def test_the_record_preset_stays_below_its_bound() -> None:
    """The largest preset has at most 12.5 million weights."""
    assert sum(p.numel() for p in mlp(classes=10, **PRESETS["record"]()).parameters()) <= 12_500_000


def test_noise_is_not_outgrown_by_the_scale_before_it() -> None:
    """Where noise follows normalisation the scale stays 1 and only the shift is learnt."""
    noisy = MLP(ModelSettings(hidden=(8,), batch_norm=True, noise=0.3), 3)
    plain = MLP(ModelSettings(hidden=(8,), batch_norm=True), 3)
    names = {name for name, parameter in noisy.named_parameters() if not parameter.requires_grad}
    assert names == {"1.weight"}
    assert all(parameter.requires_grad for parameter in plain.parameters())


@pytest.mark.parametrize(
    ("instructions", "hidden", "batch", "expected"),
    [
        (("amx_bf16", "avx512_bf16"), (512, 256), 128, True),
        (("amx_bf16", "avx512_bf16"), (256, 128), 64, False),  # where AVX-512 gains already, AMX does not
        (("amx_bf16", "avx512_bf16"), (64,), 128, False),
        (("avx512_bf16",), (512, 256), 128, True),
        (("avx512_bf16",), (256, 128), 64, True),
        (("avx512_bf16",), (64,), 128, False),
        (("bf16", "i8mm", "sve_bf16"), (512, 256), 128, False),  # Arm's, which were not measured
        (("avx512_f",), (512, 256), 512, False),
        ((), (512, 256), 512, False),
    ],
)
def test_bfloat16_is_chosen_by_the_work_in_a_batch_and_the_processor(
    instructions: tuple[str, ...],
    hidden: tuple[int, ...],
    batch: int,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`auto` takes it where the processor multiplies it, for all but small products, and nowhere else."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(instructions, True))
    settings = TrainingSettings(hidden=hidden, batch_size=batch, precision="auto")
    assert uses_bfloat16(settings, torch.device("cpu")) is expected


@pytest.mark.parametrize(("major", "expected"), [(7, False), (8, True), (10, True)])
def test_a_gpu_that_emulates_bfloat16_computes_in_float32(
    monkeypatch: pytest.MonkeyPatch, major: int, expected: bool
) -> None:
    """By itself it is taken from compute capability 8.0 on; before, torch would emulate it."""
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=major))
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda _: True)
    assert uses_bfloat16(TrainingSettings(), torch.device("cuda")) is expected
