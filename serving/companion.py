"""The arbiter's side of the management process: started with the service, ended with it.

It runs in Gunicorn's arbiter, which forks the workers, and so it has no thread and imports nothing
heavy. The management process waits on a pipe of which only the arbiter has the other end; whatever
ends the arbiter, SIGKILL too, closes it.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from serving.settings import ServiceSettings, management_port

DIRECTORY_VARIABLE = "SERVING_METRICS_DIRECTORY"
"""Where workers put their numbers; for processes, not for operators, so not named like a setting."""
END_SECONDS = 5.0


class Companion:
    """The management process, as the arbiter knows it."""

    def __init__(self, settings: ServiceSettings, memory: str | None) -> None:
        self._settings = settings
        self._memory = memory
        self._directory: Path | None = None
        self._pipe: int | None = None
        self._pid = 0

    def start(self) -> None:
        """Start it, unless the settings want none; before the first worker is forked.

        The directory is in memory where the machine has a file system for that.
        """
        os.environ.pop(DIRECTORY_VARIABLE, None)
        if not management_port(self._settings):
            return
        self._directory = Path(tempfile.mkdtemp(prefix="glyph-", dir=self._memory))
        os.environ[DIRECTORY_VARIABLE] = str(self._directory)
        reading, self._pipe = os.pipe()
        process = subprocess.Popen([sys.executable, "-m", "serving.management"], stdin=reading)
        os.close(reading)
        self._pid = process.pid
        process.returncode = 0  # the arbiter reaps every child itself; Popen must not wait for this one

    def forked(self) -> None:
        """Let go of the pipe in a worker, so that the arbiter's end is the only one."""
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    def end(self) -> None:
        """End it, when the workers are gone."""
        if self._pipe is None or self._directory is None:
            return
        self.forked()
        deadline = time.monotonic() + END_SECONDS
        with contextlib.suppress(ChildProcessError):  # it may have been reaped already
            while os.waitpid(self._pid, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
                time.sleep(0.01)
        shutil.rmtree(self._directory, ignore_errors=True)
