"""How much memory a container leaves, and what is refused beyond it."""

import resource
from pathlib import Path

import numpy as np
import pytest

from serving.system import memory
from serving.system.memory import free_memory, limit_memory

V2 = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


@pytest.mark.parametrize("names", [V2, V1], ids=["v2", "v1"])
@pytest.mark.parametrize(
    ("limit", "free"), [("700000", 300000), ("300000", 0), ("max", None), ("9223372036854771712", None)]
)
def test_free_is_what_the_limit_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, str, str], limit: str, free: int | None
) -> None:
    """Files that are cached and not in use are free."""
    most, used, cached = names
    (tmp_path / most).write_text(f"{limit}\n")
    (tmp_path / used).write_text("500000\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\n{cached} 100000\nactive_file 5\n")
    monkeypatch.setattr(memory, "CGROUP_V2", tmp_path)
    monkeypatch.setattr(memory, "CGROUP_V1", tmp_path)
    assert free_memory() == free


def test_without_a_container_nothing_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel then ends the child, and nobody else."""
    monkeypatch.setattr(memory, "CGROUP_V2", tmp_path)
    monkeypatch.setattr(memory, "CGROUP_V1", tmp_path)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with limit_memory():
        assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_what_is_more_than_free_is_refused_and_afterwards_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """By an exception: the process goes on."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    monkeypatch.setattr(memory, "free_memory", lambda: 64 << 20)
    with limit_memory():
        np.ones(16 << 20, np.uint8)
        with pytest.raises(MemoryError):
            np.ones(256 << 20, np.uint8)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    np.ones(256 << 20, np.uint8)
