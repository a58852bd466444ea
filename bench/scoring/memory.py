"""`python -m bench scoring --memory`: peak memory of the batch scorer, which must not grow with the input."""

import contextlib
import io
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

MEMORY_LIMIT = 1 << 30
LOOK_SECONDS = 0.1
PICTURES = 1024
"""Number of distinct PNG files in a zip."""

Images = npt.NDArray[np.uint8]


def measure(model: Path, digits: Images, count: int, directory: Path, *, zipped: bool) -> int:
    """Measure the peak memory of a run and of one over a hundredth of the images; return 1 if it grows by 1 GiB."""
    peaks = []
    for images in (count // 100, count):
        path = directory / ("images.zip" if zipped else "images-idx3-ubyte")
        (write_zip if zipped else write_idx)(path, digits, images)
        output = directory / f"scores-{images}"
        command = [sys.executable, "-m", "serving.score", "--model", str(model), "--input", str(path)]
        process = subprocess.Popen([*command, "--output", str(output), "--provider", "cpu"])
        ended, found = threading.Event(), [0]
        watcher = threading.Thread(target=_watch_memory, args=(process.pid, ended, found))
        watcher.start()
        started = time.perf_counter()
        code = process.wait()
        elapsed = time.perf_counter() - started
        ended.set()
        watcher.join()
        peaks.append(found[0])
        print(
            f"{images:,} images: exit code {code}, {images / elapsed:,.0f} images/s from start to end, peak "
            f"{found[0] / 2**20:,.0f} MiB with all processes"
        )
        if code:
            return 1
    grown = peaks[1] - peaks[0]
    print(f"a hundred times the images took {grown / 2**20:+,.0f} MiB")
    return int(grown > MEMORY_LIMIT)


def _watch_memory(pid: int, ended: threading.Event, found: list[int]) -> None:
    """Record the peak PSS of a process and its children (shared pages count proportionally)."""
    while not ended.wait(LOOK_SECONDS):
        found[0] = max(found[0], sum(map(_proportional_bytes, _tree(pid))))


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield from _tree(int(child))


def _proportional_bytes(pid: int) -> int:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return 0


def write_idx(path: Path, images: Images, count: int) -> None:
    """Write an IDX file of `count` images, repeating those given."""
    with path.open("wb") as file:
        file.write(b"\0\0\x08\3" + np.array([count, 28, 28], ">u4").tobytes())
        for start in range(0, count, len(images)):
            file.write(images[: count - start].tobytes())


def write_zip(path: Path, images: Images, count: int) -> None:
    """Write a zip of `count` PNG files, repeating the images given."""
    from PIL import Image

    pictures = []
    for pixels in images[:PICTURES]:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            archive.writestr(f"images/{number // 1000:05}/{number:08}.png", pictures[number % len(pictures)])
