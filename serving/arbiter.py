"""Gunicorn's arbiter as this service runs it: a restart ends nothing before its successor is ready.

    python -m serving.arbiter --config python:serving.gunicorn_conf

`python -m serving` checks the settings and comes here. Of Gunicorn's arbiter two things are changed:

- SIGHUP starts new workers, as ever, but the old ones are told to end when the new ones have loaded and
  proven their model. Where one of them cannot, all the old ones stay and the log says so.
- SIGUSR2 starts this module again. Gunicorn would start `gunicorn/__main__.py` by its path, which puts
  Gunicorn's directory before the standard library, and `import http` finds the wrong package.
"""

import contextlib
import signal
import sys
from typing import Any

from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]  # it ships no types
from gunicorn.app.wsgiapp import WSGIApplication  # type: ignore[import-untyped]
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
from gunicorn.errors import HaltServer  # type: ignore[import-untyped]

from serving import logs
from serving.handover import ENDING

CONFIGURATION = ("--config", "python:serving.gunicorn_conf")
LOOK_SECONDS = 0.05
"""How often it is looked whether new workers are ready."""


class _SpawnedError(Exception):
    """New workers have been started; the rest of a reload follows in the main loop."""


class ServiceArbiter(Arbiter):  # type: ignore[misc]
    """Starts, watches and replaces the workers."""

    def __init__(self, app: Any) -> None:
        super().__init__(app)
        self.START_CTX["args"][1:2] = ["-m", "serving.arbiter"]
        self._spawning = False
        self._handover: int | None = None
        """The age of the youngest worker that is to be replaced, while its successors load."""

    @property
    def must_be_ready(self) -> bool:
        """Whether a worker that is forked now takes the place of one that answers."""
        return self._handover is not None and any(worker.ready for worker in self._old())

    def reload(self) -> None:
        """Read the configuration and start new workers; `manage_workers` goes on when they have loaded."""
        self._handover, self._spawning = self.worker_age, True
        try:
            with contextlib.suppress(_SpawnedError):
                super().reload()
        finally:
            self._spawning = False

    def manage_workers(self) -> None:
        """Keep the number of workers, unless new ones are loading: then wait for them.

        Raises:
            _SpawnedError: in `reload`, which else would end the old ones here and wait for their end.
        """
        if self._spawning:
            raise _SpawnedError
        if self._handover is not None and not self._hand_over():
            return
        super().manage_workers()

    def _old(self) -> list[Any]:
        return [worker for worker in self.WORKERS.values() if worker.age <= (self._handover or 0)]

    def _hand_over(self) -> bool:
        """Tell whether old and new workers need not stay side by side any longer."""
        new = {pid: worker for pid, worker in self.WORKERS.items() if worker.age > (self._handover or 0)}
        if not all(worker.settled for worker in new.values()):
            return False
        old_answer = any(worker.ready for worker in self._old())
        if old_answer and (len(new) < self.cfg.workers or not all(worker.ready for worker in new.values())):
            if new:
                for pid in new:
                    self.kill_worker(pid, signal.SIGTERM)
                return False  # until they have gone: the oldest are what Gunicorn would end
            self.log.error("the new workers could not get ready, and the old ones serve on")
        self._handover = None
        return True

    def spawn_worker(self) -> int:
        """Start a worker, which can be told to end from its first instruction on."""
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            pid: int = super().spawn_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        return pid

    def wait_for_signals(self, timeout: float = 1.0) -> list[int]:
        """Wait as long as Gunicorn does, or until it is time to look after new workers."""
        logs.flush()
        signals: list[int] = super().wait_for_signals(timeout if self._handover is None else LOOK_SECONDS)
        return signals

    def reap_workers(self) -> None:
        """Take note of who has ended; a new worker that cannot start does not end the service.

        Raises:
            HaltServer: a worker could not start, and there is none that answers.
        """
        while True:
            try:
                super().reap_workers()
            except HaltServer:  # it is raised at the first that could not start, and there may be more
                if not self.must_be_ready:
                    raise
            else:
                return

    def kill_worker(self, pid: int, sig: int) -> None:
        """Send a signal, SIGTERM only once: a second one might find a process that is half gone."""
        worker = self.WORKERS.get(pid)
        if sig == signal.SIGTERM and worker is not None:
            if worker.told_to_end:
                return
            worker.told_to_end = True
        super().kill_worker(pid, sig)


class UnderOurArbiter(BaseApplication):  # type: ignore[misc]
    """What Gunicorn's `Application` comes to when it has looked at its own options."""

    def run(self) -> None:
        """Serve until a signal ends it."""
        try:
            ServiceArbiter(self).run()
        except RuntimeError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)


class Service(WSGIApplication, UnderOurArbiter):  # type: ignore[misc]
    """The application as Gunicorn's configuration names it, under our arbiter."""


def main() -> None:
    """Become the service; return never."""
    Service("%(prog)s [OPTIONS]", prog="serving.arbiter").run()


if __name__ == "__main__":
    main()
