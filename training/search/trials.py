"""Trials that processes share: their owners, heartbeats, and the requeueing of abandoned ones.

Optuna's journal has no heartbeat (its databases have one, but only within `Study.optimize`), so the search has its own
for both: the owner of a running trial increments a user attribute every few seconds. A process that looks for work
watches these counters by its own clock, so clocks need not agree. If a counter does not change for `GRACE_BEATS` beats,
the owner is taken for dead: its trial is failed and requeued with the same parameters, up to `MAX_DEATHS` times. Only
one process can fail a trial, so only one requeues it. An owner that was merely suspended finds its trial finished, and
drops it.

The number of trials never exceeds the wanted one: a process that creates a trial counts the trials before it that have
not failed, in the storage's order, and fails its own if they are enough.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import optuna
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from common.progress import Progress
from training.interrupts import StopFlag
from training.search.storage import FIRST

GRACE_BEATS = 6
MAX_DEATHS = 3
"""A trial whose owner died this often is not retried, because it may be the cause."""
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
BEAT, DEATHS = "heartbeat", "deaths"


def first_number(trial: Trial | FrozenTrial) -> int:
    """Return the original number of a trial, which names its directory."""
    return int(trial.user_attrs.get(FIRST, trial.number))


class Trials:
    """The trials of a search, from the view of one of its processes."""

    def __init__(
        self,
        study: optuna.Study,
        *,
        wanted: int,
        beat_seconds: float,
        progress: Progress,
        stop: StopFlag,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._study, self._wanted, self._beat_seconds = study, wanted, beat_seconds
        self._progress, self._stop, self._clock = progress, stop, clock
        self._seen: dict[int, tuple[int, float]] = {}
        """Running trial to its last counter, and the time at which that was new."""

    def done(self) -> int:
        """Return the number of finished trials, of all processes."""
        return sum(trial.state in DONE for trial in self._all())

    def next(self, is_time_up: Callable[[], bool] = lambda: False) -> Trial | None:
        """Return a trial to run, or None if there are enough or `is_time_up`.

        While other processes run the last trials, it waits to take over if one of them dies.

        Raises:
            InterruptedRunError: a signal arrived.
        """
        waiting_said = False
        while True:
            self._stop.check()
            if is_time_up() or self.done() >= self._wanted:
                return None
            self.requeue_abandoned()
            trials = self._all()
            states = [trial.state for trial in trials]
            busy = sum(state in (*DONE, TrialState.RUNNING) for state in states)
            if TrialState.WAITING in states or busy < self._wanted:
                trial = self._study.ask()
                if self._is_wanted(trial):
                    return trial
                self._fail(trial.number)
            else:
                if not waiting_said:
                    self._progress.say(
                        f"waiting for trials of other processes: {states.count(TrialState.RUNNING)}"
                    )
                    waiting_said = True
                time.sleep(min(self._beat_seconds / 4, 1.0))

    def requeue_abandoned(self) -> None:
        """Requeue the trials whose heartbeats have stopped."""
        now = self._clock()
        for trial in self._all():
            if trial.state != TrialState.RUNNING:
                self._seen.pop(trial.number, None)
                continue
            beat = int(trial.user_attrs.get(BEAT, 0))
            last, since = self._seen.get(trial.number, (-1, now))
            if beat != last:
                self._seen[trial.number] = (beat, now)
            elif now - since > GRACE_BEATS * self._beat_seconds and self._fail(trial.number):
                deaths = int(trial.user_attrs.get(DEATHS, 0)) + 1
                again = deaths < MAX_DEATHS
                self._progress.say(
                    f"the process of trial {trial.number} has died; "
                    + (
                        "the trial is requeued"
                        if again
                        else f"{deaths} have died with it, so it is not retried"
                    )
                )
                if again:
                    self._enqueue(trial, deaths)

    def requeue(self, trial: Trial) -> None:
        """Requeue a trial that this process will not finish, because it is stopped."""
        frozen = next(t for t in self._all() if t.number == trial.number)
        if self._fail(trial.number):
            self._enqueue(frozen, int(frozen.user_attrs.get(DEATHS, 0)))

    def fail(self, trial: Trial) -> None:
        """Fail a trial that would fail again if retried."""
        self._fail(trial.number)

    def finish(self, trial: Trial, score: float | None) -> bool:
        """Finish a trial with its score, or as pruned if None; return whether this process still owned it."""
        state = TrialState.PRUNED if score is None else TrialState.COMPLETE
        try:
            told = self._study.tell(trial, score, state, skip_if_finished=True)
        except UpdateFinishedTrialError:
            return False
        return told.state == state

    @contextmanager
    def heartbeat(self, trial: Trial) -> Iterator[None]:
        """Send heartbeats while the block runs."""
        end = threading.Event()
        thread = threading.Thread(target=self._beat, args=(trial, end), daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

    def _beat(self, trial: Trial, end: threading.Event) -> None:
        beat = 0
        while True:
            beat += 1
            try:
                trial.set_user_attr(BEAT, beat)
            except UpdateFinishedTrialError:
                return  # another process has taken the trial; the owner will find out
            except (OptunaError, OSError):
                pass  # the storage may recover within the grace period
            if end.wait(self._beat_seconds):
                return

    def _is_wanted(self, trial: Trial) -> bool:
        before = [t for t in self._all() if t.number < trial.number and t.state != TrialState.FAIL]
        return len(before) < self._wanted

    def _fail(self, number: int) -> bool:
        """Fail a running trial; return whether this call did so."""
        try:
            self._study.tell(number, state=TrialState.FAIL)
        except (ValueError, UpdateFinishedTrialError):
            return False
        return True

    def _enqueue(self, trial: FrozenTrial, deaths: int) -> None:
        self._study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs={FIRST: first_number(trial), DEATHS: deaths},
            )
        )

    def _all(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)
