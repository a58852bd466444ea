"""The best trial of a search, as a YAML file that `fit --config` takes."""

from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from common.atomic_files import write_whole
from training.errors import UnwritableError, writing

SETTINGS, IMAGES = "settings", "validation_images"
"""User attributes of a finished trial: the settings that its weights depend on, and its number of validation images."""

_START = "# Best: "


def find(study: optuna.Study) -> FrozenTrial | None:
    """Return the finished trial with the best score, the first among equals, or None."""
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max(finished, key=lambda trial: (trial.value, -trial.number), default=None)


def describe(study: optuna.Study, trial: FrozenTrial) -> str:
    """Return a description of a trial: its number, search and score."""
    states = [t.state for t in study.get_trials(deepcopy=False)]
    done, pruned = states.count(TrialState.COMPLETE), states.count(TrialState.PRUNED)
    return (
        f"trial {trial.number} of the search '{study.study_name}', validation accuracy {trial.value:.4f} "
        f"on {trial.user_attrs[IMAGES]} images; {done} trials finished and {pruned} pruned"
    )


def check_overwrite(path: Path) -> None:
    """Check that `path` does not exist or was written by an earlier search.

    Raises:
        UnwritableError: it is another file, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            is_own = file.read(len(_START)) == _START.encode()
    except FileNotFoundError:
        return
    except OSError as error:
        raise UnwritableError(f"{path} cannot be read: {error.strerror}") from None
    if not is_own:
        raise UnwritableError(
            f"{path} exists and was not written by a search: give --best or another --study"
        )


def write(study: optuna.Study, path: Path) -> FrozenTrial | None:
    """Write the best trial's settings atomically; return the trial, or None if there is none.

    Raises:
        UnwritableError: the file cannot be written.
    """
    trial = find(study)
    if trial is None:
        return None
    settings: dict[str, Any] = trial.user_attrs[SETTINGS]
    text = (
        f"{_START}{describe(study, trial)}.\n"
        "# The test set was not read. Train, test and publish it with\n"
        f"#   python -m training fit --config {path}\n"
    ) + yaml.safe_dump(settings, sort_keys=True, default_flow_style=None, width=1000)
    with writing(path):
        if not path.exists() or path.read_bytes() != text.encode():
            write_whole(path, text.encode())
    return trial
