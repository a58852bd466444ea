"""What a process does beside its requests: it counts what waits to be counted, and looks for new versions."""

import atexit
import logging
import random
import threading
import time

from serving import logs
from serving.state import ModelState

log = logging.getLogger("glyph.serving")

TICK_SECONDS = 1.0
END_SECONDS = 10.0
_chance = random.SystemRandom()


class Housekeeper:
    """A thread of its own in each process that serves.

    Versions are looked for by polling, because network volumes tell nobody of a change. The
    interval varies by a tenth, so that not all processes of all pods hash the same files at once.
    """

    def __init__(self, state: ModelState) -> None:
        self._state = state
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="glyph-housekeeper", daemon=True)

    def start(self) -> None:
        """Begin, and end with the process: ONNX Runtime must not be at work when the interpreter goes."""
        self._thread.start()
        atexit.register(self.stop)

    def stop(self) -> None:
        """Count what waits, free the models, and end."""
        self._ended.set()
        self._thread.join(END_SECONDS)
        self._state.metrics.tick()
        if not self._state.lost:  # a worker that lost its GPU has died, as one that was killed
            self._state.metrics.ended()
        self._state.close()

    def _run(self) -> None:
        interval = self._state.settings.reload_seconds
        look = self._next(interval)
        while not self._ended.wait(min(TICK_SECONDS, interval or TICK_SECONDS)):
            try:
                self._state.metrics.tick()
                logs.flush()
                if interval and time.monotonic() >= look:
                    self._state.load()
                    look = self._next(interval)
            except Exception:
                log.exception("the housekeeper failed; it goes on")
                look = self._next(interval)

    @staticmethod
    def _next(interval: float) -> float:
        return time.monotonic() + interval * _chance.uniform(0.9, 1.1)
