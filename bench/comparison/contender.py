"""What a contender is: how it is started, how it is asked, and where its settings are from."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.comparison.environments import PEERS, python_of
from bench.load.wire import Form

ROOT = Path(__file__).parents[2]
BASELINE = "flask"
GLYPH = "glyph"
GTHREAD = "glyph-gthread"
CONSTANT = "glyph-constant"
WORKLOADS = {
    "png": "one PNG of 28x28",
    "raw": "one raw image, 784 bytes",
    "batch": "64 raw images",
}
"""Name: what a request has."""
TENSORS = "/v2/models/{model}/infer"
IMAGES = {"png": 1, "raw": 1, "batch": 64}


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What a server is started with."""

    port: int
    more_ports: tuple[int, ...]
    """For servers that insist on others besides."""
    workers: int
    """As many as there are cores for the server."""
    bundle: Path
    name: str
    """The model's."""
    directory: Path
    """The server's own, empty."""

    @property
    def graph(self) -> Path:
        """Return the ONNX file that all serve."""
        return self.bundle / "model.onnx"


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """One server."""

    name: str
    title: str
    command: Callable[[Setup], list[str]]
    forms: Mapping[str, Form]
    """By workload; one that is missing is not measured."""
    settings: str
    """What was set and who recommends it, for the report."""
    environment: Callable[[Setup], dict[str, str]] = field(default=lambda _: {})
    prepare: Callable[[Setup], list[str] | None] = field(default=lambda _: None)
    """Writes what the server wants to find, and returns a command to be run before it, if one is needed."""
    lock: str | None = None
    """The environment that it runs in, a key of `environments.LOCKS`; None is this one."""
    is_floor: bool = False
    """Answers a constant: what it says is not checked, and it is no peer."""
    borrows: bool = False
    """Decodes with Glyph's decoder: it shows what that alone brings, and is no peer."""

    @property
    def is_peer(self) -> bool:
        """Tell whether Glyph is compared with it."""
        return self.lock is not None and not self.is_floor and not self.borrows


def environment_of(contender: Contender, setup: Setup) -> dict[str, str]:
    """Return the environment variables that a server is started with, besides this process's."""
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
