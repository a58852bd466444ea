"""The CPUs that this process may use, which in a container are fewer than the machine's, and what they support."""

import math
import os
from pathlib import Path

CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
CGROUP_V1 = Path("/sys/fs/cgroup/cpu")
CPUINFO = Path("/proc/cpuinfo")
BYTE_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"})
"""Flags of `/proc/cpuinfo`, any of which means instructions that multiply bytes and add the products in 32 bits."""


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


def multiplies_bytes() -> bool:
    """Return whether this processor sums products of bytes exactly, and faster than products of float32.

    On x86 that is VNNI (AVX512-VNNI, AVX-VNNI) or AMX-INT8, on Arm its dot products (FEAT_DotProd). Without them an x86
    processor adds two products in 16 bits, which saturate. Sources: the names of the flags are those of the kernel's
    arch/x86/include/asm/cpufeatures.h and Documentation/arch/arm64/elf_hwcaps.rst.
    """
    try:
        lines = CPUINFO.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return not BYTE_PRODUCTS.isdisjoint(flags.split())
