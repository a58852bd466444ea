"""Watches the arbiter from the management process, by the heartbeats that it sends over a socket pair."""

import contextlib
import logging
import os
import shutil
import socket
import threading
from pathlib import Path

from serving.errors import NotReadyError
from serving.system.heartbeat import MAX_BEATS

log = logging.getLogger("glyph.management")

MAX_SILENT_TICKS = 20
"""Ticks without a heartbeat after which the arbiter is stuck, beyond its graceful timeout, during which it has none."""


class ArbiterMonitor:
    """The arbiter, which is stuck if it is silent for too long, and has ended if the socket is closed."""

    def __init__(self, peer: socket.socket, max_silent_ticks: int, directory: Path) -> None:
        """Start the thread that receives heartbeats.

        Args:
            peer: this process's end of the socket pair.
            max_silent_ticks: ticks without a heartbeat after which the arbiter is stuck.
            directory: is removed when the arbiter has ended.
        """
        self.peer = peer
        self._max_silent_ticks, self._directory = max_silent_ticks, directory
        self._silent_ticks = 0
        threading.Thread(target=self._receive_beats, daemon=True).start()

    def tick(self) -> None:
        """Count a tick without a heartbeat. Call this once a second."""
        self._silent_ticks += 1
        if self._silent_ticks == self._max_silent_ticks:
            log.error("the arbiter is silent: workers that end are not replaced, and /livez answers 503")

    def check(self) -> None:
        """Raise an error if the arbiter is stuck.

        Raises:
            NotReadyError: it is.
        """
        if self._silent_ticks >= self._max_silent_ticks:
            raise NotReadyError(
                "the service's first process, the arbiter, is stopped or stuck: no worker would be replaced",
                remedy="Restart the service; if it was stopped on purpose (SIGSTOP), continue it (SIGCONT).",
            )

    def _receive_beats(self) -> None:
        """Receive heartbeats until the arbiter has ended, then remove the directory and end this process."""
        with contextlib.suppress(OSError):
            while self.peer.recv(MAX_BEATS):
                self._silent_ticks = 0
        with contextlib.suppress(OSError):  # renamed first, so that no worker adds a file meanwhile
            shutil.rmtree(self._directory.rename(self._directory.with_suffix(".gone")), ignore_errors=True)
        os._exit(0)  # not sys.exit, which would end this thread only
