"""The reloader: looks for new versions beside the requests. A second thread flushes metrics and log lines."""

import atexit
import logging
import random
import threading

from serving.model.store import ModelStore
from serving.telemetry import logs

log = logging.getLogger("glyph.serving")

TICK_SECONDS = 1.0
END_SECONDS = 10.0
_random = random.SystemRandom()


class Reloader:
    """Two threads of each process that serves, so that a load that hangs does not stop the metrics.

    New versions are found by polling, because network volumes do not notify of changes. The interval varies by a
    tenth, so that not all processes of all instances hash the same files at once.
    """

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._ticking = threading.Thread(target=self._tick_loop, name="glyph-ticks", daemon=True)
        self._polling = threading.Thread(target=self._poll_loop, name="glyph-reloader", daemon=True)

    def start(self) -> None:
        """Start the threads, and stop them at exit: ONNX Runtime must not run while the interpreter shuts down."""
        self._ticking.start()
        self._polling.start()
        atexit.register(self.stop)

    def stop(self) -> None:
        """Flush the metrics, free the models and end. Waits `END_SECONDS` at most for a load that hangs."""
        self._store.shutdown.set()
        self._polling.join(END_SECONDS)
        self._ticking.join(END_SECONDS)
        self._store.metrics.tick()
        if not self._store.device_lost:  # a worker that lost its GPU counts as died, like one that was killed
            self._store.metrics.ended()
        self._store.close()

    def _tick_loop(self) -> None:
        while not self._store.shutdown.wait(TICK_SECONDS):
            try:
                self._store.metrics.tick()
                logs.flush()
            except Exception:
                log.exception("updating the metrics failed; the next attempt is in %g s", TICK_SECONDS)

    def _poll_loop(self) -> None:
        if self._store.mirror is not None:  # the start does not wait for the network
            self._poll()
        while (pause := self._pause()) and not self._store.shutdown.wait(pause):
            self._poll()

    def _poll(self) -> None:
        try:
            if self._store.mirror is not None:
                self._store.mirror.poll()
            self._store.load()
        except Exception:
            log.exception("looking for new versions failed; polling goes on")

    def _pause(self) -> float:
        """Return the seconds until the next poll; 0 ends polling."""
        if self._store.proof_pending or self._store.is_waiting:
            return TICK_SECONDS
        return self._store.settings.reload_seconds * _random.uniform(0.9, 1.1)
