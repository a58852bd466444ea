"""Fit a model: the training step, the epoch, and what is written down after each one."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from torch import nn

from training.data import Resident
from training.errors import TrainingError
from training.evaluate import logits_of, negative_log_likelihood
from training.model import MLP, Standardisation, parameter_groups
from training.progress import Progress, Task
from training.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """What one pass over the training images gave; losses in nats, before calibration."""

    epoch: int
    train_loss: float
    """Mean over the epoch's steps, in training mode: with dropout, while the weights move."""
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    seconds: float
    images_per_second: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """A trained model, in evaluation mode, and how it got there."""

    model: MLP
    standardise: Standardisation
    history: tuple[Epoch, ...]


def fit(
    settings: TrainingSettings,
    train: Resident,
    validation: Resident,
    classes: int,
    metrics_file: Path,
    progress: Progress,
) -> Fitted:
    """Train the model that the settings describe.

    The same settings, device and thread count give byte-identical weights.

    Args:
        settings: the hyperparameters.
        train: images on the device, which is where the training happens.
        validation: images on the same device; looked at after each epoch, never trained on.
        classes: how many there are.
        metrics_file: gets one JSON line per epoch (`Epoch`'s fields), replacing what was there.
        progress: shown to whoever waits.

    Raises:
        TrainingError: the loss became infinite or NaN.
    """
    torch.manual_seed(settings.seed)
    device = train.images.device
    standardise = Standardisation.of(train.images)
    model = MLP(settings.hidden, classes, settings.dropout).to(device)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, settings.weight_decay), lr=settings.learning_rate, fused=True
    )
    steps = -(-len(train) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=steps * settings.epochs
    )
    shuffle = torch.Generator().manual_seed(settings.seed)
    history = []
    metrics_file.parent.mkdir(parents=True, exist_ok=True)
    with metrics_file.open("w", encoding="utf-8") as file:
        for number in range(1, settings.epochs + 1):
            started = time.perf_counter()
            rate = float(schedule.get_last_lr()[0])
            order = torch.randperm(len(train), generator=shuffle).to(device)
            with progress.task(f"epoch {number} of {settings.epochs}", len(train), "images") as task:
                loss, accuracy = _train_one_epoch(
                    model,
                    standardise,
                    train,
                    torch.split(order, settings.batch_size),
                    optimizer,
                    schedule,
                    task,
                )
            seconds = time.perf_counter() - started
            logits = logits_of(model, standardise, validation.images)
            labels = validation.labels.cpu().numpy()
            epoch = Epoch(
                epoch=number,
                train_loss=loss,
                train_accuracy=accuracy,
                validation_loss=negative_log_likelihood(logits, labels),
                validation_accuracy=float(np.mean(logits.argmax(axis=1) == labels)),
                learning_rate=rate,
                seconds=seconds,
                images_per_second=len(train) / seconds,
            )
            history.append(epoch)
            _write_down(epoch, file, progress)
    return Fitted(model=model.eval(), standardise=standardise, history=tuple(history))


def _train_one_epoch(
    model: nn.Module,
    standardise: Standardisation,
    train: Resident,
    batches: tuple[torch.Tensor, ...],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    task: Task,
) -> tuple[float, float]:
    """Take one step for each batch of indices; return the mean loss and the accuracy on the way.

    Nothing in the loop waits for the device: the sums stay there until the epoch is over.
    """
    model.train()
    total_loss = torch.zeros((), device=train.images.device)
    right = torch.zeros((), device=train.images.device)
    for batch in batches:
        labels = train.labels[batch]
        logits = model(standardise(train.images[batch]))
        loss = nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        total_loss += loss.detach() * len(batch)
        right += (logits.detach().argmax(1) == labels).sum()
        task.advance(len(batch))
    mean = total_loss.item() / len(train)
    if not np.isfinite(mean):
        raise TrainingError(
            "the training loss is not finite any more: lower --learning-rate, and look at the data"
        )
    return mean, right.item() / len(train)


def _write_down(epoch: Epoch, file: TextIO, progress: Progress) -> None:
    file.write(json.dumps(asdict(epoch)) + "\n")
    file.flush()
    progress.say(
        f"epoch {epoch.epoch:3d}  train loss {epoch.train_loss:.4f}  "
        f"validation loss {epoch.validation_loss:.4f}  "
        f"validation accuracy {epoch.validation_accuracy:.2%}  {epoch.images_per_second:,.0f} images/s"
    )
