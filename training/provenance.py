"""Provenance of a model for its manifest: code revision, packages, device and driver."""

import ctypes
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

from bundle.manifest import Environment

PACKAGES = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "numpy")
DRIVER_LIBRARY = "libcuda.so.1"
MANAGEMENT_LIBRARY = "libnvidia-ml.so.1"
VERSION_BYTES = 80  # NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE


def now() -> str:
    """Return the current time in ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def code_revision(given: str) -> str:
    """Return the code revision from the settings (a container image has no .git), or else from git.

    A trailing `+changes` means that files differ from the commit.
    """
    if given:
        return given
    root = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changes = "+changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "HEAD") + changes
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def environment(device: torch.device, revision: str) -> Environment:
    """Return the versions, the device and the driver of this process."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    is_cuda = device.type == "cuda"
    named = torch.cuda.get_device_name(device) if is_cuda else platform.machine()
    return Environment(
        code_revision=code_revision(revision),
        python=platform.python_version(),
        packages=packages,
        device=f"{device.type} ({named})",
        threads=torch.get_num_threads(),
        cuda=torch.version.cuda or "" if is_cuda else "",
        driver=describe_driver() if is_cuda else "",
    )


def describe_driver() -> str:
    """Return the driver's version and the newest CUDA that it supports, `580.95.05 (CUDA 13.0)`, as far as known.

    NVIDIA's libraries are queried, because images need not contain `nvidia-smi`: NVML's nvmlSystemGetDriverVersion,
    whose library a container may lack, and the CUDA driver API's cuDriverGetVersion. The result is empty without both.
    """
    release, cuda = _release(), _newest_cuda()
    return f"{release} ({cuda})" if release and cuda else release or cuda


def _release() -> str:
    try:
        nvml = ctypes.CDLL(MANAGEMENT_LIBRARY)
    except OSError:
        return ""
    if nvml.nvmlInit_v2() != 0:
        return ""
    version = ctypes.create_string_buffer(VERSION_BYTES)
    status = nvml.nvmlSystemGetDriverVersion(version, VERSION_BYTES)
    nvml.nvmlShutdown()
    return version.value.decode(errors="replace") if status == 0 else ""


def _newest_cuda() -> str:
    try:
        driver = ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return ""
    version = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return ""
    return f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
