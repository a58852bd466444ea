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
from serving.system.heartbeat import BEATS, beat
from serving.system.memory_directory import DIRECTORY_VARIABLE

LOOK_SECONDS = 1.0
SILENT_LOOKS = 10
"""After how many looks without a sign of life the process is killed. Looks and not seconds: after a pause of all
processes (SIGSTOP, `docker pause`) it has not been silent for longer than the arbiter has been deaf."""
FIRST_LOOKS = 60
"""The same for one that begins: it imports its libraries, perhaps on a busy machine."""
LONGEST_PAUSE = 30.0
"""Between two starts of one that ends at once; one that has lived for longer is started again without a pause."""
END_SECONDS = 5.0


class ManagementProcess:
    """The management process, as the arbiter knows it."""

    def __init__(self, settings: ServiceSettings, memory: str | None) -> None:
        self._wanted = bool(management_port(settings))
        self._parent = Path(memory or tempfile.gettempdir())
        self._directory: Path | None = None
        self._lock = -1
        self._line: socket.socket | None = None
        self._pid = 0
        self._silent = 0
        self._started = self._next_look = self._pause = 0.0
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
        for path in memory_directory.sweep(self._parent):
            log.info("removed %s, which a service that was killed had left", path)
        if not self._wanted:
            return
        self._directory, self._lock = memory_directory.make(self._parent)
        os.environ[DIRECTORY_VARIABLE] = str(self._directory)
        self._begin()

    def look(self) -> None:
        """Start the management process again if it has ended, and end it if it is silent; to be called often."""
        now = time.monotonic()
        if self._directory is None or now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        if self._line is None:
            self._begin()
            return
        beat(self._line)
        try:
            heard = self._line.recv(BEATS)
        except BlockingIOError:
            self._silent += 1
            if self._silent == SILENT_LOOKS:
                self._log.error("the management process (pid:%d) is silent, and is killed", self._pid)
            if self._silent >= SILENT_LOOKS:
                os.kill(self._pid, signal.SIGKILL)  # it holds the other end, so it is no other's id yet
        except OSError:
            self._ended(now)
        else:
            self._silent = 0
            if not heard:
                self._ended(now)

    def _begin(self) -> None:
        command = [sys.executable, "-m", "serving.management.server"]
        try:
            with contextlib.ExitStack() as opened:
                ours, theirs = map(opened.enter_context, socket.socketpair())
                process = subprocess.Popen(command, stdin=theirs.fileno())
                self._line = ours.dup()
        except OSError as error:  # at this moment there is no memory, process or descriptor left
            self._log.error("the management process cannot be started yet: %s", error.strerror)
            return
        process.returncode = 0  # the arbiter reaps every child itself; Popen must not wait for this one
        self._line.setblocking(False)
        self._pid = process.pid
        self._silent, self._started = SILENT_LOOKS - FIRST_LOOKS, time.monotonic()

    def _ended(self, now: float) -> None:
        """Let the next look start it again, the later the less it has lived."""
        self._log.error("the management process (pid:%d) has ended, and is started again", self._pid)
        self.forked()
        lived = now - self._started > LONGEST_PAUSE
        self._pause = 0.0 if lived else min(max(LOOK_SECONDS, 2 * self._pause), LONGEST_PAUSE)
        self._next_look = now + self._pause

    def forked(self) -> None:
        """Let go of the socket in a worker, so that the arbiter's end is the only one."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def end(self) -> None:
        """End it, when the workers are gone."""
        if self._directory is None:
            return
        self.forked()
        deadline = time.monotonic() + END_SECONDS
        with contextlib.suppress(ChildProcessError):  # it may have been reaped already
            while os.waitpid(self._pid, os.WNOHANG)[0] == 0:
                if time.monotonic() > deadline:
                    os.kill(self._pid, signal.SIGKILL)
                time.sleep(0.01)
        shutil.rmtree(self._directory, ignore_errors=True)
