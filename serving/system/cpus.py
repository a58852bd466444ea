"""The CPUs that this process may use, which in a container are fewer than the machine's, and what they support."""

import math
import os
import subprocess
import sys
from pathlib import Path

CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
CGROUP_V1 = Path("/sys/fs/cgroup/cpu")
CPUINFO = Path("/proc/cpuinfo")
BYTE_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
"""Flags of `/proc/cpuinfo`, any of which means instructions that multiply bytes and add the products in 32 bits."""
SYSCTL = ("/usr/sbin/sysctl", "-n", "hw.optional.arm.FEAT_DotProd")
"""Prints 1 on a Mac whose processor has Arm's dot products."""


def usable_cpus() -> int:
    """Return the number of CPUs that affinity and the cgroup's quota leave, rounded up and at least 1.

    macOS has neither: there it is the number of the machine's CPUs.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
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

    On x86 that is VNNI (AVX512-VNNI, AVX-VNNI) or AMX-INT8, on Arm its dot products (FEAT_DotProd) or products of
    matrices (FEAT_I8MM). Without them an x86 processor adds two products in 16 bits, which saturate. Sources: the names
    of the flags are those of the kernel's arch/x86/include/asm/cpufeatures.h and of its
    Documentation/arch/arm64/elf_hwcaps.rst; on macOS that of Apple's "Determining instruction set characteristics".
    """
    if sys.platform == "darwin":
        return _dot_products_of_mac()
    try:
        lines = CPUINFO.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return not BYTE_PRODUCTS.isdisjoint(flags.split())


def _dot_products_of_mac() -> bool:
    try:
        return subprocess.run(SYSCTL, capture_output=True, check=True).stdout.strip() == b"1"
    except (OSError, subprocess.CalledProcessError):  # an Intel processor has no such name
        return False
