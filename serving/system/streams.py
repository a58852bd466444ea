"""Non-blocking writes to standard output and standard error, for all processes of the service.

A write blocks when the reader of a pipe has stopped or a terminal is at Ctrl-S, and fails when the disk is full or the
stream is closed. An arbiter that blocks replaces no worker; a worker that blocks is killed for its silence. There is no
writer thread, because the arbiter forks, and because a line that the kernel has taken is not lost with the process.
"""

import contextlib
import os
import select
import socket
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

STDOUT, STDERR = 1, 2
MAX_BUFFER_BYTES = 1 << 20
"""Most bytes that are buffered for a stream that blocks; further lines are dropped and counted."""
EXIT_SECONDS = 1.0
"""Time for which a process that ends tries to write its buffer."""


def make_nonblocking() -> None:
    """Make writes to the standard streams non-blocking; child processes inherit them.

    O_NONBLOCK belongs to the open file description, which the process that started the service shares. So pipes and
    terminals are opened a second time; pipes on Linux alone, elsewhere `_writer` writes little to those that are ready.
    Files are not: opened again, they would have another offset.
    """
    for descriptor in (0, STDOUT, STDERR):
        try:
            mode = os.fstat(descriptor).st_mode
        except OSError:  # it is closed: the next file or connection would get its number, and its output
            _replace(descriptor, os.devnull, os.O_RDWR)
            continue
        if descriptor != 0 and (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
            with contextlib.suppress(OSError):  # it cannot be opened again: another user's, or macOS' pipe
                path = f"/proc/self/fd/{descriptor}" if sys.platform == "linux" else os.ttyname(descriptor)
                _replace(descriptor, path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)


def _replace(descriptor: int, path: str, flags: int) -> None:
    opened = os.open(path, flags)
    if opened != descriptor:
        os.dup2(opened, descriptor)
        os.close(opened)
    os.set_inheritable(descriptor, True)


class Stream:
    """Writes lines to a descriptor; buffers or drops those that would block. Safe in threads and signal handlers."""

    def __init__(self, descriptor: int, drop_notice: Callable[[int], bytes]) -> None:
        """Create a stream with an empty buffer.

        Args:
            descriptor: stays open as long as the process lives.
            drop_notice: returns the line that replaces so many dropped lines.
        """
        self._descriptor, self._drop_notice = descriptor, drop_notice
        self._write = _writer(descriptor)
        self._lock = threading.RLock()  # a signal's handler may log, too
        self._reset()
        os.register_at_fork(
            before=self._lock.acquire, after_in_parent=self._lock.release, after_in_child=self._forked
        )

    def _reset(self) -> None:
        self._buffer: deque[tuple[bytes, int]] = deque()
        self._buffer_bytes = 0
        self._flushing = self._partial_line = False
        self.dropped = 0
        """Lines that were dropped since the process started."""
        self._announced = self._written_announced = 0
        """How many of them the lines in the buffer announce, and the lines that were written."""

    def _forked(self) -> None:
        """Discard the parent's buffer, which the parent writes."""
        self._reset()
        self._lock.release()

    def write(self, line: bytes) -> None:
        """Write or buffer a line, which includes its line end; drop it if the buffer is full."""
        with self._lock:
            if self._buffer:
                self.flush()
            if self._buffer and self._buffer_bytes + len(line) > MAX_BUFFER_BYTES:
                self.dropped += 1
                return
            if self.dropped > self._announced:
                line = self._drop_notice(self.dropped - self._announced) + line
                self._announced = self.dropped
            if self._partial_line and not self._buffer:
                line = b"\n" + line
            self._buffer.append((line, self._announced))
            self._buffer_bytes += len(line)
            self.flush()

    def flush(self) -> None:
        """Write the buffer, as far as that does not block."""
        with self._lock:
            if self._flushing:  # a signal handler has interrupted `flush`, which then writes its line
                return
            self._flushing = True
            try:
                while self._buffer:
                    line, noted = self._buffer[0]
                    sent = self._write(line)
                    self._buffer_bytes -= sent
                    self._partial_line = sent < len(line)
                    if self._partial_line:
                        self._buffer[0] = (line[sent:], noted)
                    else:
                        self._buffer.popleft()
                        self._written_announced = noted
            except BlockingIOError:
                pass
            except OSError:
                # Nobody reads any more, or the disk is full: another try would fail as well.
                self.dropped += len(self._buffer)
                self._buffer.clear()
                self._buffer_bytes, self._announced = 0, self._written_announced
            finally:
                self._flushing = False

    def flush_at_exit(self) -> None:
        """Write the buffer, waiting for the stream for at most `EXIT_SECONDS`."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        deadline = time.monotonic() + EXIT_SECONDS
        self.flush()
        while self._buffer and (left := deadline - time.monotonic()) > 0:
            poll.poll(left * 1000)
            self.flush()


def _writer(descriptor: int) -> Callable[[bytes], int]:
    """Return a function that writes bytes and raises BlockingIOError instead of blocking."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) or not os.get_blocking(descriptor):
        return lambda data: os.write(descriptor, data)
    if stat.S_ISSOCK(mode):  # systemd's journal
        connection = socket.socket(fileno=os.dup(descriptor))
        return lambda data: connection.send(data, socket.MSG_DONTWAIT)
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)

    def write(data: bytes) -> int:
        """Write at most as much as a writable pipe takes; it blocks only if another process fills it meanwhile."""
        if not poll.poll(0):
            raise BlockingIOError
        return os.write(descriptor, data[: select.PIPE_BUF])

    return write
