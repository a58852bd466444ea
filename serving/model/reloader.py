"""What a process does beside its requests: it counts what waits to be counted, and looks for new versions."""

import atexit
import logging
import random
import threading

from serving.model.store import ModelStore
from serving.telemetry import logs

log = logging.getLogger("glyph.serving")

TICK_SECONDS = 1.0
END_SECONDS = 10.0
_chance = random.SystemRandom()


class Reloader:
    """Two threads in each process that serves: one counts, one loads; a load that hangs stops no counter.

    Versions are looked for by polling, because network volumes tell nobody of a change. The
    interval varies by a tenth, so that not all processes of all pods hash the same files at once.
    """

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._counting = threading.Thread(target=self._count, name="glyph-counter", daemon=True)
        self._looking = threading.Thread(target=self._look, name="glyph-loader", daemon=True)

    def start(self) -> None:
        """Begin, and end with the process: ONNX Runtime must not be at work when the interpreter goes."""
        self._counting.start()
        self._looking.start()
        atexit.register(self.stop)

    def stop(self) -> None:
        """Count what waits, free the models, and end; a load that hangs is waited for `END_SECONDS`."""
        self._store.shutdown.set()
        self._looking.join(END_SECONDS)
        self._counting.join(END_SECONDS)
        self._store.metrics.tick()
        if not self._store.device_lost:  # a worker that lost its GPU has died, as one that was killed
            self._store.metrics.ended()
        self._store.close()

    def _count(self) -> None:
        while not self._store.shutdown.wait(TICK_SECONDS):
            try:
                self._store.metrics.tick()
                logs.flush()
            except Exception:
                log.exception("counting failed; it goes on")

    def _look(self) -> None:
        while (pause := self._pause()) and not self._store.shutdown.wait(pause):
            try:
                self._store.load()
            except Exception:
                log.exception("looking for new versions failed; it goes on")

    def _pause(self) -> float:
        """Return the seconds until the next look, 0 if there is to be none."""
        if self._store.proof_pending:
            return TICK_SECONDS
        return self._store.settings.reload_seconds * _chance.uniform(0.9, 1.1)
