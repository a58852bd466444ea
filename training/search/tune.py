"""`tune`: search for the settings with the best validation accuracy. The test set is never read.

A trial is a run of `fit.py` with settings sampled from the search space (`space.py`). Processes share the trials of a
search through its storage (`storage.py`, `trials.py`). The checkpoints of a trial are in RUNS/STUDY/trial-NNNN: an
interrupted trial resumes if that directory is shared as well, and starts over if it is not.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial

from common.configuration import Layer, build
from common.errors import ConfigurationError
from common.progress import Progress
from training.augmentation.policy import apply_policy
from training.errors import DivergedError, InterruptedRunError
from training.interrupts import ConditionalStopFlag, StopFlag, catch_signals
from training.loop import checkpoint
from training.loop.fit import fit
from training.loop.shared_data import SharedData, fit_settings, load_shared_data, weight_settings
from training.loop.state import Epoch
from training.search import best
from training.search.space import DEFAULT_SPACE, Space, default_space, read_space, suggest
from training.search.storage import FIRST, open_storage, open_study, quiet_optuna
from training.search.trials import Trials, first_number
from training.search_settings import TuneSettings
from training.settings import TrainingSettings


class _LostTrialError(Exception):
    """Another process has taken this trial, because it took this process for dead."""


class _TimeLimitError(Exception):
    """The time limit of the search has been reached."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Search:
    """The inputs that all trials share."""

    settings: TuneSettings
    base: TrainingSettings
    """The settings that are held fixed, and the values that the search replaces."""
    space: Space
    shared: SharedData
    stop: StopFlag
    deadline: float
    """By `time.monotonic`."""

    @property
    def directory(self) -> Path:
        """The directory of the search's files."""
        return self.settings.runs / self.settings.study

    @property
    def best_path(self) -> Path:
        """The file of the best settings."""
        return self.settings.best or self.directory / "best.yaml"

    def is_time_up(self) -> bool:
        """Return whether the time limit has been reached."""
        return time.monotonic() > self.deadline


def search(settings: TuneSettings, given: Collection[str], progress: Progress) -> str:
    """Run the command; return its output: the path of the best settings, or the default space."""
    return DEFAULT_SPACE if settings.show_space else str(tune(settings, given, progress))


