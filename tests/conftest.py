"""What holds for every test: its kind, by where it stands and what it uses; and the real MNIST."""

import gc
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from common.progress import Progress
from training.data.mnist_download import fetch_mnist

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("unit", "service", "system")
SYSTEM = ("browser", "containers", "e2e", "gpu", "k8s")
"""Folders of tests that need what a machine may lack: a browser, Docker, root, kubectl, a GPU."""
TOGETHER = ("browser", "containers")
"""Folders whose files share what is started for them, so that one process runs them all."""
RUNS = frozenset(
    ("running", "managed", "job", "fit", "small_run", "rich_run", "score", "die_everywhere", "s3_server")
)
"""What starts a service, trains, scores or is killed, by the names that test modules import it under."""
RUNNING = frozenset(("service", "both_services", "pod", "guarded", "finished"))
"""The fixtures of folders that do so."""

# On a busy machine an example takes as long as it takes, and on every machine the examples are the same.
settings.load_profile("ci")


def kind(place: Path, names: Iterable[str], fixtures: Iterable[str]) -> str:
    """Return which of KINDS a test is.

    Args:
        place: its file, from `tests/`.
        names: what its module has imported or made.
        fixtures: what it uses, and what these use.
    """
    if place.parts[0] in SYSTEM:
        return "system"
    return "unit" if RUNS.isdisjoint(names) and RUNNING.isdisjoint(fixtures) else "service"


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with its kind, but for those that are marked where they stand; those of systems come first.

    They wait most, and the fewer processes still run, the longer the last ones take.
    """
    for item in items:
        if any(item.get_closest_marker(name) for name in KINDS):
            continue
        assert isinstance(item, pytest.Function)
        place = item.path.relative_to(ROOT / "tests")
        gpu = item.get_closest_marker("gpu")
        item.add_marker("system" if gpu else kind(place, vars(item.module), item.fixturenames))
    items.sort(key=lambda item: not item.get_closest_marker("system"))


def whole(file: str) -> str:
    """Return what one process runs whole, of which a file is part: its folder, if that is of TOGETHER, or itself."""
    return next((folder for folder in TOGETHER if file.startswith(f"tests/{folder}/")), file)


class Scheduler(LoadFileScheduling):  # type: ignore[misc]
    """Gives each process a file at a time, or a folder."""

    def _split_scope(self, nodeid: str) -> str:
        return whole(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduler | None:
    """Take it in the place of `--dist loadfile`."""
    return Scheduler(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_finish() -> None:
    """Keep the garbage collector from what was imported, which lives as long as the process."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Begin PyTorch's own generator anew, so that a test draws the same whichever tests ran before it."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _count_devices() -> None:
    """Let autograd count the devices, as it does at the first backward pass, and refuse to run after a fork if any.

    Some tests kill forked processes that train; a test that imitates CUDA would be counted, if it came first.
    """
    if torch := sys.modules.get("torch"):  # by what was collected
        torch.ones(1, requires_grad=True).sum().backward()


@pytest.fixture(scope="session")
def mnist_directory() -> Path:
    """Return the directory of MNIST's four raw files, fetched if this checkout lacks them."""
    directory = ROOT / "data" / "mnist"
    fetch_mnist(directory, Progress(quiet=True))
    return directory
