"""What the manifest says of where a model comes from."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

from bundle.manifest import Environment
from training.driver import describe_driver

PACKAGES = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "numpy")


def now() -> str:
    """Return the time as ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def code_revision(given: str) -> str:
    """Return the code's revision: what the settings give (an image is built without .git), or git's.

    A trailing `+changes` says that files differed from the commit.
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
    """Return the versions and the device of this process, and of what runs it."""
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
