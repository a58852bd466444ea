"""A worker's side of a restart: it tells the arbiter whether its model is proven, and does not begin without.

Like the worker classes, this module is imported by the arbiter and must not import ONNX Runtime.
"""

import mmap
import sys
from typing import Any

_UNREADY, _READY = 1, 2


class HandoverWorker:
    """What both worker classes have beside Gunicorn's. The arbiter and its child share one byte of memory."""

    must_be_ready = False
    """Whether it takes the place of a worker that answers; `serving.arbiter` says so before it forks."""
    told_to_end = False
    """Whether the arbiter has sent it SIGTERM."""
    wsgi: Any

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._shared = mmap.mmap(-1, 1)  # anonymous and shared: what the child writes, the arbiter reads

    @property
    def settled(self) -> bool:
        """Whether the model is loaded, or cannot be; asked in the arbiter."""
        return self._shared[0] != 0

    @property
    def ready(self) -> bool:
        """Whether the model's golden examples gave the recorded answers; asked in the arbiter."""
        return self._shared[0] == _READY

    def load_wsgi(self) -> None:
        """Load the application, and say what came of it, before the first connection is accepted."""
        super().load_wsgi()  # type: ignore[misc]  # Gunicorn's, which comes after this class
        self._tell()
        if self.must_be_ready and not self.ready:
            sys.exit(0)  # nobody has connected to it, and the worker that it was to replace serves on

    def notify(self) -> None:
        """Tell that the process is alive, and whether it is ready: versions come and go."""
        super().notify()  # type: ignore[misc]
        self._tell()

    def _tell(self) -> None:
        self._shared[0] = _READY if self.wsgi.extensions["glyph"].versions() else _UNREADY
