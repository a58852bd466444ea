"""The arbiter's side of the management process: started with the service, watched, and ended with it.

It runs in Gunicorn's arbiter, which forks the workers, and so it has no thread and imports nothing
heavy. The two processes hold the ends of a socket pair, and each writes a byte to it once a second, so
that the other notices if it is stopped or stuck. Whatever ends either of them, SIGKILL too, closes its
end, which the other reads.
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
"""After how many looks without a sign of life the process is killed. Looks and not seconds: after a pause of all
processes (SIGSTOP, `docker pause`) it has not been silent for longer than the arbiter has been deaf."""
MAX_STARTUP_POLLS = 60
"""The same for one that begins: it imports its libraries, perhaps on a busy machine."""
MAX_BACKOFF_SECONDS = 30.0
"""Between two starts of one that ends at once; one that has lived for longer is started again without a pause."""
EXIT_SECONDS = 5.0


class ManagementProcess:
    """The management process, as the arbiter knows it."""

    def __init__(self, settings: ServiceSettings, memory: str | None) -> None:
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
        """Start it, unless the settings want none; before the first worker is forked.

        The directory is in memory where the machine has a file system for that.

        Args:
            log: the arbiter's.

        Raises:
            OSError: the directory cannot be made.
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
        """Start the management process again if it has ended, and end it if it is silent; to be called often."""
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
                os.kill(self._pid, signal.SIGKILL)  # it holds the other end, so it is no other's id yet
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
        except OSError as error:  # at this moment there is no memory, process or descriptor left
            self._log.error("the management process cannot be started yet: %s", error.strerror)
            return
        process.returncode = 0  # the arbiter reaps every child itself; Popen must not wait for this one
        self._socket.setblocking(False)
        self._pid = process.pid
        self._silent_polls, self._started = MAX_SILENT_POLLS - MAX_STARTUP_POLLS, time.monotonic()

    def _schedule_restart(self, now: float) -> None:
        """Let the next look start it again, the later the less it has lived."""
        self._log.error("the management process (pid:%d) has ended, and is started again", self._pid)
        self.close_socket()
        lived = now - self._started > MAX_BACKOFF_SECONDS
        self._backoff = 0.0 if lived else min(max(POLL_SECONDS, 2 * self._backoff), MAX_BACKOFF_SECONDS)
        self._next_poll = now + self._backoff

    def close_socket(self) -> None:
        """Let go of the socket in a worker, so that the arbiter's end is the only one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def end(self) -> None:
        """End it, when the workers are gone."""
        if self._directory is None:
            return
        self.close_socket()
        deadline = time.monotonic() + EXIT_SECONDS
        with contextlib.suppress(ChildProcessError):  # it may have been reaped already
            while os.waitpid(self._pid, os.WNOHANG)[0] == 0:
                if time.monotonic() > deadline:
                    os.kill(self._pid, signal.SIGKILL)
                time.sleep(0.01)
        shutil.rmtree(self._directory, ignore_errors=True)
