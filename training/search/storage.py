"""The storage that the processes of a search share, Optuna's journal file or a database, and the seeded sampler."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from common.configuration import without_credentials
from common.errors import ConfigurationError
from training.errors import writing

JOURNAL_START = b'{"op_code":'
"""The start of a journal: `JournalStorage` writes a record of the search's creation first."""
LOCK_GRACE_SECONDS = 30
"""Time after which the lock of a killed process is broken."""


class CrashSafeJournal(JournalFileBackend):
    """Optuna's journal file, made robust against writers that are killed.

    A process that is killed during a write can leave half a line. Optuna would append the next record to it and make
    the journal unreadable. Here the next writer, which holds the lock, truncates the half line first.
    """

    def __init__(self, path: Path) -> None:
        # The lock that Optuna uses by default, a symbolic link, never expires if the path is relative.
        self._own_lock = JournalFileOpenLock(str(path.absolute()), grace_period=LOCK_GRACE_SECONDS)
        self._path = path
        super().__init__(str(path.absolute()), self._own_lock)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records durably."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self._own_lock.acquire()
        try:
            _cut_half_line(self._path)
            with self._path.open("ab") as file:
                file.write(lines.encode())
                file.flush()
                os.fsync(file.fileno())
        finally:
            self._own_lock.release()


def _cut_half_line(path: Path) -> None:
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        if end == 0:
            return
        file.seek(end - 1)
        if file.read() == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def open_storage(spec: str, default: Path) -> BaseStorage:
    """Open a journal file (its path; an empty string is `default`) or a database (its URL).

    Raises:
        ConfigurationError: the URL, driver or server of the database does not work, or the file is not a journal.
        UnwritableError: the journal's directory is not writable.
    """
    if "://" in spec:
        return _database(spec)
    path = Path(spec) if spec else default
    foreign = ConfigurationError(f"{path} is not an Optuna journal: give another file with --storage")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            if not _begins_as_a_journal(
                path
            ):  # Optuna reads a file of one unterminated line as an empty journal
                raise foreign
            return JournalStorage(CrashSafeJournal(path))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise foreign from None


def _begins_as_a_journal(path: Path) -> bool:
    """Return whether a file starts like a journal, or is a prefix of that start."""
    with path.open("rb") as file:
        return JOURNAL_START.startswith(file.read(len(JOURNAL_START)))


def _database(url: str) -> BaseStorage:
    try:
        from sqlalchemy.pool import NullPool

        # Connections are closed after use: Optuna would leave those of a pool open.
        return RDBStorage(url, engine_kwargs={"poolclass": NullPool})
    # SQLAlchemy and each driver have their own exceptions; a missing driver raises ImportError.
    except Exception as error:  # noqa: BLE001
        reason = str(error).replace(url, without_credentials(url)).splitlines()[0][:300]
        raise ConfigurationError(
            f"the database {without_credentials(url)} cannot be used: {reason}"
        ) from None


def quiet_optuna() -> None:
    """Let Optuna log errors only: the search logs its own progress."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)


FIRST = "first_number"
"""User attribute of a requeued trial: its original number."""


class SeededSampler(BaseSampler):
    """The tree-structured Parzen estimator (TPE), seeded for each trial by (seed, number of samples before it).

    A requeued trial keeps its parameters and is not a sample. A search that is interrupted and continued therefore
    samples the same parameters, and processes that share a seed sample different ones. Source: Bergstra et al.,
    "Algorithms for Hyper-Parameter Optimization", NIPS 2011; Optuna's `TPESampler`, whose first 10 trials are random.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._number = -1
        self._sampler = TPESampler(seed=seed)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """As TPESampler."""
        return self._of(study, trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As TPESampler."""
        return self._of(study, trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As TPESampler."""
        return self._of(study, trial).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """As TPESampler."""
        self._sampler.after_trial(study, trial, state, values)

    def _of(self, study: optuna.Study, trial: FrozenTrial) -> TPESampler:
        if trial.number != self._number:
            self._number = trial.number
            earlier = study.get_trials(deepcopy=False)[: trial.number]
            draws = sum(FIRST not in other.user_attrs for other in earlier)
            mixed = np.random.SeedSequence((self._seed, draws)).generate_state(1)[0]
            self._sampler = TPESampler(seed=int(mixed))
        return self._sampler


def open_study(
    storage: BaseStorage,
    name: str,
    *,
    seed: int,
    warm_up_epochs: int,
    prune: bool,
    identity: Mapping[str, str],
) -> optuna.Study:
    """Open or create the search `name`.

    Trials are pruned by the median of the earlier trials at the same epoch. Hyperband would split the tens of trials of
    a search over brackets that each start with 10 random ones. The first 5 trials, and the first epochs of each, in
    which the learning rate rises, are not pruned.

    Args:
        storage: of the search.
        name: of the search.
        seed: of the sampler.
        warm_up_epochs: epochs of each trial in which it is not pruned.
        prune: whether to prune.
        identity: the settings and data that all trials have in common, by name; stored with the search.

    Raises:
        ConfigurationError: the search was created with another identity.
    """
    pruner = (
        optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=warm_up_epochs)
        if prune
        else optuna.pruners.NopPruner()
    )
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize",
        load_if_exists=True,
        sampler=SeededSampler(seed),
        pruner=pruner,
    )
    remembered = study.user_attrs.get("identity")
    if remembered is None:
        study.set_user_attr("identity", dict(identity))
    elif remembered != identity:
        differing = sorted(k for k in {*remembered, *identity} if remembered.get(k) != identity.get(k))
        raise ConfigurationError(
            f"the search '{name}' was started with other settings: "
            + "; ".join(f"{k} was {remembered.get(k)} and is {identity.get(k)}" for k in differing)
            + ": restore them, or give another name with --study"
        )
    return study
