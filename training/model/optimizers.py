"""Optimizers, learning rate schedules, L1 and L2 penalties, and averaged weights."""

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from training.model.mlp import MLP
from training.settings import OptimizationSettings

ONE_CYCLE_START = 1 / 25
ONE_CYCLE_END = 1 / 25e4
MUON_REST_RATE = 1e-3
"""Peak learning rate of AdamW for the parameters that Muon does not train: biases and the output layer."""


def build_optimizers(
    model: MLP, settings: OptimizationSettings, *, capturable: bool = False
) -> list[torch.optim.Optimizer]:
    """Return the optimizers, which together own every parameter once.

    Weight decay applies to matrices, and with `decay_biases` to biases as well. Sources: AdamW, Loshchilov and Hutter
    (2019); Muon, Jordan et al. (2024), for hidden matrices only.

    Args:
        model: the model to train.
        settings: of the optimizer.
        capturable: whether steps can be captured as CUDA graphs, which read the learning rate from a `float32[]` on the
            device. Eager steps then read it there as well: a Python float has more digits and would give other weights.
            Muon is never captured.
    """
    weights = [p for p in model.parameters() if p.ndim >= 2]
    biases = [p for p in model.parameters() if p.ndim < 2]
    decay = settings.weight_decay
    bias_decay = decay if settings.decay_biases else 0.0
    device = model.linear_layers()[0].weight.device
    rate = torch.tensor(settings.learning_rate, device=device) if capturable else settings.learning_rate
    groups = [
        {"params": weights, "weight_decay": decay},
        {"params": biases, "weight_decay": bias_decay},
    ]
    if settings.optimizer == "sgd":
        nesterov = settings.nesterov and settings.momentum > 0
        return [torch.optim.SGD(groups, lr=rate, momentum=settings.momentum, nesterov=nesterov, fused=True)]
    if settings.optimizer == "adam":
        return [torch.optim.Adam(groups, lr=rate, fused=True, capturable=capturable)]
    if settings.optimizer == "adamw":
        return [torch.optim.AdamW(groups, lr=rate, fused=True, capturable=capturable)]
    matrices, rest = weights[:-1], weights[-1:]
    groups[0]["params"] = rest
    adamw = torch.optim.AdamW(groups, lr=MUON_REST_RATE, fused=True)
    if not matrices:
        return [adamw]
    muon = torch.optim.Muon(
        matrices, lr=settings.learning_rate, momentum=settings.momentum, weight_decay=decay
    )
    return [muon, adamw]


def rate_factor(step: int, total: int, settings: OptimizationSettings) -> float:
    """Return the learning rate of step `step` (from 0) of `total`, relative to its peak.

    It is a pure function of the step, so a resumed run needs no scheduler state.

    - one_cycle: cosine from 1/25 up to 1 in the warm-up, cosine down to 1/250,000 (Smith and
      Topin, 2018; as torch's `OneCycleLR` without momentum cycling).
    - the others: linear from 0 in the warm-up, then constant; or divided by 10 at a half and at
      three quarters of all steps; or the half cosine down to 0 (Loshchilov and Hutter, 2017).
    """
    if settings.schedule == "one_cycle":
        peak = settings.warmup * total - 1
        if step <= peak:
            return _cosine(ONE_CYCLE_START, 1.0, step / peak if peak > 0 else 1.0)
        return _cosine(1.0, ONE_CYCLE_END, (step - peak) / max(total - 1 - peak, 1))
    rising = settings.warmup * total
    if step < rising:
        return (step + 1) / (rising + 1)
    if settings.schedule == "cosine":
        return _cosine(1.0, 0.0, (step - rising) / max(total - rising, 1))
    if settings.schedule == "step":
        return 1.0 if step < total / 2 else 0.1 if step < total * 3 / 4 else 0.01
    return 1.0


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


class LearningRates:
    """The learning rate schedule, for every parameter group of the optimizers."""

    def __init__(
        self, optimizers: Iterable[torch.optim.Optimizer], settings: OptimizationSettings, total: int
    ) -> None:
        self._optimizers = list(optimizers)
        self._settings, self._total = settings, total
        for group in self._groups():
            group.setdefault("peak_lr", float(group["lr"]))

    def set(self, step: int) -> None:
        """Set the learning rates of step `step`, counted from 0 over all epochs."""
        factor = rate_factor(step, self._total, self._settings)
        for group in self._groups():
            rate = group["peak_lr"] * factor
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)  # a CUDA graph reads it from the device
            else:
                group["lr"] = rate

    def _groups(self) -> list[dict[str, Any]]:
        """Return the current groups, which loading a state replaces."""
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]


def penalty(model: nn.Module, settings: OptimizationSettings, images: int) -> torch.Tensor | None:
    """Return lambda/n times the sum of squares (L2) and of magnitudes (L1), or None if both are off.

    Args:
        model: whose matrices are penalised, and with `decay_biases` its biases as well.
        settings: `l2` and `l1` are the lambdas.
        images: n, the number of training images.
    """
    if not (settings.l1 or settings.l2):
        return None
    parameters = [p for p in model.parameters() if p.ndim >= 2 or settings.decay_biases]
    total = parameters[0].new_zeros(())
    for parameter in parameters:
        if settings.l2:
            total = total + settings.l2 / images * parameter.square().sum()
        if settings.l1:
            total = total + settings.l1 / images * parameter.abs().sum()
    return total


class AveragedWeights:
    """An exponential moving average (EMA) of a model's parameters.

    Batch normalisation statistics are not averaged: they are recomputed for the averaged weights before each evaluation
    (`training.loop.fit.update_batch_norm_statistics`).

    The decay rises as (1 + t) / (10 + t) to its final value, so that the random initial weights are forgotten soon.
    Source: TensorFlow's `ExponentialMovingAverage`.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
        self._decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Update the average by the model's parameters after step `step`, counted from 0."""
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), share)
