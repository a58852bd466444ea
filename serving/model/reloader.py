"""What a process does beside its requests: it counts what waits to be counted, and looks for new versions."""

import atexit
import logging
import random
import threading

from serving.model.store import ModelState
from serving.telemetry import logs

log = logging.getLogger("glyph.serving")

TICK_SECONDS = 1.0
END_SECONDS = 10.0
_chance = random.SystemRandom()


class Housekeeper:
    """Two threads in each process that serves: one counts, one loads; a load that hangs stops no counter.

    Versions are looked for by polling, because network volumes tell nobody of a change. The
    interval varies by a tenth, so that not all processes of all pods hash the same files at once.
    """

    def __init__(self, state: ModelState) -> None:
        self._state = state
        self._counting = threading.Thread(target=self._count, name="glyph-counter", daemon=True)
        self._looking = threading.Thread(target=self._look, name="glyph-loader", daemon=True)

    def start(self) -> None:
        """Begin, and end with the process: ONNX Runtime must not be at work when the interpreter goes."""
        self._counting.start()
        self._looking.start()
        atexit.register(self.stop)

    def stop(self) -> None:
        """Count what waits, free the models, and end; a load that hangs is waited for `END_SECONDS`."""
        self._state.ending.set()
        self._looking.join(END_SECONDS)
        self._counting.join(END_SECONDS)
        self._state.metrics.tick()
        if not self._state.lost:  # a worker that lost its GPU has died, as one that was killed
            self._state.metrics.ended()
        self._state.close()

    def _count(self) -> None:
        while not self._state.ending.wait(TICK_SECONDS):
            try:
                self._state.metrics.tick()
                logs.flush()
            except Exception:
                log.exception("counting failed; it goes on")

    def _look(self) -> None:
        while (pause := self._pause()) and not self._state.ending.wait(pause):
            try:
                self._state.load()
            except Exception:
                log.exception("looking for new versions failed; it goes on")

    def _pause(self) -> float:
        """Return the seconds until the next look, 0 if there is to be none."""
        if self._state.pending:
            return TICK_SECONDS
        return self._state.settings.reload_seconds * _chance.uniform(0.9, 1.1)
