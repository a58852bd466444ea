"""Memory and stopping time of each kind of pod, for the requests, limits and grace periods in k8s/.

    python -m bench footprint

Memory is the peak of the proportional set size (PSS, proc(5)) summed over all processes, which counts shared pages
once. Training runs a preset until it has checkpoints, then gets SIGTERM; the grace period must cover the time until
it exits. The service has as many workers as a pod's CPU limit gives, under a load of image files; scoring reads as
many image files as a pod's shard has.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bench.memory.resident import children
from bench.serving.probes import finish, loading
from bench.support.options import bench_parser

PRESETS = ("default", "record")
TRAIN_SECONDS = 45
CHECKPOINT_SECONDS = 10
WORKERS = 2
LOAD_SECONDS = 15
EVERY_SECONDS = 0.25
IMAGES = 20_000


class Watched:
    """Samples the memory of a process and its descendants in a thread."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self.most = 0
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def end(self) -> int:
        """Stop sampling, and return the peak in MiB."""
        self._over.set()
        self._thread.join()
        return self.most >> 10

    def _look(self) -> None:
        while not self._over.wait(EVERY_SECONDS):
            self.most = max(self.most, sum(map(_pss, _family(self._pid))))


def _family(pid: int) -> list[int]:
    try:
        below = children(pid)
    except OSError:  # the process has exited
        return []
    return [pid, *(one for child in below for one in _family(child))]


def _pss(pid: int) -> int:
    """Return a process's PSS in KiB; 0 if it has exited."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))


def train(preset: str, directory: Path) -> None:
    """Train until there are checkpoints, then send SIGTERM as an eviction does."""
    command = [sys.executable, "-m", "training", "fit", "--preset", preset]
    places = ["--models", str(directory / "models"), "--runs", str(directory / "runs"), "--name", "mnist"]
    often = ["--checkpoint-seconds", str(CHECKPOINT_SECONDS)]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([*command, *places, *often], stderr=log, stdout=log)
    watched = Watched(process.pid)
    started = time.monotonic()
    while process.poll() is None and (
        time.monotonic() - started < TRAIN_SECONDS or not _checkpoints(directory)
    ):
        time.sleep(EVERY_SECONDS)
    bytes_ = max((path.stat().st_size for path in _checkpoints(directory)), default=0)
    if process.poll() is None:
        stopped = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait()
        ended = f"ended {time.monotonic() - stopped:.1f} s after SIGTERM with {code}"
    else:
        ended = f"done after {time.monotonic() - started:.0f} s with {process.returncode}"
    size = f", checkpoints of {bytes_ / 1e6:.0f} MB" if bytes_ else ""
    print(f"training, {preset}: {watched.end()} MiB{size}, {ended}", flush=True)


def _checkpoints(directory: Path) -> list[Path]:
    return list(directory.glob("runs/mnist/checkpoint-*.pt"))


def serve(directory: Path) -> None:
    """Serve under a closed-loop load of one image file."""
    from bench.support.pictures import a_digit, png
    from bench.support.processes import free_port, running

    image = png(a_digit())
    model = directory / "models" / "mnist"
    with running(
        directory, until="/readyz", model=model, workers=WORKERS, management_port=free_port()
    ) as service:
        watched = Watched(service.process.pid)
        time.sleep(2 * EVERY_SECONDS)
        idle = watched.most >> 10
        with loading(service.port, image, seconds=LOAD_SECONDS) as asking:
            finish(asking)
        print(f"serving, {WORKERS} workers: {idle} MiB idle, {watched.end()} MiB under load", flush=True)


def score(directory: Path) -> None:
    """Score a folder of image files."""
    from bench.support.pictures import a_digit, png

    pictures = directory / "input"
    pictures.mkdir()
    data = png(a_digit())
    for number in range(IMAGES):
        (pictures / f"{number:06d}.png").write_bytes(data)
    command = [sys.executable, "-m", "serving.score", "--input", str(pictures), "--output"]
    options = [str(directory / "scores"), "--model", str(directory / "models" / "mnist"), "--provider", "cpu"]
    process = subprocess.Popen([*command, *options, "--quiet", "--workers", str(WORKERS)])
    watched = Watched(process.pid)
    code = process.wait()
    print(f"scoring, {WORKERS} decoding processes, {IMAGES} files: {watched.end()} MiB, ended with {code}")


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code."""
    parser = bench_parser("footprint", __doc__)
    parser.parse_args(arguments)
    print(f"{os.cpu_count()} CPUs")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for preset in reversed(PRESETS):
            train(preset, directory)
            for path in _checkpoints(directory):
                path.unlink()
        steps: list[Callable[[Path], None]] = [serve, score]
        for step in steps:
            step(directory)
    return 0
