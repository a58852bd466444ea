"""Fit a model: the training step, the epoch loop, evaluation, early stopping and checkpoints."""

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from bundle.images.contract import PAPER
from bundle.manifest import WHITE_ON_BLACK, Polarity
from common.errors import ConfigurationError
from common.progress import Progress, Task
from training.augmentation.augmenter import Augmenter
from training.data.dataset import DeviceImages
from training.errors import DivergedError, InterruptedRunError
from training.interrupts import StopFlag
from training.loop import checkpoint, cuda_graph, metrics
from training.loop.distributed import SYNC_EVERY_STEPS, World
from training.loop.precision import autocast, uses_bfloat16
from training.loop.state import Epoch, TrainingState
from training.model.adversarial import INK, adversarial
from training.model.distillation import Ensemble
from training.model.evaluation import Logits, accuracy, logits_of, negative_log_likelihood
from training.model.loss import training_loss
from training.model.mlp import MLP, Standardisation, constrain_norms
from training.model.optimizers import AveragedWeights, LearningRates, build_optimizers, penalty
from training.settings import TrainingSettings

CONTINUE, SAVE, STOP = range(3)
STATISTICS_IMAGES = 10_000
"""Enough for a mean with a standard error of a hundredth of the standard deviation."""


def ignore(_value: object) -> None:
    """Do nothing: the default callback."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """A trained model, in evaluation mode, and its history."""

    model: MLP
    standardise: Standardisation
    history: tuple[Epoch, ...]
    run_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The inputs of a run, which do not change while it trains."""

    settings: TrainingSettings
    train: DeviceImages
    """The training images; training happens on their device."""
    validation: DeviceImages
    """The validation images, on the same device; evaluated after each epoch."""
    classes: int
    polarity: Polarity = WHITE_ON_BLACK
    data_sha256: dict[str, str]
    directory: Path
    """The directory of checkpoints and metrics."""
    progress: Progress
    stop: StopFlag
    on_begin: Callable[[str], None] = ignore
    """Called with the run's identity before training starts; a resumed run keeps its identity."""
    on_epoch: Callable[[Epoch], None] = ignore
    """Called after each epoch; an exception that it raises ends the run. A resumed run calls it for the epochs of its
    checkpoint first, so that epochs lost with the process are reported twice."""
    world: World = field(default_factory=World)
    ensemble: Ensemble | None = None
    """The ensemble of teachers, on the device, for distillation."""

    @property
    def sha256(self) -> dict[str, str]:
        """The hashes of the data and the teachers, which must be the same in a resumed run."""
        return self.data_sha256 | (self.ensemble.digests if self.ensemble else {})

    @property
    def batches(self) -> int:
        """The number of steps in an epoch; the last batch may be smaller."""
        return -(-len(self.train) // self.settings.batch_size)


def fit(run: Run) -> Fitted:
    """Train the model that the settings describe.

    Equal settings, device and numbers of threads and processes give byte-identical weights, however often the run is
    interrupted and resumed.

    Raises:
        DivergedError: the loss became infinite or NaN.
        InterruptedRunError: a signal arrived; a checkpoint was written.
        CheckpointError: with `resume`, the checkpoint is of another run, or all checkpoints are corrupt.
        UnwritableError: a checkpoint or the metrics cannot be written.
        ConfigurationError: batch normalisation would see one image at a time.
    """
    settings = run.settings
    state = begin(run)
    run.on_begin(state.run_id)
    for epoch in state.history:
        run.on_epoch(epoch)
    step = make_step(run, state)
    rates = LearningRates(state.optimizers, settings, run.batches * settings.epochs)
    while not _is_finished(state):
        started = time.perf_counter() - state.seconds
        rates.set(state.step - state.position)
        rate = float(state.optimizers[0].param_groups[0]["lr"])
        title = f"epoch {state.epoch + 1} of {settings.epochs}"
        with run.progress.task(title, len(run.train), "images") as task:
            task.advance(state.position * settings.batch_size)
            _train_one_epoch(run, state, step, rates, task, started)
        seconds = time.perf_counter() - started
        _end_epoch(run, state, rate, seconds)
    if state.best is not None:
        state.evaluated_model.load_state_dict(state.best)
    return Fitted(
        model=state.evaluated_model.eval(),
        standardise=state.standardise,
        history=tuple(state.history),
        run_id=state.run_id,
    )


def begin(run: Run) -> TrainingState:
    """Return the initial state, or the state of the last checkpoint."""
    settings, device = run.settings, run.train.images.device
    _check_batch_norm(run)
    torch.manual_seed(settings.seed)  # equal weights in every process
    model = MLP(settings, run.classes).to(device)
    torch.manual_seed(settings.seed + run.world.rank)  # but different dropout masks
    state = TrainingState(
        settings=settings,
        world=run.world,
        run_id=uuid.uuid4().hex,
        model=model,
        standardise=Standardisation.of(run.train.images),
        optimizers=build_optimizers(model, settings, capturable=cuda_graph.supports_cuda_graphs(device)),
        augment=Augmenter(
            settings,
            classes=run.classes,
            seed=settings.seed,
            device=device,
            paper=PAPER[run.polarity],
        ),
        epoch_index=torch.zeros((), dtype=torch.int64, device=device),
        bfloat16=uses_bfloat16(settings, device),
        average=AveragedWeights(model, settings.ema) if settings.ema else None,
        total_loss=torch.zeros((), device=device),
        correct=torch.zeros((), device=device),
        saved=time.monotonic(),
    )
    snapshot = checkpoint.load_latest(run.directory, run.progress) if settings.resume else None
    if snapshot:
        state.restore(snapshot, run.sha256)
        run.progress.say(f"resumed after {state.epoch} epochs and {state.position} batches")
    run.progress.say(f"matrix products are computed in {'bfloat16' if state.bfloat16 else 'float32'}")
    run.world.wait()  # all processes have read the checkpoint before rank 0 removes or writes one
    if run.world.is_writer:
        metrics.begin(run.directory, state.metrics_bytes)
        if not snapshot:
            checkpoint.clear(run.directory)
    return state


def _check_batch_norm(run: Run) -> None:
    """Check that some part of a full batch has the two images of which a variance can be computed."""
    settings = run.settings
    parts = settings.accumulate * run.world.size
    if settings.batch_norm and min(settings.batch_size, len(run.train)) <= parts:
        raise ConfigurationError(
            f"batch_norm: a batch of {settings.batch_size} is computed in {parts} parts of one image each, and the "
            "variance needs two: give a larger batch_size, or fewer parts (accumulate, processes)"
        )


def _train_one_epoch(
    run: Run, state: TrainingState, step: cuda_graph.Step, rates: LearningRates, task: Task, started: float
) -> None:
    """Take the remaining steps of the epoch.

    The loop never synchronises with the device: sums stay on it until the epoch ends.
    """
    settings, train = run.settings, run.train
    order = epoch_order(len(train), settings.seed, state.epoch).to(train.labels.device)
    state.model.train()
    state.epoch_index.fill_(state.epoch)
    for batch in torch.split(order, settings.batch_size)[state.position :]:
        rates.set(state.step)
        step(batch)
        if state.average:
            state.average.update(state.model, state.step)
        state.position += 1
        state.step += 1
        task.advance(len(batch))
        action = _agreed_action(run, _wanted_action(run, state), is_due=state.step % SYNC_EVERY_STEPS == 0)
        if action != CONTINUE:
            state.seconds = time.perf_counter() - started
            _save(run, state)
        if action == STOP:
            _raise_interrupted(run)


def train_step(run: Run, state: TrainingState, called: nn.Module, batch: torch.Tensor) -> None:
    """Update the weights by the gradient of one batch.

    Args:
        run: the inputs.
        state: the model and its optimizers.
        called: the model, or the wrapper that averages its gradients over processes.
        batch: `int64[b]`, indices of the whole batch; each process takes its slice.
    """
    settings, train = run.settings, run.train
    scale = run.world.size / len(batch)  # processes are averaged
    with state.rounding(state.model):
        regularisation = penalty(state.model, settings, len(train))
        for part in run.world.slice(batch).tensor_split(settings.accumulate):
            images, labels = train.take(part)
            pixels = state.augment(images, labels, part, state.epoch_index)
            inputs = state.standardise(pixels).requires_grad_(settings.adversarial > 0)
            with autocast(train.images.device, bfloat16=state.bfloat16):
                logits = called(inputs).float()
                targets = run.ensemble(pixels, settings.distill_temperature) if run.ensemble else None
            loss = training_loss(settings, logits, labels, targets)
            mean = loss * (scale / 2 if settings.adversarial else scale)
            if regularisation is not None:
                mean, regularisation = mean + regularisation, None
            mean.backward()
            if inputs.grad is not None:
                size = settings.adversarial * INK / state.standardise.deviation
                with autocast(train.images.device, bfloat16=state.bfloat16):
                    moved = called(adversarial(inputs.detach(), inputs.grad, size)).float()
                (training_loss(settings, moved, labels, targets) * (scale / 2)).backward()
            state.total_loss += loss.detach()
            state.correct += (logits.detach().argmax(1) == labels).sum()
    if settings.clip is not None:
        nn.utils.clip_grad_norm_(state.model.parameters(), settings.clip)
    for optimizer in state.optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if settings.max_norm is not None:
        constrain_norms(state.model, settings.max_norm)


def update_batch_norm_statistics(run: Run, state: TrainingState) -> None:
    """Recompute the batch normalisation statistics for the averaged weights, if both are used.

    The running statistics belong to the weights of each step; the averaged weights have other activations. The random
    numbers depend on the settings alone, so the result is equal in all processes and after a resumption, and the
    generators' states are restored. Source: Izmailov et al., "Averaging weights leads to wider optima and better
    generalization" (2018), section 3.2.
    """
    settings, train = run.settings, run.train
    if state.average is None or not settings.batch_norm:
        return
    device = train.images.device
    order = epoch_order(len(train), settings.seed, state.epoch)[:STATISTICS_IMAGES].to(device)

    def batches() -> Iterator[torch.Tensor]:
        for part in torch.split(order, settings.batch_size):
            if len(part) > 1:  # the variance needs two images
                images, labels = train.take(part)
                yield state.standardise(state.augment(images, labels, part, state.epoch_index))

    forked = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with forked, state.rounding(state.evaluated_model), autocast(device, bfloat16=state.bfloat16):
        torch.manual_seed(settings.seed)
        update_bn(batches(), state.average.model)


def make_step(run: Run, state: TrainingState) -> cuda_graph.Step:
    """Return the function that takes a training step on a batch of indices on the device, `int64[b]`."""
    step = partial(train_step, run, state, run.world.wrap(state.model))
    if not uses_cuda_graph(run):
        return step
    full = min(run.settings.batch_size, len(run.train))
    return cuda_graph.CudaGraphStep(step, full, run.train.labels.device)


def uses_cuda_graph(run: Run) -> bool:
    """Return whether the step is captured as a CUDA graph, which Muon and several processes do not permit."""
    return (
        run.settings.cuda_graphs
        and cuda_graph.supports_cuda_graphs(run.train.images.device)
        and run.settings.optimizer != "muon"
        and run.world.size == 1
    )


def epoch_order(images: int, seed: int, epoch: int) -> torch.Tensor:
    """Return the order of an epoch's images, `int64[images]`: a permutation that depends on seed and epoch alone.

    As it needs no generator state, a run can resume in the middle of an epoch.
    """
    mixed = np.random.SeedSequence((seed, epoch)).generate_state(1, dtype=np.uint64)[0]
    return torch.randperm(images, generator=torch.Generator().manual_seed(int(mixed) >> 1))


def _end_epoch(run: Run, state: TrainingState, rate: float, seconds: float) -> None:
    """Evaluate the epoch, log it, keep the best weights, and write a checkpoint if one is due."""
    settings = run.settings
    update_batch_norm_statistics(run, state)
    loss, right = (float(run.world.sum(v).item()) / len(run.train) for v in (state.total_loss, state.correct))
    if not np.isfinite(loss):
        raise _diverged()
    logits = _validate(run, state, seconds)
    labels = run.validation.labels.cpu().numpy()
    epoch = Epoch(
        epoch=state.epoch + 1,
        train_loss=loss,
        train_accuracy=right,
        validation_loss=negative_log_likelihood(logits, labels),
        validation_accuracy=accuracy(logits, labels),
        learning_rate=rate,
        seconds=seconds,
        images_per_second=len(run.train) / seconds,
    )
    state.history.append(epoch)
    if settings.patience:
        score = epoch.validation_accuracy if settings.monitor == "accuracy" else -epoch.validation_loss
        state.epochs_since_best += 1
        if score > state.best_score:
            state.best_score, state.epochs_since_best = score, 0
            state.remember_best()
    state.epoch, state.position, state.seconds = state.epoch + 1, 0, 0.0
    state.total_loss.zero_()
    state.correct.zero_()
    _log_epoch(run, state, epoch)
    action = _agreed_action(run, _wanted_action(run, state))
    if action != CONTINUE or _is_finished(state):
        _save(run, state)
    run.on_epoch(epoch)
    if action == STOP and not _is_finished(state):
        _raise_interrupted(run)


def _validate(run: Run, state: TrainingState, seconds: float) -> Logits:
    """Return the logits of the validation images; if stopped, write a checkpoint before raising."""
    model, images = state.evaluated_model, run.validation.images
    alone = run.world.size == 1  # several processes stop together, after the epoch
    try:
        with state.rounding(model):
            return logits_of(model, state.standardise, images, run.stop.check if alone else lambda: None)
    except Exception:
        if alone and run.stop.requested:
            state.seconds = seconds
            _save(run, state)
        raise


def _is_finished(state: TrainingState) -> bool:
    """Return whether all epochs are done, or early stopping applies."""
    settings = state.settings
    return state.epoch >= settings.epochs or 0 < settings.patience <= state.epochs_since_best


def _wanted_action(run: Run, state: TrainingState) -> int:
    """Return the action that this process wants: CONTINUE, SAVE or STOP."""
    if run.stop.requested:
        return STOP
    return SAVE if time.monotonic() - state.saved >= run.settings.checkpoint_seconds else CONTINUE


def _agreed_action(run: Run, action: int, *, is_due: bool = True) -> int:
    """Return the same action in all processes: the strongest that any wants, or CONTINUE between synchronisations."""
    if run.world.size == 1:
        return action
    return run.world.max(action, run.train.images.device) if is_due else CONTINUE


def _raise_interrupted(run: Run) -> NoReturn:
    """Raise why the run stops, after its checkpoint has been written."""
    run.stop.check()
    raise InterruptedRunError("another process was stopped: run it again with --resume to continue")


def _save(run: Run, state: TrainingState) -> None:
    """Write a checkpoint, but never one with a non-finite loss, from which no run could continue."""
    snapshot = state.snapshot(run.sha256)
    if not torch.isfinite(state.total_loss):
        raise _diverged()
    if run.world.is_writer:
        checkpoint.save(run.directory, state.step, snapshot, run.settings.keep_checkpoints)
    state.saved = time.monotonic()


def _log_epoch(run: Run, state: TrainingState, epoch: Epoch) -> None:
    if run.world.is_writer:
        state.metrics_bytes = metrics.append(run.directory, epoch)
    run.progress.say(
        f"epoch {epoch.epoch:3d}  train loss {epoch.train_loss:.4f}  "
        f"validation loss {epoch.validation_loss:.4f}  "
        f"validation accuracy {epoch.validation_accuracy:.2%}  {epoch.images_per_second:,.0f} images/s"
    )


def _diverged() -> DivergedError:
    return DivergedError(
        "the training loss is not finite: lower --learning-rate, clip gradients with --clip 1, or check the data"
    )
