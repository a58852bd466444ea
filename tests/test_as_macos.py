"""The programs on a Python that has of Linux only what macOS has too (`as_macos/`): they train, serve and score."""

import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.support.jobs import KINDS, digits, rows_of, score
from bench.support.management import managed
from bench.support.models import a_linear, publish_synthetic
from bench.support.pictures import png
from bench.support.processes import ROOT, environment
from bundle.repository import versions
from serving.predict import load_shedding
from serving.predict.load_shedding import unacknowledged
from tests.training.sets import archive

AS_MACOS = os.pathsep.join((str(ROOT / "tests/as_macos"), str(ROOT)))
PATIENCE = 60.0
EVERY_MODULE = """
import importlib, pkgutil
for name in ("common", "bundle", "imagesets", "serving", "training"):
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            print(module.name)
"""
WAITING = """
import os, time
from serving.system import parent_death
parent_death.WATCH_SECONDS = 0.01
parent_death.end_with_parent(os.getppid())
{then}
print(os.getpid(), flush=True)
while True:
    time.sleep(1)
"""


@pytest.fixture(autouse=True)
def _as_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the programs that a test starts find nothing of Linux alone."""
    monkeypatch.setenv("PYTHONPATH", AS_MACOS)


def python(*arguments: str | Path, **options: str) -> str:
    """Run Python, which must end well, and return what it prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment() | options,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_linux_alone_has_is_hidden() -> None:
    """Else the tests of this file would show nothing."""
    source = """
import os, pathlib, select, sys
hidden = [hasattr(os, "memfd_create"), hasattr(os, "sched_getaffinity"), hasattr(select, "epoll")]
print(sys.platform, *hidden, pathlib.Path("/proc/self").exists(), os.path.isdir("/dev/shm"))
"""
    assert python("-c", source).split() == ["darwin", *5 * ["False"]]
    assert "FileNotFoundError" in python(
        "-c", "try: open('/proc/self/stat')\nexcept OSError as e: print(repr(e))"
    )


def test_every_module_is_imported() -> None:
    """None needs what Linux alone has before it is used; a bundle's absence is no error of the WSGI module."""
    assert len(python("-c", EVERY_MODULE).splitlines()) > 200


def test_a_service_answers_and_counts(tmp_path: Path) -> None:
    """Two workers share proofs and counters, by files in the temporary directory; the management port shows them."""
    publish_synthetic(tmp_path / "models")
    images, linear = digits(3), a_linear()
    with managed(tmp_path, model=tmp_path / "models/synthetic", workers=2) as asked:
        for image, expected in zip(images, linear.probabilities(images), strict=True):
            answer = asked.service.post(png(image))
            assert answer.status == 200, answer.body
            (prediction,) = answer.json()["predictions"]
            assert np.allclose(list(prediction["probabilities"].values()), expected, atol=1e-5)
        asked.await_value(3, "glyph_http_requests_total", route="/predict", status="200")
        asked.await_value(2, "glyph_workers", state="ready")


@pytest.mark.parametrize("given", ["folder", "tar, gzip"])
def test_files_are_scored_as_on_linux(tmp_path: Path, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By two decoding processes, of which each opens the temporary copy of an archive, which is removed afterwards."""
    bundle = publish_synthetic(tmp_path / "models")
    name, write = KINDS[given]
    write(tmp_path / name, digits(40))
    (tmp_path / "temporary").mkdir()
    words: list[str | Path] = [
        "-m",
        "serving.score",
        "--input",
        tmp_path / name,
        "--model",
        bundle.path.parent,
    ]
    words += [
        "--output",
        tmp_path / "scored",
        "--provider",
        "cpu",
        "--workers",
        "2",
        "--arithmetic",
        "float32",
    ]
    python(*words, TMPDIR=str(tmp_path / "temporary"))
    monkeypatch.delenv("PYTHONPATH")
    score(bundle, tmp_path / name, tmp_path / "expected", arithmetic="float32")
    assert len(rows_of(tmp_path / "scored")) == 40
    assert rows_of(tmp_path / "scored") == rows_of(tmp_path / "expected")
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_model_is_trained_and_published(tmp_path: Path) -> None:
    """With its report, its exports and their proof."""
    data = archive(tmp_path / "noisy.npz")
    places: list[str | Path] = ["--models", tmp_path / "models", "--runs", tmp_path / "runs"]
    python(
        "-m", "training", "fit", "--data", data, *places, "--epochs", "1", "--hidden", "8", "--threads", "1"
    )
    assert versions(tmp_path / "models/noisy") == [1]


@pytest.mark.parametrize("then", ["", "parent_death.outlive_parent()"])
def test_a_process_ends_with_its_parent_unless_it_is_to_outlive_it(then: str) -> None:
    """It is killed without the kernel's signal, too."""
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WAITING.format(then=then)!r}])"
    process = subprocess.Popen(
        [sys.executable, "-c", parent], cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout
        child = int(process.stdout.readline())
        process.kill()
        process.wait()
        # The pipe ends with the last process that holds it.
        ended, _, _ = select.select([process.stdout], [], [], PATIENCE if not then else 0.5)
        try:
            assert bool(ended) == (not then)
        finally:
            if then:
                os.kill(child, signal.SIGKILL)


def test_a_socket_is_asked_by_an_option_for_what_waits_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux has no option for that, so that another stands for it; the socket stays open."""
    monkeypatch.setattr(sys, "platform", "darwin")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert unacknowledged(ours.fileno()) == 0  # an unknown option is no error
        monkeypatch.setattr(load_shedding, "SO_NWRITE", socket.SO_SNDBUF)
        assert unacknowledged(ours.fileno()) == ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        ours.sendall(b"x")
        assert theirs.recv(1) == b"x"
