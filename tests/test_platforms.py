"""The platforms that Glyph is for: what the locks install there, and that the code asks for nothing of Linux alone."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

from tests.conftest import ROOT

X86 = "x86_64-unknown-linux-gnu"
PLATFORMS = {
    X86: {"sys_platform": "linux", "platform_machine": "x86_64"},
    "aarch64-unknown-linux-gnu": {"sys_platform": "linux", "platform_machine": "aarch64"},
    "aarch64-apple-darwin": {"sys_platform": "darwin", "platform_machine": "arm64"},
}
"""uv's names of them, and what the markers of packages see there."""
PYTHONS = ("3.11", "3.14")
LOCKS = sorted((ROOT / "lock").glob("*.txt"))
LINUX_ALONE = {"image-cuda"}
"""Locks of images for NVIDIA's GPUs, which are linux/amd64's."""
PRODUCT = ("common", "bundle", "imagesets", "serving", "training")
UNREACHABLE = re.compile(r"Failed to fetch|error sending request|dns error|Could not connect", re.IGNORECASE)


def locked(lock: Path, platform: str) -> dict[str, str]:
    """Return the packages that a lock installs on a platform, with their versions."""
    here = {str(name): str(value) for name, value in default_environment().items()}
    environment = here | PLATFORMS[platform]
    lines = re.findall(r"^([a-z0-9][^\\\n]*?) *\\?$", lock.read_text(), re.MULTILINE)
    found = [Requirement(line) for line in lines]
    return {
        one.name: str(one.specifier)
        for one in found
        if one.marker is None or one.marker.evaluate(environment)
    }


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_each_platform_has_one_onnx_runtime_of_the_same_version(lock: Path, platform: str) -> None:
    """The one for GPUs on Linux and x86-64, but in images without; both are one folder of site-packages."""
    found = {name: version for name, version in locked(lock, platform).items() if "onnxruntime" in name}
    if "onnxruntime" not in lock.read_text() or (lock.stem in LINUX_ALONE and platform != X86):
        return
    gpu = platform == X86 and lock.stem != "image-cpu"
    version = locked(ROOT / "lock/image-cpu.txt", platform)["onnxruntime"]
    assert found == {"onnxruntime-gpu" if gpu else "onnxruntime": version}


@pytest.mark.system  # needs a package index
@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_the_lock_can_be_installed_from_wheels(lock: Path, tmp_path: Path) -> None:
    """On every platform and with the oldest and the newest Python there is a wheel of each package, by its hash.

    The index is asked, since no lock says what a hash is of. macOS is 14, which ONNX Runtime's wheels want.
    """
    command = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--dry-run", "--require-hashes"]
    command += ["--only-binary", ":all:"]
    for platform in PLATFORMS if lock.stem not in LINUX_ALONE else [X86]:
        for python in PYTHONS:
            target = ["--python-platform", platform, "--python-version", python, "--target", str(tmp_path)]
            done = subprocess.run(
                [*command, *target, "--requirements", str(lock)],
                env=os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0", "UV_HTTP_RETRIES": "1"},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode and UNREACHABLE.search(done.stderr):
                pytest.skip(f"no package index can be reached: {done.stderr.strip().splitlines()[-1]}")
            assert done.returncode == 0, (platform, python, done.stderr)


def test_no_name_of_linux_alone_is_used_unasked(tmp_path: Path) -> None:
    """The types of the standard library say what macOS lacks; code under `sys.platform` or `hasattr` may use it."""
    options = [
        "--config-file",
        "",
        "--cache-dir",
        str(tmp_path),
        "--platform",
        "darwin",
        "--check-untyped-defs",
    ]
    options += ["--follow-imports", "skip", "--ignore-missing-imports", "--disable-error-code", "misc"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *PRODUCT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "checked" in done.stdout, done.stderr
    assert [line for line in done.stdout.splitlines() if "Module has no attribute" in line] == []
