"""The memory that a container leaves this process, and a limit on it for proving a version.

With the limit, a version that needs too much memory gets a MemoryError and is rejected. Without it the kernel kills a
process, and with `memory.oom.group` (cgroup v2), which Kubernetes sets, all processes of the container: the service
would start again with the same version, without end. If the container has no limit, the kernel kills one process.
"""

import contextlib
import re
import resource
from collections.abc import Iterator
from pathlib import Path

CGROUP_V2, CGROUP_V1 = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")
STATUS = Path("/proc/self/status")
NO_LIMIT = 1 << 60
"""At least this, in bytes, is no limit: cgroup v1 has a number near 2^63 then."""


def free_memory() -> int | None:
    """Return the bytes that the container's limit leaves; None if there is no limit.

    Cached files that are not in use count as free, as they do in Kubernetes.

    Source: the kernel's cgroup-v2.rst and cgroup-v1/memory.rst.
    """
    if (CGROUP_V2 / "memory.max").exists():
        return _left(CGROUP_V2, "memory.max", "memory.current", "inactive_file")
    return _left(CGROUP_V1, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


@contextlib.contextmanager
def limit_memory() -> Iterator[None]:
    """Limit this process to the memory that is free now; not for CUDA, which maps far more than it uses.

    Source: getrlimit(2): RLIMIT_DATA counts a process's private writable memory, as VmData of proc_pid_status(5) does.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    free = free_memory()
    if free is None:
        yield
        return
    limit = _number(r"^VmData:\s+(\d+) kB$", STATUS) * 1024 + free
    resource.setrlimit(
        resource.RLIMIT_DATA, (limit if soft == resource.RLIM_INFINITY else min(limit, soft), hard)
    )
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _left(directory: Path, limit: str, used: str, cached: str) -> int | None:
    try:
        most = int((directory / limit).read_text())  # "max" is no number, and no limit
        taken = int((directory / used).read_text())
        cached_bytes = _number(rf"^{cached} (\d+)$", directory / "memory.stat")
    except (OSError, ValueError):
        return None
    return max(0, most - taken + cached_bytes) if most < NO_LIMIT else None


def _number(pattern: str, path: Path) -> int:
    found = re.search(pattern, path.read_text(), re.MULTILINE)
    return int(found[1]) if found else 0
