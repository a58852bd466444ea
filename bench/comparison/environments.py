"""A virtual environment with pinned packages for each peer, outside the repository.

Environments are in `$XDG_CACHE_HOME/glyph-bench` (`~/.cache/glyph-bench`), and are created again when their lock
changes. The locks, `peers/locks/*.txt`, pin every package with its hashes; `compile.sh` there writes them.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

PEERS = Path(__file__).parent / "peers"
LOCKS = PEERS / "locks"
INSTALL_SECONDS = 1200.0


class UnavailableError(Exception):
    """A peer cannot be installed or started on this machine; the message has the reason."""


def cache() -> Path:
    """Return the folder of all environments."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "glyph-bench"


def python_of(name: str) -> Path:
    """Return the path of an environment's interpreter, which may not exist."""
    return cache() / name / "bin" / "python"


def install(name: str) -> None:
    """Create an environment unless it exists and matches its lock.

    Raises:
        UnavailableError: the packages cannot be installed.
    """
    lock = LOCKS / f"{name}.txt"
    state = hashlib.sha256(lock.read_bytes()).hexdigest() + f" {sys.version_info[:2]}"
    stamp = cache() / name / "installed"
    if stamp.is_file() and stamp.read_text() == state:
        return
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if uv is None:
        raise UnavailableError("uv is not installed: pip install uv")
    print(f"installing {name} into {cache() / name}", file=sys.stderr, flush=True)
    shutil.rmtree(cache() / name, ignore_errors=True)
    _run([uv, "venv", "--quiet", "--python", sys.executable, str(cache() / name)])
    _run([uv, "pip", "install", "--quiet", "--python", str(python_of(name)), "--requirements", str(lock)])
    stamp.write_text(state)


def version_of(name: str, package: str) -> str:
    """Return the version of a package in a lock."""
    for line in (LOCKS / f"{name}.txt").read_text().splitlines():
        found, _, rest = line.partition("==")
        if found == package:
            return rest.split()[0]  # hashes may follow
    raise KeyError(f"{name}.txt has no {package}")


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"its packages were not installed in {INSTALL_SECONDS:.0f} s") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise UnavailableError(f"its packages cannot be installed: {' '.join(lines[-3:])[:300]}")
