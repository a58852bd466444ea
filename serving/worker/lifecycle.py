"""A worker's side of starts, restarts and ends, for both worker classes; the arbiter is Gunicorn's own.

Like the worker classes, this module is imported by the arbiter and must not import ONNX Runtime.
"""

import mmap
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, ClassVar

from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]  # it ships no types
from gunicorn.workers.workertmp import WorkerTmp  # type: ignore[import-untyped]

from serving.model.proofs import load_seconds

_UNUSED, _LOADING, _UNREADY, _READY = range(4)
_states = mmap.mmap(-1, 1 << 12)
"""A byte for each worker, shared by the arbiter and all its children: each writes its own, everybody reads."""
_any_was_ready = mmap.mmap(-1, 1)
"""Whether any worker of this arbiter has ever been ready, shared in the same way."""
POLL_SECONDS = 0.1
CHECK_SECONDS = 1.0
"""How often the arbiter looks at heartbeats; what it comes later, it has been stopped or busy itself."""
RETRY_SECONDS = 3
"""How long a worker that cannot start waits before it exits, so that the arbiter does not fork without a pause."""
TERMINATION_SIGNALS = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT))
"""Held back from before the fork (`pre_fork`) until the child has its own handlers: the arbiter's, which it has so
far, would take note of the signal for an arbiter that is not there."""


class Heartbeat(WorkerTmp):  # type: ignore[misc]
    """Gunicorn's heartbeat, which begins at the fork and does not run on while the arbiter is stopped too.

    The monotonic clock runs on while processes are stopped (SIGSTOP, `docker pause`), so that the first to
    continue would find all the others silent for too long.
    """

    periodic_tasks: ClassVar[tuple[Callable[[], None], ...]] = ()
    """What else the arbiter does as often, once a second for each worker: Gunicorn has no hook for it, and a thread
    would not survive a fork."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self._last_check = time.monotonic()
        self._arbiter_absence = 0.0  # seconds since the last beat in which the arbiter could not look
        # Gunicorn's file has the time of day here, and a worker that never beats would never be late.
        ahead = self._last_check + load_seconds(cfg.timeout) - cfg.timeout
        os.utime(self.fileno(), (ahead, ahead))
        self._last_beat: float = super().last_update()

    def last_update(self) -> float:
        """Return when the worker last beat, later by what the arbiter was absent since; asked in the arbiter."""
        for function in self.periodic_tasks:
            function()
        now, beat = time.monotonic(), super().last_update()
        if beat != self._last_beat:
            self._last_beat, self._arbiter_absence, self._last_check = beat, 0.0, max(beat, self._last_check)
        self._arbiter_absence += max(0.0, now - self._last_check - CHECK_SECONDS)
        self._last_check = now
        return self._last_beat + self._arbiter_absence


class LifecycleMixin:
    """What both worker classes have beside Gunicorn's."""

    wsgi: Any
    cfg: Any
    log: Any
    tmp: Any
    aborted: bool
    alive: bool
    booted: bool
    ppid: int

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.tmp.close()
        self.tmp = Heartbeat(self.cfg)
        self._index = _states.find(bytes([_UNUSED]))
        _states[self._index] = _LOADING

    def release_entry(self) -> None:
        """Forget it; for the arbiter, when the process has ended."""
        _states[self._index] = _UNUSED

    def init_process(self) -> None:
        """Load the model and serve.

        Gunicorn's arbiter ends the whole service when a worker exits with 3 or 4. That is right at the first start;
        once a worker has been ready, one that cannot start is logged and tried again, and the others serve on.
        """
        try:
            super().init_process()  # type: ignore[misc]  # Gunicorn's, which comes after this class
        except SystemExit as end:
            if end.code not in (Arbiter.APP_LOAD_ERROR, Arbiter.WORKER_BOOT_ERROR) or not _any_was_ready[0]:
                raise
        except Exception:
            if (application := getattr(self, "wsgi", None)) is not None:
                application.extensions["glyph"].metrics.state("aborted")  # it dies, and was not asked to end
            if (
                self.aborted
            ):  # SystemExit, raised amid the import of a library, comes out of it as an error of its own
                sys.exit(1)
            if self.booted or not _any_was_ready[0]:
                raise
            self.log.exception("Exception in worker process")
        else:
            return
        self.log.error(
            "this worker cannot start, for the reason above; another tries in %d s, again and again",
            RETRY_SECONDS,
        )
        time.sleep(RETRY_SECONDS)
        sys.exit(1)

    def init_signals(self) -> None:
        """Handle signals as a worker does, and those that came since the fork.

        SIGHUP and SIGUSR2 are the arbiter's; a terminal or `pkill` sends them to the workers too, and Gunicorn
        leaves them at the default, which is to die.
        """
        super().init_signals()  # type: ignore[misc]
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINATION_SIGNALS)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End gracefully; at once, while the model is loaded: there is no connection yet."""
        if self.booted:
            super().handle_exit(sig, frame)  # type: ignore[misc]
        elif self.alive:  # it may be sent again, and must not interrupt the end
            self.alive = False
            sys.exit(0)

    def load_wsgi(self) -> None:
        """Load the application, and say what came of it, before the first connection is accepted.

        An answer that there is no model takes no time, so a worker that has none would draw most of the
        connections to itself. As long as others answer it does not accept any.
        """
        super().load_wsgi()  # type: ignore[misc]
        self._publish_state()
        while self.alive and _states[self._index] != _READY and bytes([_READY]) in _states[:]:
            time.sleep(POLL_SECONDS)
            self.notify()

    def notify(self) -> None:
        """Tell that the process is alive, and whether it is ready: versions come and go.

        A worker whose GPU is lost ends, and the arbiter starts another.
        """
        super().notify()  # type: ignore[misc]
        self.wsgi.extensions["glyph"].metrics.beat()
        self._publish_state()
        if self.wsgi.extensions["glyph"].lost:
            self.stop()

    def stop(self) -> None:
        """End gracefully."""
        self.alive = False

    def _publish_state(self) -> None:
        ready = bool(self.wsgi.extensions["glyph"].versions())
        _states[self._index] = _READY if ready else _UNREADY
        if ready:
            _any_was_ready[0] = 1
