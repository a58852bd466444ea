"""`tune`: search for the settings with the best validation accuracy. The test set is never read.

A trial is one run of `fit.py` with settings drawn from the search space (`space.py`). Processes
share the trials of a search through its storage (`storage.py`, `trials.py`); each trial's
checkpoints lie in RUNS/STUDY/trial-NNNN, so that one that was ended is gone on with where that
directory is shared too, and begun anew where it is not.
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
    """Other processes took this one for dead and its trial away."""


class _TimeLimitError(Exception):
    """The search's time is over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Search:
    """What all trials have in common."""

    settings: TuneSettings
    base: TrainingSettings
    """What is held fixed, and what the space's settings were before."""
    space: Space
    shared: SharedData
    stop: StopFlag
    deadline: float
    """By `time.monotonic`."""

    @property
    def directory(self) -> Path:
        """Where the search's files go."""
        return self.settings.runs / self.settings.study

    @property
    def best_path(self) -> Path:
        """Where the best settings go."""
        return self.settings.best or self.directory / "best.yaml"

    def is_time_up(self) -> bool:
        """Tell whether the time is over."""
        return time.monotonic() > self.deadline


def search(settings: TuneSettings, given: Collection[str], progress: Progress) -> str:
    """Do what the command does; return what it prints: the file of the best settings, or the default space."""
    return DEFAULT_SPACE if settings.show_space else str(tune(settings, given, progress))


def tune(settings: TuneSettings, given: Collection[str], progress: Progress) -> Path:
    """Search until there are enough trials, and return the file of the best settings.

    Args:
        settings: what is searched and what is held fixed.
        given: the settings that the user gave a value; the default space leaves them alone.
        progress: gets a line for each trial.

    Raises:
        ConfigurationError: the space or the storage is not usable.
        UnwritableError: a file cannot be written, or RUNS/STUDY/best.yaml is somebody else's.
        InterruptedRunError: a signal came; what is done is kept, and the same command goes on.
        DivergedError: there is not one trial with a finite loss.
        TrainingError: as `fit`, for the reasons that no other settings would change.
    """
    quiet_optuna()
    base = fit_settings(settings)
    space = read_space(settings.space, base) if settings.space else default_space(base, given)
    if not space:
        raise ConfigurationError("every setting of the default space was given: nothing is left to search")
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
        if settings.best is None:  # a file that is named is overwritten, as by any program
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
            f"searching {', '.join(space)} for the best accuracy on {len(common.shared.validation)} "
            f"validation images, training on {len(common.shared.train)}, on {common.shared.device} "
            f"with {torch.get_num_threads()} threads"
        )
        _work(common, study, progress)
    if common.is_time_up():
        progress.say(f"the time is over: the same command goes on with the search '{settings.study}'")
    found = best.write(study, common.best_path)
    if found is None:
        raise DivergedError("no trial has ended with a finite loss: lower learning_rate in the search space")
    progress.say(f"best: {best.describe(study, found)}")
    return common.best_path


def _work(search: _Search, study: optuna.Study, progress: Progress) -> None:
    """Take trials until there are no more."""
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
                f"stopped by {name}: {trials.done()} of {settings.trials} trials are kept "
                f"in the search '{settings.study}'; the same command goes on"
            ) from None


def _run_trial(search: _Search, trials: Trials, trial: Trial) -> str:
    """Run one trial, tell the search how it ended, and return that in words."""
    directory = search.directory / f"trial-{first_number(trial):04d}"
    try:
        values = suggest(search.space, trial, search.base)
        settings = _merged(search.base, values)
        score, epochs = _train(search, trial, settings, directory)
    except (InterruptedRunError, _TimeLimitError) as error:
        trials.requeue(trial)
        if isinstance(error, InterruptedRunError):
            raise
        return "put back, for the time is over"
    except (_LostTrialError, UpdateFinishedTrialError):
        return "dropped: others took this process for dead"
    except optuna.TrialPruned as pruned:
        result, score = str(pruned), None
    except (DivergedError, torch.OutOfMemoryError) as error:
        result, score = "diverged" if isinstance(error, DivergedError) else "needs too much memory", None
    except ConfigurationError:
        trials.fail(trial)
        raise
    except BaseException:
        trials.requeue(trial)
        raise
    else:
        result = f"validation accuracy {score:.2%} after {epochs} epochs"
    if not trials.finish(trial, score):
        return "dropped: others took this process for dead"
    checkpoint.clear(directory)
    chosen = ", ".join(f"{name} {_brief(value)}" for name, value in values.items())
    return f"{result}; {chosen}"


def _train(search: _Search, trial: Trial, settings: TrainingSettings, directory: Path) -> tuple[float, int]:
    """Return the validation accuracy of the model that `fit` gives, and after how many epochs."""

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
        checkpoint.clear(directory)  # of a search that had this name before
    stop = ConditionalStopFlag(search.stop, lambda: _TimeLimitError() if search.is_time_up() else None)
    fitted = fit(search.shared.run(settings, directory, stop, on_epoch=report))
    trial.set_user_attr(best.SETTINGS, weight_settings(settings))
    trial.set_user_attr(best.IMAGES, len(search.shared.validation))
    return _score(settings, fitted.history), len(fitted.history)


def _score(settings: TrainingSettings, history: Sequence[Epoch]) -> float:
    """Return the validation accuracy of the model that `fit` gives: the best epoch's, if it stops early."""
    if not settings.patience:
        return history[-1].validation_accuracy
    if settings.monitor == "accuracy":
        return max(epoch.validation_accuracy for epoch in history)
    return min(history, key=lambda epoch: epoch.validation_loss).validation_accuracy


def _merged(base: TrainingSettings, values: dict[str, Any]) -> TrainingSettings:
    """Return the base settings with those of a trial.

    Raises:
        ConfigurationError: together they are not allowed.
    """
    layers = [Layer(base.model_dump(), "the setting '{name}'"), Layer(values, "{name} of the search space")]
    return build(TrainingSettings, layers)


def _identity(search: _Search) -> dict[str, str]:
    """Return what makes the trials of one search comparable."""
    names = {name: str(value) for name, value in weight_settings(search.base).items()}
    space = {f"the space of {name}": str(part) for name, part in search.space.items()}
    files = {f"the SHA-256 of {name}": value for name, value in search.shared.data.sha256.items()}
    return names | space | files


def _brief(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
