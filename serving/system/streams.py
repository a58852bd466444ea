"""Standard output and standard error, which no process of the service may have to wait for.

A pipe whose reader has stopped, a terminal at Ctrl-S, a full disk, a stream that was closed: the arbiter that would
wait for one replaces no worker any more, and a worker that would is killed for its silence. Nothing here has a thread,
because the arbiter forks, and because a line that the kernel has is not lost with the process that wrote it.
"""

import contextlib
import os
import select
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable

STDOUT, STDERR = 1, 2
MAX_BUFFER_BYTES = 1 << 20
"""What a process keeps for a stream that takes nothing; what comes then is dropped, and counted."""
EXIT_SECONDS = 1.0
"""In which a process that ends still tries to get rid of what it kept."""


def make_nonblocking() -> None:
    """Make the standard streams such that a write to them never waits; children inherit them.

    O_NONBLOCK belongs to the open file description, which whoever started the service shares. So pipes and terminals
    are opened once more, and theirs stay as they are. Files stay too: opened again, they would have another offset.
    """
    for descriptor in (0, STDOUT, STDERR):
        try:
            mode = os.fstat(descriptor).st_mode
        except OSError:  # it is closed: the next file or connection would get its number, and what is printed
            _replace(descriptor, os.devnull, os.O_RDWR)
            continue
        if descriptor != 0 and (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
            with contextlib.suppress(OSError):  # it is another user's, who gave it to us only open
                _replace(descriptor, f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)


def _replace(descriptor: int, path: str, flags: int) -> None:
    opened = os.open(path, flags)
    if opened != descriptor:
        os.dup2(opened, descriptor)
        os.close(opened)
    os.set_inheritable(descriptor, True)


class Stream:
    """Writes lines to a descriptor, and keeps or drops what it does not take at once. Safe in threads and handlers."""

    def __init__(self, descriptor: int, note: Callable[[int], bytes]) -> None:
        """Begin.

        Args:
            descriptor: that nobody closes.
            note: makes the line which says how many lines are missing where it stands.
        """
        self._descriptor, self._drop_notice = descriptor, note
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
        """Lines that were dropped since the process began."""
        self._announced = self._written_announced = (
            0  # how many of them the kept lines tell of, and those that were written
        )

    def _forked(self) -> None:
        """Leave what the parent kept to the parent."""
        self._reset()
        self._lock.release()

    def write(self, line: bytes) -> None:
        """Write a line, its end included, or keep it; drop it where there is no room."""
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
        """Write what is kept, as far as the stream takes it now."""
        with self._lock:
            if self._flushing:  # a signal's handler: whom it interrupted goes on with its line
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
            except (
                OSError
            ):  # nobody reads any more, or the disk is full: keeping would help as little as trying
                self.dropped += len(self._buffer)
                self._buffer.clear()
                self._buffer_bytes, self._announced = 0, self._written_announced
            finally:
                self._flushing = False

    def flush_at_exit(self) -> None:
        """Write what is kept, and wait for the stream for a moment."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        deadline = time.monotonic() + EXIT_SECONDS
        self.flush()
        while self._buffer and (left := deadline - time.monotonic()) > 0:
            poll.poll(left * 1000)
            self.flush()


def _writer(descriptor: int) -> Callable[[bytes], int]:
    """Return what writes some bytes to a claimed descriptor and raises BlockingIOError instead of waiting."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) or not os.get_blocking(descriptor):
        return lambda data: os.write(descriptor, data)
    if stat.S_ISSOCK(mode):  # systemd's journal
        connection = socket.socket(fileno=os.dup(descriptor))
        return lambda data: connection.send(data, socket.MSG_DONTWAIT)
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)

    def write(data: bytes) -> int:
        """Write as much as a pipe that is writable takes, unless another process fills it at this very moment."""
        if not poll.poll(0):
            raise BlockingIOError
        return os.write(descriptor, data[: select.PIPE_BUF])

    return write
