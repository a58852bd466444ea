"""Trials that processes share: who works on which, which owner died, and when there are enough.

Optuna's journal has no heartbeat (its databases have, but only inside `Study.optimize`), so the search
has its own, the same for both: the owner of a running trial counts up one of its attributes every few
seconds. Whoever is looking for work watches these counters by its own clock, so clocks need not agree;
a counter that stands still for `GRACE_BEATS` beats means that the owner is gone. Its trial is failed
and put back with the same parameters, up to `MAX_DEATHS` times; only one process can fail a trial, so
only one puts it back. An owner that was only asleep finds its trial finished, and drops it.

There are never more than the wanted number of trials: who creates one counts those before it that have
not failed, in the storage's order, and gives up its own if they are enough.
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
"""A trial whose owner died this often is not tried again: it may be what kills them."""
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
BEAT, DEATHS = "heartbeat", "deaths"


def first_number(trial: Trial | FrozenTrial) -> int:
    """Return the number under which a trial was first tried: its directory is named by that."""
    return int(trial.user_attrs.get(FIRST, trial.number))


class Trials:
    """The trials of one search, as one of its processes sees them."""

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
        """Of each running trial: its last counter, and when that was new."""

    def done(self) -> int:
        """Return how many trials are finished, by anyone."""
        return sum(trial.state in DONE for trial in self._all())

    def next(self, is_time_up: Callable[[], bool] = lambda: False) -> Trial | None:
        """Return a trial to work on, or None if there are enough or `is_time_up`.

        While other processes work on the last ones it waits, to take over should one of them die.

        Raises:
            InterruptedRunError: a signal came.
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
        """Put back the trials whose owners show no life any more."""
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
                    f"the process of trial {trial.number} is gone"
                    + ("; it is tried again" if again else f": {deaths} died with it, it is not tried again")
                )
                if again:
                    self._enqueue(trial, deaths)

    def requeue(self, trial: Trial) -> None:
        """Put back a trial that this process will not finish, because it is told to end."""
        frozen = next(t for t in self._all() if t.number == trial.number)
        if self._fail(trial.number):
            self._enqueue(frozen, int(frozen.user_attrs.get(DEATHS, 0)))

    def fail(self, trial: Trial) -> None:
        """Fail a trial that would fail again."""
        self._fail(trial.number)

    def finish(self, trial: Trial, score: float | None) -> bool:
        """Finish a trial with its score, or as pruned with None; tell whether it was still this process's."""
        state = TrialState.PRUNED if score is None else TrialState.COMPLETE
        try:
            told = self._study.tell(trial, score, state, skip_if_finished=True)
        except UpdateFinishedTrialError:
            return False
        return told.state == state

    @contextmanager
    def heartbeat(self, trial: Trial) -> Iterator[None]:
        """Show life while the block runs."""
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
                return  # the trial was taken away; its owner will find out
            except (OptunaError, OSError):
                pass  # a storage that is away may come back within the grace
            if end.wait(self._beat_seconds):
                return

    def _is_wanted(self, trial: Trial) -> bool:
        before = [t for t in self._all() if t.number < trial.number and t.state != TrialState.FAIL]
        return len(before) < self._wanted

    def _fail(self, number: int) -> bool:
        """Fail a running trial; tell whether it was this call that did."""
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
