"""`bench/gpu.sh`: every part runs, whatever became of the others, and the exit code says which it was."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = {
    "first": ["driver", "tests-training", "tests-serving", "fit", "serving", "presets", "training"],
    "long": ["strong", "record", "augmentation"],
}


def scripted(directory: Path, group: str, python: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Run a group with a shell script in the place of python3; return what came of it, and where the files are."""
    stub = directory / "bin" / "python3"
    stub.parent.mkdir()
    stub.write_text(f"#!/bin/sh\n{python}\n")
    stub.chmod(0o755)
    out = directory / "out"
    path = f"{stub.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "bench/gpu.sh", group],
        cwd=ROOT,
        env={**os.environ, "PATH": path, "OUT": str(out)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done, out


@pytest.mark.parametrize("group", PARTS)
def test_each_part_has_its_file(group: str, tmp_path: Path) -> None:
    """Where all is well, each part says so, and its file has what it printed; few enough files to fetch at once."""
    done, out = scripted(tmp_path, group, 'echo "said $*"')
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{name}.txt" for name in PARTS[group])
    assert len(PARTS[group]) <= 8
    for name in PARTS[group]:
        assert f"== {name}: passed" in done.stdout
        assert "said -m" in (out / f"{name}.txt").read_text()


def test_a_part_that_fails_stops_no_other(tmp_path: Path) -> None:
    """Of a failed part the code is named, the others run, and the script fails."""
    done, _ = scripted(tmp_path, "first", 'case "$*" in *tests/gpu*) exit 2;; *) exit 0;; esac')
    assert done.returncode == 1
    assert "== tests-training: FAILED with exit code 2" in done.stdout
    assert done.stdout.count(": passed") == len(PARTS["first"]) - 1


@pytest.mark.parametrize("python", ["exit 3", "exit 69", "echo '5 skipped, 32 deselected in 7.11s'"])
def test_without_a_gpu_each_part_says_so(python: str, tmp_path: Path) -> None:
    """The driver's answer, the training job's exit code, and tests that were all skipped are no success."""
    done, _ = scripted(tmp_path, "first", python)
    assert done.returncode == 3
    assert done.stdout.count(": no GPU") == len(PARTS["first"])


def test_a_failure_counts_more_than_a_missing_gpu(tmp_path: Path) -> None:
    """Tests of which one failed and others were skipped have failed."""
    done, _ = scripted(tmp_path, "first", "echo '1 failed, 5 skipped in 7.11s'; exit 1")
    assert done.returncode == 1
    assert "no GPU" not in done.stdout


def test_the_limits_of_a_group_fit_into_one_call() -> None:
    """Each part has a limit of seconds; together they leave time for the start of a machine that is lent for 600."""
    lines = (ROOT / "bench" / "gpu.sh").read_text().splitlines()
    limits = {words[1]: int(words[2]) for line in lines if (words := line.split())[:1] == ["part"]}
    assert list(limits) == [*PARTS["first"], *PARTS["long"]]
    assert sum(limits[name] for name in PARTS["first"]) <= 400
    assert sum(limits[name] for name in PARTS["long"]) <= 550


def test_another_word_is_misuse(tmp_path: Path) -> None:
    """Without a group it says which there are."""
    done, _ = scripted(tmp_path, "all", "exit 0")
    assert done.returncode == 2
    assert "bash bench/gpu.sh first" in done.stderr