def tune(settings: TuneSettings, given: Collection[str], progress: Progress) -> Path:
    """Search until there are enough trials, and return the file of the best settings.

    Args:
        settings: of the search, and those that are held fixed.
        given: the settings that the user has given, which the default space leaves out.
        progress: for a log line for each trial.

    Raises:
        ConfigurationError: the space or the storage is invalid.
        UnwritableError: a file cannot be written, or RUNS/STUDY/best.yaml was not written by a search.
        InterruptedRunError: a signal arrived; finished trials are kept, and the same command continues.
        DivergedError: no trial has a finite loss.
        TrainingError: as `fit`, for errors that other settings would not avoid.
    """
    quiet_optuna()
    base = fit_settings(settings)
    space = read_space(settings.space, base) if settings.space else default_space(base, given)
    if not space:
        raise ConfigurationError("all settings of the default space are given, so there is nothing to search")
    with catch_signals() as stop:
        shared = load_shared_data(settings, progress)
        common = _Search(
            settings=settings,
            base=apply_policy(base, shared.data.is_handwriting),
            space=space,
            shared=shared,
            stop=stop,
            deadline=time.monotonic() + (settings.timeout_minutes * 60 or float("inf")),
        )
        if settings.best is None:  # an explicit --best is overwritten
            best.check_overwrite(common.best_path)
        study = open_study(
            open_storage(settings.storage, common.directory / "journal.log"),
            settings.study,
            seed=settings.seed,
            warm_up_epochs=max(1, settings.epochs // 4),
            prune=settings.prune,
            identity=_identity(common),
        )
        progress.say(
            f"searching over {', '.join(space)} for the best accuracy on {len(common.shared.validation)} "
            f"validation images, training on {len(common.shared.train)}, on {common.shared.device} "
            f"with {torch.get_num_threads()} threads"
        )
        _work(common, study, progress)
    if common.is_time_up():
        progress.say(f"time limit reached: the same command continues the search '{settings.study}'")
    found = best.write(study, common.best_path)
    if found is None:
        raise DivergedError("no trial has a finite loss: lower learning_rate in the search space")
    progress.say(f"best: {best.describe(study, found)}")
    return common.best_path


def _work(search: _Search, study: optuna.Study, progress: Progress) -> None:
    """Run trials until there are enough."""
    settings = search.settings
    trials = Trials(
        study,
        wanted=settings.trials,
        beat_seconds=settings.heartbeat_seconds,
        progress=progress,
        stop=search.stop,
    )
    shown_done = 0
    with progress.task(f"search '{settings.study}'", settings.trials, "trials") as task:
        try:
            while True:
                done = trials.done()
                task.advance(done - shown_done)
                shown_done = done
                trial = trials.next(search.is_time_up)
                if trial is None:
                    return
                with trials.heartbeat(trial):
                    outcome = _run_trial(search, trials, trial)
                progress.say(f"trial {trial.number}: {outcome}")
                best.write(study, search.best_path)
        except InterruptedRunError:
            name = search.stop.signal.name if search.stop.signal else "a signal"
            raise InterruptedRunError(
                f"stopped by {name}: {trials.done()} of {settings.trials} trials are kept in the search "
                f"'{settings.study}'; the same command continues"
            ) from None


def _run_trial(search: _Search, trials: Trials, trial: Trial) -> str:
    """Run a trial, record its result in the storage, and return the result in words."""
    directory = search.directory / f"trial-{first_number(trial):04d}"
    try:
        values = suggest(search.space, trial, search.base)
        settings = _merged(search.base, values)
        score, epochs = _train(search, trial, settings, directory)
    except (InterruptedRunError, _TimeLimitError) as error:
        trials.requeue(trial)
        if isinstance(error, InterruptedRunError):
            raise
        return "requeued: the time limit has been reached"
    except (_LostTrialError, UpdateFinishedTrialError):
        return "dropped: other processes took this one for dead"
    except optuna.TrialPruned as pruned:
        result, score = str(pruned), None
    except (DivergedError, torch.OutOfMemoryError) as error:
        result, score = "diverged" if isinstance(error, DivergedError) else "out of memory", None
    except ConfigurationError:
        trials.fail(trial)
        raise
    except BaseException:
        trials.requeue(trial)
        raise
    else:
        result = f"validation accuracy {score:.2%} after {epochs} epochs"
    if not trials.finish(trial, score):
        return "dropped: other processes took this one for dead"
    checkpoint.clear(directory)
    chosen = ", ".join(f"{name} {_brief(value)}" for name, value in values.items())
    return f"{result}; {chosen}"


def _train(search: _Search, trial: Trial, settings: TrainingSettings, directory: Path) -> tuple[float, int]:
    """Return the validation accuracy of the model that `fit` returns, and the number of epochs."""

    def report(epoch: Epoch) -> None:
        try:
            trial.report(epoch.validation_accuracy, epoch.epoch)
            if epoch.epoch < settings.epochs and trial.should_prune():
                raise optuna.TrialPruned(
                    f"pruned after epoch {epoch.epoch} at validation accuracy {epoch.validation_accuracy:.2%}"
                )
        except UpdateFinishedTrialError:
            raise _LostTrialError from None

    if FIRST not in trial.user_attrs:
        checkpoint.clear(directory)  # checkpoints of an earlier search of this name
    stop = ConditionalStopFlag(search.stop, lambda: _TimeLimitError() if search.is_time_up() else None)
    fitted = fit(search.shared.run(settings, directory, stop, on_epoch=report))
    trial.set_user_attr(best.SETTINGS, weight_settings(settings))
    trial.set_user_attr(best.IMAGES, len(search.shared.validation))
    return _score(settings, fitted.history), len(fitted.history)


def _score(settings: TrainingSettings, history: Sequence[Epoch]) -> float:
    """Return the validation accuracy of the model that `fit` returns: the best epoch's with early stopping."""
    if not settings.patience:
        return history[-1].validation_accuracy
    if settings.monitor == "accuracy":
        return max(epoch.validation_accuracy for epoch in history)
    return min(history, key=lambda epoch: epoch.validation_loss).validation_accuracy


def _merged(base: TrainingSettings, values: dict[str, Any]) -> TrainingSettings:
    """Return the base settings with those of a trial.

    Raises:
        ConfigurationError: the combination is invalid.
    """
    layers = [Layer(base.model_dump(), "the setting '{name}'"), Layer(values, "{name} of the search space")]
    return build(TrainingSettings, layers)


def _identity(search: _Search) -> dict[str, str]:
    """Return the settings and data that must be equal for trials to be comparable."""
    names = {name: str(value) for name, value in weight_settings(search.base).items()}
    space = {f"the space of {name}": str(part) for name, part in search.space.items()}
    files = {f"the SHA-256 of {name}": value for name, value in search.shared.data.sha256.items()}
    return names | space | files


def _brief(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
