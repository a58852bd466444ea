"""Starts the management process with the service, watches it, and ends it with the service.

This runs in Gunicorn's arbiter, which forks the workers, so it has no thread and imports nothing heavy. The arbiter and
the management process hold the ends of a socket pair. Each writes a heartbeat to it once a second, so that the other
notices if it is stopped or stuck. Whatever ends one of them, SIGKILL as well, closes its end, which the other reads.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from serving.settings import ServiceSettings, management_port
from serving.system import memory_directory
from serving.system.heartbeat import MAX_BEATS, beat
from serving.system.memory_directory import DIRECTORY_VARIABLE

POLL_SECONDS = 1.0
MAX_SILENT_POLLS = 10
"""Polls without a heartbeat after which the process is killed. They are polls and not seconds, because a pause of all
processes (SIGSTOP, `docker pause`) stops the arbiter as well."""
MAX_STARTUP_POLLS = 60
"""The same for a process that starts: it imports its libraries, perhaps on a busy machine."""
MAX_BACKOFF_SECONDS = 30.0
"""Longest pause before a restart. A process that has lived for longer is restarted without a pause."""
EXIT_SECONDS = 5.0
"""Time for which the management process may end by itself."""


class ManagementProcess:
    """The management process, as the arbiter watches it."""

    def __init__(self, settings: ServiceSettings, memory: str | None) -> None:
        """Take the settings; `start` starts the process.

        Args:
            settings: the service's settings.
            memory: a directory in memory, if the machine has one.
        """
        self._wanted = bool(management_port(settings))
        self._parent = Path(memory or tempfile.gettempdir())
        self._directory: Path | None = None
        self._lock = -1
        self._socket: socket.socket | None = None
        self._pid = 0
        self._silent_polls = 0
        self._started = self._next_poll = self._backoff = 0.0
        self._log: Any = None

    def start(self, log: Any) -> None:
        """Start the process before the first worker is forked, unless there is no management port.

        Args:
            log: the arbiter's logger.

        Raises:
            OSError: the directory for the workers' metrics cannot be made.
        """
        self._log = log
        os.environ.pop(DIRECTORY_VARIABLE, None)
        for path in memory_directory.remove_stale(self._parent):
            log.info("removed %s, which a service that was killed had left", path)
        if not self._wanted:
            return
        self._directory, self._lock = memory_directory.create(self._parent)
        os.environ[DIRECTORY_VARIABLE] = str(self._directory)
        self._spawn()

    def poll(self) -> None:
        """Restart the process if it has ended, and kill it if it is silent. Call this at least once a second."""
        now = time.monotonic()
        if self._directory is None or now < self._next_poll:
            return
        self._next_poll = now + POLL_SECONDS
        if self._socket is None:
            self._spawn()
            return
        beat(self._socket)
        try:
            heard = self._socket.recv(MAX_BEATS)
        except BlockingIOError:
            self._silent_polls += 1
            if self._silent_polls == MAX_SILENT_POLLS:
                self._log.error("the management process (pid:%d) is silent, and is killed", self._pid)
            if self._silent_polls >= MAX_SILENT_POLLS:
                os.kill(self._pid, signal.SIGKILL)  # the socket is open, so the id is not reused yet
        except OSError:
            self._schedule_restart(now)
        else:
            self._silent_polls = 0
            if not heard:
                self._schedule_restart(now)

    def _spawn(self) -> None:
        command = [sys.executable, "-m", "serving.management.server"]
        try:
            with contextlib.ExitStack() as opened:
                ours, theirs = map(opened.enter_context, socket.socketpair())
                process = subprocess.Popen(command, stdin=theirs.fileno())
                self._socket = ours.dup()
        except OSError as error:  # there is no memory, process or descriptor left at the moment
            self._log.error("the management process cannot be started yet: %s", error.strerror)
            return
        process.returncode = 0  # Popen must not wait for it: the arbiter reaps every child
        self._socket.setblocking(False)
        self._pid = process.pid
        self._silent_polls, self._started = MAX_SILENT_POLLS - MAX_STARTUP_POLLS, time.monotonic()

    def _schedule_restart(self, now: float) -> None:
        """Let a later poll restart the process, with exponential backoff if it has lived for a short time."""
        self._log.error("the management process (pid:%d) has ended, and is started again", self._pid)
        self.close_socket()
        lived = now - self._started > MAX_BACKOFF_SECONDS
        self._backoff = 0.0 if lived else min(max(POLL_SECONDS, 2 * self._backoff), MAX_BACKOFF_SECONDS)
        self._next_poll = now + self._backoff

    def close_socket(self) -> None:
        """Close this process's copy of the socket; in a worker, so that only the arbiter holds that end."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def end(self) -> None:
        """End the process, which ends when the socket is closed, and remove the directory."""
        if self._directory is None:
            return
        self.close_socket()
        deadline = time.monotonic() + EXIT_SECONDS
        with contextlib.suppress(ChildProcessError):  # the arbiter may have reaped it
            while os.waitpid(self._pid, os.WNOHANG)[0] == 0:
                if time.monotonic() > deadline:
                    os.kill(self._pid, signal.SIGKILL)
                time.sleep(0.01)
        shutil.rmtree(self._directory, ignore_errors=True)
