"""A worker's side of a restart: it says whether its model is proven, and takes no place from one that answers.

Like the worker classes, this module is imported by the arbiter and must not import ONNX Runtime.
"""

import mmap
import os
import signal
import sys
import time
from typing import Any

_FREE, _LOADING, _UNREADY, _READY = range(4)
_table = mmap.mmap(-1, 1 << 12)
"""A byte for each worker, shared by the arbiter and all its children: each writes its own, everybody reads."""
LOOK_SECONDS = 0.1
LOAD_SECONDS = 120
"""In which a worker has to load its model, if it may not be silent for longer anyway. The first start on a GPU reads
gigabytes of CUDA's libraries, and captures its graphs."""
ENDING = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT))
"""Held back from before the fork until the child has its own handlers: the arbiter's, which it has so far, would
take note of the signal for an arbiter that is not there."""


class HandoverWorker:
    """What both worker classes have beside Gunicorn's."""

    must_be_ready = False
    """Whether it takes the place of a worker that answers; `serving.arbiter` says so before it forks."""
    told_to_end = False
    """Whether the arbiter has sent it SIGTERM."""
    wsgi: Any
    cfg: Any
    tmp: Any
    alive: bool
    ppid: int

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._place = _table.find(bytes([_FREE]))
        _table[self._place] = _LOADING

    @property
    def settled(self) -> bool:
        """Whether the model is loaded, or cannot be; asked in the arbiter."""
        return _table[self._place] != _LOADING

    @property
    def ready(self) -> bool:
        """Whether the model's golden examples gave the recorded answers; asked in the arbiter."""
        return _table[self._place] == _READY

    def init_signals(self) -> None:
        """Handle signals as a worker does, and those that came since the fork."""
        super().init_signals()  # type: ignore[misc]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

    def gone(self) -> None:
        """Forget it; for the arbiter, when the process has ended."""
        _table[self._place] = _FREE

    def load_wsgi(self) -> None:
        """Load the application, and say what came of it, before the first connection is accepted.

        An answer that there is no model takes no time, so a worker that has none would draw most of the
        connections to itself. As long as others answer it does not accept any.
        """
        # The arbiter compares a heartbeat with the clock. Until the first one it would wait for ever.
        ahead = time.monotonic() + max(0, LOAD_SECONDS - self.cfg.timeout)
        os.utime(self.tmp.fileno(), (ahead, ahead))
        super().load_wsgi()  # type: ignore[misc]  # Gunicorn's, which comes after this class
        self._tell()
        if self.must_be_ready and not self.ready:
            sys.exit(0)  # nobody has connected to it, and the worker that it was to replace serves on
        while self.alive and not self.ready and bytes([_READY]) in _table[:] and self.ppid == os.getppid():
            time.sleep(LOOK_SECONDS)
            self.notify()

    def notify(self) -> None:
        """Tell that the process is alive, and whether it is ready: versions come and go.

        A worker whose GPU is lost ends, and the arbiter starts another.
        """
        super().notify()  # type: ignore[misc]
        self._tell()
        if self.wsgi.extensions["glyph"].lost:
            self.leave()

    def leave(self) -> None:
        """End gracefully."""
        self.alive = False

    def _tell(self) -> None:
        _table[self._place] = _READY if self.wsgi.extensions["glyph"].versions() else _UNREADY
