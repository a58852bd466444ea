"""The CPUs that this process may use, which in a container are fewer than the machine's, and what they support."""

import math
import os
from pathlib import Path

CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
CGROUP_V1 = Path("/sys/fs/cgroup/cpu")
CPUINFO = Path("/proc/cpuinfo")


def usable_cpus() -> int:
    """Return the number of CPUs that affinity and the cgroup's quota leave, rounded up and at least 1."""
    allowed = len(os.sched_getaffinity(0))
    quota = _quota(CGROUP_V2, CGROUP_V1)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def _quota(v2: Path, v1: Path) -> float | None:
    """Return the quota in CPUs; None if there is none.

    Source: the kernel's cgroup-v2.rst (`cpu.max`: "$MAX $PERIOD") and scheduler/sched-bwc.rst.
    """
    try:
        if v2.exists():
            limit, period = v2.read_text().split()
        else:
            limit = (v1 / "cpu.cfs_quota_us").read_text().strip()
            period = (v1 / "cpu.cfs_period_us").read_text().strip()
        return None if limit in ("max", "-1") else float(limit) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def has_amx_int8() -> bool:
    """Return whether this processor multiplies matrices of 8-bit integers in hardware (Intel's AMX-INT8).

    Dot products (AVX512-VNNI, AVX-VNNI) do not suffice: the integer layer needs three products in place of one, which
    they do not make up for.
    """
    try:
        lines = CPUINFO.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith("flags")), "")
    return "amx_int8" in flags.split()
