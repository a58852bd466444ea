"""Start, readiness and end of a worker, for both worker classes; the arbiter is Gunicorn's own.

The arbiter imports this module, so it must not import ONNX Runtime, as `inference_worker` must not.
"""

import mmap
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, ClassVar

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker
from gunicorn.workers.workertmp import WorkerTmp

from serving.model.proof_table import load_seconds

_UNUSED, _LOADING, _UNREADY, _READY = range(4)
_states = mmap.mmap(-1, 1 << 12)
"""The state of each worker, a byte in memory that the arbiter and its children share; a worker writes only its own."""
_any_was_ready = mmap.mmap(-1, 1)
"""Whether any worker of this arbiter has ever been ready; shared as `_states` is."""
POLL_SECONDS = 0.1
"""Interval at which a worker without a model checks whether another one is ready."""
CHECK_SECONDS = 1.0
"""Interval at which the arbiter checks heartbeats; a longer one means that it was stopped or busy itself."""
RETRY_SECONDS = 3
"""Time for which a worker that cannot start waits before it exits, so that the arbiter does not fork without pause."""
TERMINATION_SIGNALS = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT))
"""Signals that are blocked from before the fork (`pre_fork`) until the worker has its own handlers: the arbiter's,
which it inherits, would queue the signal for an arbiter that is not there."""


class Heartbeat(WorkerTmp):
    """Gunicorn's heartbeat, which counts from the fork, and not the time in which the arbiter is stopped as well.

    The monotonic clock runs on while processes are stopped (SIGSTOP, `docker pause`). An arbiter that continued before
    its workers would find all of them silent for too long.
    """

    periodic_tasks: ClassVar[tuple[Callable[[], None], ...]] = ()
    """Functions that the arbiter calls with each check, once a second for each worker. Gunicorn has no hook for this,
    and a thread would not survive a fork."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self._last_check = time.monotonic()
        self._arbiter_absence = 0.0  # seconds since the last beat in which the arbiter did not check
        # Gunicorn sets the file's time to the time of day, by which a worker that never beats is never late.
        ahead = self._last_check + load_seconds(cfg.timeout) - cfg.timeout
        os.utime(self.fileno(), (ahead, ahead))
        self._last_beat: float = super().last_update()

    def last_update(self) -> float:
        """Return the time of the last beat, plus the arbiter's absence since; called in the arbiter."""
        for function in self.periodic_tasks:
            function()
        now, beat = time.monotonic(), super().last_update()
        if beat != self._last_beat:
            self._last_beat, self._arbiter_absence, self._last_check = beat, 0.0, max(beat, self._last_check)
        self._arbiter_absence += max(0.0, now - self._last_check - CHECK_SECONDS)
        self._last_check = now
        return self._last_beat + self._arbiter_absence


class LifecycleMixin(Worker):
    """Adds to a worker class of Gunicorn a heartbeat, a shared state, and the handling of failed starts."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.tmp.close()
        self.tmp = Heartbeat(self.cfg)
        self._index = _states.find(bytes([_UNUSED]))
        _states[self._index] = _LOADING

    def init_process(self) -> None:
        """Load the model and serve.

        Gunicorn's arbiter ends the whole service when a worker exits with 3 or 4, which is right at the first start.
        Once a worker has been ready, one that cannot start exits with 1: the arbiter forks another, and the others
        go on serving.
        """
        try:
            super().init_process()
        except SystemExit as end:
            if end.code not in (Arbiter.APP_LOAD_ERROR, Arbiter.WORKER_BOOT_ERROR) or not _any_was_ready[0]:
                raise
        except Exception:
            if (application := getattr(self, "wsgi", None)) is not None:
                application.extensions["glyph"].metrics.state("aborted")  # it dies, and was not asked to end
            # `handle_abort` raises SystemExit, which a library that is being imported may turn into another error.
            if self.aborted:
                sys.exit(1)
            if self.booted or not _any_was_ready[0]:
                raise
            self.log.exception("Exception in worker process")
        else:
            return
        self.log.error(
            "this worker cannot start, for the reason above; it is replaced in %d s, until one starts",
            RETRY_SECONDS,
        )
        time.sleep(RETRY_SECONDS)
        sys.exit(1)

    def init_signals(self) -> None:
        """Install the worker's handlers, then unblock `TERMINATION_SIGNALS`.

        SIGHUP and SIGUSR2 are meant for the arbiter. A terminal or `pkill` sends them to the workers as well, and
        Gunicorn leaves them at the default, which ends the process.
        """
        super().init_signals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINATION_SIGNALS)

    def load_wsgi(self) -> None:
        """Load the application, and publish whether it has a model, before the first connection is accepted.

        A worker without a model fails fast and would attract most connections, so it does not accept while another
        worker is ready.
        """
        super().load_wsgi()
        self._publish_state()
        while self.alive and _states[self._index] != _READY and bytes([_READY]) in _states[:]:
            time.sleep(POLL_SECONDS)
            self.notify()

    def notify(self) -> None:
        """Beat, and publish whether there is a model, which may have changed.

        A worker whose GPU is lost ends, and the arbiter starts another.
        """
        super().notify()
        self.wsgi.extensions["glyph"].metrics.beat()
        self._publish_state()
        if self.wsgi.extensions["glyph"].device_lost:
            self.stop()

    def _publish_state(self) -> None:
        ready = bool(self.wsgi.extensions["glyph"].versions())
        _states[self._index] = _READY if ready else _UNREADY
        if ready:
            _any_was_ready[0] = 1

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End gracefully, or at once while the model is being loaded, when there are no connections."""
        if self.booted:
            super().handle_exit(sig, frame)
        elif self.alive:  # a second signal must not interrupt the exit
            self.alive = False
            sys.exit(0)

    def stop(self) -> None:
        """End gracefully."""
        self.alive = False

    def release_entry(self) -> None:
        """Free the entry of `_states`; called in the arbiter, when the process has ended."""
        _states[self._index] = _UNUSED
