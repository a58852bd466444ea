"""Counters in shared memory: float64 values in a mapped file, which survive the process that writes them.

One process writes while others read. The file is a header, an area of keys that only grows, and an area of float64
values. Counting is one addition in memory: no system call, no lock between processes, nothing to flush, and what was
counted before a SIGKILL is still there afterwards.

The writer holds a POSIX lock on the file while it lives. The kernel releases the lock however the process ends, so a
reader can tell whether the writer is alive without knowing process ids.
"""

import errno
import fcntl
import logging
import mmap
import os
import struct
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson

from serving.system.anonymous_files import anonymous_file

log = logging.getLogger("glyph.serving")

MAGIC = b"GLYPHS01"
HEADER = struct.Struct("=8sQQ")
"""Magic, number of bytes used in the area of keys, number of values used."""
KEYS_OFFSET = 64
KEY_BYTES = 256 << 10
VALUES_OFFSET = KEYS_OFFSET + KEY_BYTES
VALUES = 1 << 17
MAX_VALUES_PER_KEY = 1 << 14
"""The file ends with as many values that belong to no key: writers whose key found no room write there."""
SIZE = VALUES_OFFSET + 8 * VALUES

LINKS_MEMORY = sys.platform == "linux"
"""Whether a path can be linked to memory, by /proc."""

Key = Sequence[object]
"""A metric's name followed by its label values, of types that JSON has."""


class SharedCounters:
    """The writer's side. `allocate` returns the offset of a key's values."""

    def __init__(self, memory: mmap.mmap, descriptor: int | None = None) -> None:
        self._memory = memory
        self._descriptor = descriptor  # stays open, because closing it would release the lock
        self._lock = threading.Lock()
        self._key_bytes = self._value_count = 0
        self._full = False
        view = memoryview(memory)
        self.values: memoryview[float] = view[VALUES_OFFSET:SIZE].cast("d")
        """All values; `values[offset] += 1` counts. Callers with several threads need a lock of their own."""
        self.array: npt.NDArray[np.float64] = np.frombuffer(memory, np.float64, VALUES, VALUES_OFFSET)
        """The same memory as an array, for several values at once."""
        HEADER.pack_into(memory, 0, MAGIC, 0, 0)

    @classmethod
    def anonymous(cls) -> "SharedCounters":
        """Return counters that no other process can read."""
        return cls(mmap.mmap(-1, SIZE))

    @classmethod
    def create(cls, path: Path) -> "SharedCounters":
        """Create the file `path` and lock it. If there is no room, create a link to anonymous memory instead.

        Outside Linux, where there are no such links, the counters are this process's alone then.
        """
        staged = path.with_suffix(".new")
        try:
            descriptor = _create_file(staged)
        except OSError as error:
            kept = "shared while it runs and lost when it ends" if LINKS_MEMORY else "not collected"
            log.warning(
                "%s has no room for the metrics of this process: they are %s. "
                "Make room there (--shm-size, or a memory volume): %s",
                path.parent,
                kept,
                error.strerror,
            )
            if not LINKS_MEMORY:
                return cls.anonymous()
            descriptor = link_to_memory(staged, SIZE)
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        counters = cls(mmap.mmap(descriptor, SIZE), descriptor)
        # Renamed only now: a reader that found the file unlocked would take its writer for dead.
        staged.replace(path)
        return counters

    def allocate(self, key: Key, count: int = 1) -> int:
        """Allocate `count` values, all 0, under `key`, and return the offset of the first.

        A caller allocates each key once and keeps the offset. If the file is full, which only unbounded labels could
        cause, the offset is one that nobody reads.

        Raises:
            ValueError: `count` is larger than `MAX_VALUES_PER_KEY`.
        """
        if count > MAX_VALUES_PER_KEY:
            raise ValueError(f"{count} values for one key; at most {MAX_VALUES_PER_KEY} are possible")
        line = orjson.dumps([self._value_count, count, *key]) + b"\n"
        with self._lock:
            if (
                self._key_bytes + len(line) > KEY_BYTES
                or self._value_count + count > VALUES - MAX_VALUES_PER_KEY
            ):
                if not self._full:
                    log.warning("no room for more metrics in this process: %s is not counted", key[0])
                self._full = True
                return VALUES - MAX_VALUES_PER_KEY
            offset = self._value_count
            start = KEYS_OFFSET + self._key_bytes
            self._memory[start : start + len(line)] = line
            self._key_bytes += len(line)
            self._value_count += count
            # Last, because the header makes the key visible to readers.
            HEADER.pack_into(self._memory, 0, MAGIC, self._key_bytes, self._value_count)
        return offset

    def numbers(self) -> dict[bytes, npt.NDArray[np.float64]]:
        """Return a copy of all values as `read` does, which must not be called for one's own file."""
        with self._lock:
            keys = self._memory[KEYS_OFFSET : KEYS_OFFSET + self._key_bytes]
            return _by_key(keys, self.array[: self._value_count].copy())


def _create_file(path: Path) -> int:
    """Create a file, allocate its space, and return its descriptor.

    Raises:
        OSError: there is no room; the file is removed.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        # Written in full: in a sparse file, storing to a hole raises SIGBUS when the memory file system is full.
        with open(descriptor, "wb", closefd=False) as file:
            file.write(bytes(SIZE))
    except OSError:
        os.close(descriptor)
        path.unlink()
        raise
    return descriptor


def link_to_memory(path: Path, size: int = 0) -> int:
    """Allocate `size` bytes of anonymous memory, link `path` to it, and return its descriptor. A link needs no room.

    Processes of the same user open and lock it by the link (proc(5), /proc/pid/fd) while this process keeps it open.

    Raises:
        OSError: the link cannot be created; outside Linux it never can.
    """
    if not LINKS_MEMORY:
        raise OSError(errno.ENOTSUP, "a path can be linked to memory on Linux alone")
    path.unlink(missing_ok=True)
    descriptor = anonymous_file(path.name)
    os.ftruncate(descriptor, size)
    path.symlink_to(f"/proc/{os.getpid()}/fd/{descriptor}")
    return descriptor


def read(path: Path) -> dict[bytes, npt.NDArray[np.float64]] | None:
    """Return a copy of another process's values by key, encoded as JSON; None if the file is gone or not complete."""
    try:
        with path.open("rb") as file:
            header = file.read(HEADER.size)
            if len(header) < HEADER.size:
                return None
            magic, used, count = HEADER.unpack(header)
            if magic != MAGIC:
                return None
            keys = os.pread(file.fileno(), used, KEYS_OFFSET)
            values = np.frombuffer(os.pread(file.fileno(), 8 * count, VALUES_OFFSET), np.float64)
    except OSError:
        return None
    return _by_key(keys, values)


def _by_key(keys: bytes, values: npt.NDArray[np.float64]) -> dict[bytes, npt.NDArray[np.float64]]:
    found = {}
    for line in keys.splitlines():
        start, size, *key = orjson.loads(line)
        found[orjson.dumps(key)] = values[start : start + size]
    return found


def read_value(path: Path, offset: int) -> float:
    """Return one of another process's values, which costs less than `read`; 0 if the file is gone."""
    try:
        with path.open("rb") as file:
            data = os.pread(file.fileno(), 8, VALUES_OFFSET + 8 * offset)
    except OSError:
        return 0.0
    return float(struct.unpack("=d", data)[0]) if len(data) == 8 else 0.0
