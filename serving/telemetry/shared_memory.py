"""A process's measurements in shared memory: plain numbers in a mapped file, which survive its writer.

One process writes, others read while it does. The file is a header, an area of keys that only
grows, and an area of float64. To count is one addition in memory: no system call, no lock between
processes, nothing to flush, and what was counted before a SIGKILL is there after it.

The writer holds a POSIX lock on the file for as long as it lives, and the kernel frees it whatever
ends the process, so that a reader tells the living from the dead without knowing process ids.
"""

import fcntl
import logging
import mmap
import os
import struct
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson

log = logging.getLogger("glyph.serving")

MAGIC = b"GLYPHS01"
HEADER = struct.Struct("=8sQQ")
"""Magic, bytes used in the area of keys, values used."""
KEYS_AT = 64
KEY_BYTES = 256 << 10
VALUES_AT = KEYS_AT + KEY_BYTES
VALUES = 1 << 17
LARGEST_RUN = 1 << 14
"""Most values of one key. As many at the end of the file belong to no key, for what finds no room."""
SIZE = VALUES_AT + 8 * VALUES

Key = Sequence[object]
"""What a run of values is: its name and its labels, as JSON can write them."""


class SharedCounters:
    """The writer's side. Values are reached by their place, which `allocate` gives."""

    def __init__(self, memory: mmap.mmap, descriptor: int | None = None) -> None:
        self._memory = memory
        self._descriptor = descriptor  # to be kept open: the lock is the process's sign of life
        self._lock = threading.Lock()
        self._keys = self._count = 0
        self._full = False
        view = memoryview(memory)
        self.values: memoryview[float] = view[VALUES_AT:SIZE].cast("d")
        """Every value; `values[place] += 1` counts. Callers with several threads bring a lock."""
        self.array: npt.NDArray[np.float64] = np.frombuffer(memory, np.float64, VALUES, VALUES_AT)
        """The same memory, for runs of values at once."""
        HEADER.pack_into(memory, 0, MAGIC, 0, 0)

    @classmethod
    def anonymous(cls) -> "SharedCounters":
        """Return slots that no other process sees."""
        return cls(mmap.mmap(-1, SIZE))

    @classmethod
    def create(cls, path: Path) -> "SharedCounters":
        """Make the file `path` and lock it for this process; without room there, a link to memory of its own."""
        staged = path.with_suffix(".new")
        try:
            descriptor = _reserved(staged)
        except OSError as error:
            log.warning(
                "%s has no room for the metrics of this process, which are shared as long as it runs and lost when it "
                "ends; make room there (--shm-size, or a memory volume): %s",
                path.parent,
                error.strerror,
            )
            descriptor = linked(staged, SIZE)
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        slots = cls(mmap.mmap(descriptor, SIZE), descriptor)
        # Only now, so that nobody finds it without its lock and takes it for a dead one's.
        staged.replace(path)
        return slots

    def allocate(self, key: Key, count: int = 1) -> int:
        """Return the place of the first of `count` values, all 0, which readers will know as `key`.

        Each key is allocated once; its caller keeps the place. When the file is full, which only
        labels without bound could bring about, the place is one that nobody reads.

        Raises:
            ValueError: the run is longer than `LARGEST_RUN`.
        """
        if count > LARGEST_RUN:
            raise ValueError(f"a run of {count} values; at most {LARGEST_RUN} are possible")
        line = orjson.dumps([self._count, count, *key]) + b"\n"
        with self._lock:
            if self._keys + len(line) > KEY_BYTES or self._count + count > VALUES - LARGEST_RUN:
                if not self._full:
                    log.warning("no room for more metrics in this process: %s is not counted", key[0])
                self._full = True
                return VALUES - LARGEST_RUN
            place = self._count
            start = KEYS_AT + self._keys
            self._memory[start : start + len(line)] = line
            self._keys += len(line)
            self._count += count
            HEADER.pack_into(self._memory, 0, MAGIC, self._keys, self._count)  # last: now it exists
        return place


def _reserved(path: Path) -> int:
    """Return the descriptor of a new file for which there is room.

    Raises:
        OSError: there is none; nothing is left.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        # A hole in a file would be a SIGBUS on the day when the memory file system is full.
        os.posix_fallocate(descriptor, 0, SIZE)
    except OSError:
        os.close(descriptor)
        path.unlink()
        raise
    return descriptor


def linked(path: Path, size: int = 0) -> int:
    """Return the descriptor of so many bytes of new memory, and make `path` a link to it, which takes no room there.

    Processes of the same user read and lock it by the link (proc(5), /proc/pid/fd) as long as this one keeps it open.

    Raises:
        OSError: not even a link can be made.
    """
    path.unlink(missing_ok=True)
    descriptor = os.memfd_create(path.name, os.MFD_CLOEXEC)
    os.ftruncate(descriptor, size)
    path.symlink_to(f"/proc/{os.getpid()}/fd/{descriptor}")
    return descriptor


def read(path: Path) -> dict[bytes, npt.NDArray[np.float64]] | None:
    """Return a copy of another process's values by key (JSON of the list); None if they are not there."""
    try:
        with path.open("rb") as file:
            head = file.read(HEADER.size)
            if len(head) < HEADER.size:
                return None
            magic, used, count = HEADER.unpack(head)
            if magic != MAGIC:
                return None
            lines = os.pread(file.fileno(), used, KEYS_AT).splitlines()
            values = np.frombuffer(os.pread(file.fileno(), 8 * count, VALUES_AT), np.float64)
    except OSError:
        return None
    found = {}
    for line in lines:
        start, size, *key = orjson.loads(line)
        found[orjson.dumps(key)] = values[start : start + size]
    return found


def read_value(path: Path, place: int) -> float:
    """Return one of another process's values, which costs less than all of them; 0 if it is gone."""
    try:
        with path.open("rb") as file:
            data = os.pread(file.fileno(), 8, VALUES_AT + 8 * place)
    except OSError:
        return 0.0
    return float(struct.unpack("=d", data)[0]) if len(data) == 8 else 0.0
