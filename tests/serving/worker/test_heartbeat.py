"""The heartbeat that the arbiter looks at, on a clock of ours."""

import os
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from gunicorn.config import Config

from serving.model.proof_table import LOAD_SECONDS
from serving.worker.inference_worker import InferenceWorker
from serving.worker.lifecycle import Heartbeat, LifecycleMixin
from serving.worker.thread_worker import ReadyThreadWorker

TIMEOUT = 30


class Clock:
    """The monotonic clock, and an arbiter that looks at a heartbeat by it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        self.heartbeat = Heartbeat(
            SimpleNamespace(timeout=TIMEOUT, umask=0, worker_tmp_dir=None, uid=os.geteuid(), gid=os.getegid())
        )

    def late_after(self, *, beats: bool, most: int = 2 * LOAD_SECONDS) -> int | None:
        """Return after how many looks, each a second later, the worker is late; None if it is not."""
        for look in range(most):
            self.now += 1
            if beats:
                self.heartbeat.notify()
            if self.now - self.heartbeat.last_update() > TIMEOUT:
                return look + 1
        return None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """Return a clock that stands still between looks."""
    clock = Clock(monkeypatch)
    yield clock
    clock.heartbeat.close()


def test_a_worker_that_never_beats_is_late_when_its_time_to_load_is_over(clock: Clock) -> None:
    """Gunicorn would wait for ever."""
    assert clock.late_after(beats=False) == LOAD_SECONDS + 1


def test_a_worker_that_is_silent_is_late_by_gunicorns_timeout(clock: Clock) -> None:
    """Counted from its last beat; one that beats never is."""
    assert clock.late_after(beats=True) is None
    assert clock.late_after(beats=False) == TIMEOUT + 1


@pytest.mark.parametrize("beats", [True, False], ids=["before", "loading"])
def test_the_time_in_which_the_arbiter_was_stopped_does_not_count(clock: Clock, *, beats: bool) -> None:
    """An hour later, a worker that beat just before it has as long as ever, and one that is stuck no longer."""
    if beats:
        clock.late_after(beats=True, most=10)
    clock.now += 0.5
    if beats:
        clock.heartbeat.notify()
    clock.now += 3600
    assert clock.late_after(beats=False) in range(TIMEOUT - 1, (TIMEOUT if beats else LOAD_SECONDS) + 2)


def test_an_arbiter_that_always_comes_late_still_finds_a_stuck_worker(clock: Clock) -> None:
    """Each look counts a second, whatever the machine is busy with."""
    clock.late_after(beats=True, most=1)
    for _ in range(TIMEOUT):
        clock.now += 60
        clock.heartbeat.last_update()
    assert clock.late_after(beats=False) in (1, 2)


def test_a_beat_after_the_pause_begins_the_count_anew(clock: Clock) -> None:
    """However long the pause was, silence after it is noticed in time."""
    clock.late_after(beats=True, most=1)
    clock.now += 3600
    clock.heartbeat.notify()
    assert clock.late_after(beats=False) in (TIMEOUT, TIMEOUT + 1)


@pytest.mark.parametrize("kind", [InferenceWorker, ReadyThreadWorker])
def test_a_worker_that_loses_its_gpu_before_it_serves_ends(kind: type[LifecycleMixin]) -> None:
    """It waits without a model while another worker is ready, and beats meanwhile."""
    configuration = Config()
    worker = kind(0, os.getpid(), [], None, 1, configuration, SimpleNamespace())
    metrics = SimpleNamespace(beat=lambda: None)
    store = SimpleNamespace(metrics=metrics, versions=list, device_lost=True)
    worker.wsgi = SimpleNamespace(extensions={"glyph": store})
    try:
        worker.notify()
        assert not worker.alive
    finally:
        worker.release_entry()
        worker.tmp.close()
