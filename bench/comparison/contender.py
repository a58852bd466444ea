"""The type of a compared server: its command, its request formats, and its settings with their source."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.comparison.environments import PEERS, python_of
from bench.load.wire import Form

ROOT = Path(__file__).parents[2]
BASELINE = "flask"
GLYPH = "glyph"
FLOAT32 = "glyph-float32"
GTHREAD = "glyph-gthread"
CONSTANT = "glyph-constant"
WORKLOADS = {
    "png": "one PNG of 28x28",
    "raw": "one raw image, 784 bytes",
    "batch": "64 raw images",
}
"""Name to the content of a request."""
TENSORS = "/v2/models/{model}/infer"
IMAGES = {"png": 1, "raw": 1, "batch": 64}


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """The parameters of a server's start."""

    port: int
    more_ports: tuple[int, ...]
    """For servers that require further ports."""
    workers: int
    """One per CPU of the servers."""
    bundle: Path
    name: str
    """The model's name."""
    directory: Path
    """An empty directory for the server."""

    @property
    def graph(self) -> Path:
        """Return the ONNX file that every server loads."""
        return self.bundle / "model.onnx"


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """A server that is compared."""

    name: str
    title: str
    command: Callable[[Setup], list[str]]
    forms: Mapping[str, Form]
    """By workload; a missing workload is not measured."""
    settings: str
    """The settings and their source, for the report."""
    environment: Callable[[Setup], dict[str, str]] = field(default=lambda _: {})
    prepare: Callable[[Setup], list[str] | None] = field(default=lambda _: None)
    """Writes the files that the server needs; may return a command to run before it."""
    lock: str | None = None
    """Name of its lock in `environments.LOCKS`; None is this process's environment."""
    package: str = ""
    """The package of the lock whose version is the server's, where it has another name than the lock."""
    is_floor: bool = False
    """Returns a constant: its responses are not checked, and it is not a peer."""
    borrows: bool = False
    """Uses Glyph's decoder, to show the decoder's share; not a peer."""

    @property
    def is_peer(self) -> bool:
        """Return whether Glyph's targets refer to it."""
        return self.lock is not None and not self.is_floor and not self.borrows


def environment_of(contender: Contender, setup: Setup) -> dict[str, str]:
    """Return the environment variables of a server, in addition to this process's."""
    common = {
        "BENCH_MODEL": str(setup.graph),
        "BENCH_NAME": setup.name,
        "BENCH_WORKERS": str(setup.workers),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(PEERS) if contender.lock else "",
    }
    if contender.lock:
        common["PATH"] = f"{python_of(contender.lock).parent}:{os.environ['PATH']}"
    return common | contender.environment(setup)
