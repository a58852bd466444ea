"""What counting in shared memory costs: Glyph's own metrics beside `prometheus-client`'s multiprocess mode.

    python -m bench metrics --model models/mnist

Each worker process records the same requests on both sides. Ours is the service's recorder. The library's has the same
names, labels and buckets, made of the catalogue, and keeps the children of its labels; like ours it takes the
statistics of 256 images together, and the bins of drift are a counter there. Printed are medians over interleaved
rounds, in CPU time: what is recorded of an image, and what one scrape takes, from the workers' files to the text, with
the files that lie there then and their memory. Our scrape also tells the living from the dead, and has what the
kernel says of the processes and the drift. Above 1 a ratio is in favour of ours.

Whenever workers have come or gone, one by SIGKILL, the two texts are compared, sample by sample, and with the number of
requests that were recorded; the exit code is 1 if one differs.
"""

import argparse
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from math import isclose, isnan
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from bench.serving.metrics_worker import DRIFT_BINS, FAMILIES, LOOP_IMAGES, ROUTE, Task, work
from bench.support.management import Samples, parsed
from bundle import drift
from bundle.errors import BundleError
from bundle.repository import Bundle, resolve
from serving.management.prometheus import WorkersCollector
from serving.management.workers import WorkerRegistry

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  where the service puts its own
ALIVE = (1, 4, 16)
PSI = "glyph_drift_psi"
SUFFIX = re.compile(r"_(bucket|count|sum)$")
SHOWN = 5
"""Most differences that are told at a time."""

TASKS = {
    "one image in a request, one request in a batch": Task(1, 1),
    "one image in a request, 64 requests in a batch": Task(64, 1),
    "64 images in a request, one request in a batch": Task(1, 64),
}


class Service:
    """Workers that record on both sides, and who scrapes them."""

    def __init__(self, directory: Path, bundle: Bundle) -> None:
        self._bundle = bundle
        self._directories = directory / "ours", directory / "library"
        for each in self._directories:
            each.mkdir()
        collector = WorkersCollector(
            WorkerRegistry(self._directories[0]), 3600, {"management": (os.getpid(),)}, None
        )
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self._directories[1]))
        self._collectors = collector, registry
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(["bench.serving.metrics_worker"])
        self._workers: list[tuple[BaseProcess, Connection[Any, Any]]] = []
        self._requests = 0
        self.gone = 0

    @property
    def alive(self) -> int:
        """How many workers there are."""
        return len(self._workers)

    def start(self) -> None:
        """Start a worker and have it record."""
        pipe, far = self._context.Pipe()
        arguments = (far, *map(str, self._directories), self._bundle.path)
        process = self._context.Process(target=work, args=arguments, daemon=True)
        process.start()
        far.close()
        pipe.recv()
        self._workers.append((process, pipe))
        self.record(Task(1, 1))

    def record(self, task: Task) -> list[tuple[float, float]]:
        """Have the newest worker record and return the CPU seconds for each image, ours and the library's, by round."""
        _, pipe = self._workers[-1]
        pipe.send(task)
        self._requests += LOOP_IMAGES // task.images * task.rounds
        found: list[tuple[float, float]] = pipe.recv()
        return found

    def end(self, *, kill: bool = False) -> None:
        """End the newest worker, and tell the library as its documentation asks to."""
        process, pipe = self._workers.pop()
        if kill:
            process.kill()
        else:
            pipe.send(None)
        process.join()
        pipe.close()
        mark_process_dead(process.pid, str(self._directories[1]))
        self.gone += 1

    def scrape(self, rounds: int) -> tuple[float, float]:
        """Return the CPU seconds of a scrape, ours and the library's."""
        found: tuple[list[float], list[float]] = [], []
        for number in range(rounds):
            for side in (0, 1)[:: 1 - 2 * (number % 2)]:
                started = time.process_time()
                generate_latest(self._collectors[side])
                found[side].append(time.process_time() - started)
        return statistics.median(found[0]), statistics.median(found[1])

    def files(self) -> list[tuple[int, int]]:
        """Return how many files lie there and the bytes that they take, of each side."""
        found = []
        for directory in self._directories:
            sizes = [512 * path.stat().st_blocks for path in directory.iterdir()]
            found.append((len(sizes), sum(sizes)))
        return found

    def differences(self) -> list[str]:
        """Return a sentence for each sample that differs, and for requests that are missing."""
        ours, library = (parsed(generate_latest(each).decode()) for each in self._collectors)
        library |= _indices(library, self._bundle)
        ours = {key: value for key, value in ours.items() if _compared(key[0])}
        library = {key: value for key, value in library.items() if _compared(key[0])}
        labels = {"route": ROUTE, "method": "POST", "status": "200"}
        answered = ours.get(("glyph_http_requests_total", frozenset(labels.items())))
        told = [
            f"{key[0]}{dict(key[1])}: ours {ours.get(key)}, the library's {library.get(key)}"
            for key in sorted(ours.keys() | library.keys(), key=str)
            if not _same(ours.get(key), library.get(key))
        ]
        if answered != self._requests:
            told.insert(0, f"{self._requests} requests were recorded, and ours are {answered}")
        return told

    def close(self) -> None:
        """End all workers."""
        while self._workers:
            self.end()


def _indices(samples: Samples, bundle: Bundle) -> Samples:
    """Return the drift that the library's counts amount to, which Glyph computes when it is scraped."""
    version, reference = str(bundle.version), drift.references(bundle.manifest.reference)
    counts = {feature: np.zeros(len(of)) for feature, of in reference.items()}
    places = {label: place for place, label in enumerate(bundle.manifest.classes)}
    for (name, labels), value in samples.items():
        of = dict(labels)
        if name == DRIFT_BINS:
            counts[of["feature"]][int(of["bin"])] += value
        elif name == "glyph_predictions_total":
            counts["class"][places[of["class"]]] += value
    return {
        (PSI, frozenset({"feature": feature, "version": version}.items())): drift.psi(counts[feature], of)
        for feature, of in reference.items()
    }


def _compared(name: str) -> bool:
    return name == PSI or SUFFIX.sub("", name) in FAMILIES


def _same(one: float | None, other: float | None) -> bool:
    """Tell whether both are there and equal, but for the order of the additions; or neither is a number."""
    if one is None or other is None:
        return False
    return isclose(one, other, rel_tol=1e-9) or (isnan(one) and isnan(other))


def main(arguments: list[str]) -> int:
    """Print the tables and return the exit code; 1 if the sides differ."""
    parser = argparse.ArgumentParser(
        prog="python -m bench metrics",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model", type=Path, default=Path("models/mnist"), help="directory of a published model"
    )
    parser.add_argument("--rounds", type=int, default=31, help="how often each side takes its turn")
    parser.add_argument("--workers", type=int, default=16, help="most workers at a time, more than 1")
    parser.add_argument("--gone", type=int, default=100, help="how many workers have gone in the end")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.workers < 2:
        parser.error("at least 1 round and 2 workers, of which one is killed and one stays")
    try:
        bundle = resolve(options.model)
    except (BundleError, OSError) as error:
        print(f"error: {error}; 'make train' publishes a model, --model names another", file=sys.stderr)
        return 2
    parent = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=parent) as directory,
        closing(Service(Path(directory), bundle)) as service,
    ):
        service.start()
        _recording(service, options.rounds)
        return _scraping(service, options)


def _recording(service: Service, rounds: int) -> None:
    print(f"{'us of CPU for each image':46}{'ours':>9}{'library':>9}{'ratio':>7}")
    for name, task in TASKS.items():
        found = service.record(task._replace(rounds=rounds))
        ours, library = (statistics.median(side) * 1e6 for side in zip(*found, strict=True))
        print(f"{name:46}{ours:9.2f}{library:9.2f}{library / ours:7.1f}", flush=True)


def _scraping(service: Service, options: argparse.Namespace) -> int:
    """Print a row for each number of workers, and return the exit code."""
    head = f"{'ms of CPU for a scrape':30}{'ours':>9}{'library':>9}{'ratio':>7}"
    print(f"\n{head}   {'ours':>19}   {'library':>19}")
    code = 0
    for title in _stages(service, options.workers, options.gone):
        differences = service.differences()
        ours, library = (seconds * 1e3 for seconds in service.scrape(options.rounds))
        files = "".join(f"   {count:4} files,{size >> 10:5} KiB" for count, size in service.files())
        print(f"{title:30}{ours:9.2f}{library:9.2f}{library / ours:7.1f}{files}", flush=True)
        if differences:
            code = 1
            print("\n".join(["error: not what was recorded:", *differences[:SHOWN]]), file=sys.stderr)
    return code


def _stages(service: Service, most: int, gone: int) -> Iterator[str]:
    """Have workers come and go, and say at times what there is now."""
    for count in (*[few for few in ALIVE if few < most], most):
        while service.alive < count:
            service.start()
        yield f"{count} alive"
    service.end(kill=True)
    yield f"{service.alive} alive, 1 killed"
    while service.alive > 1:
        service.end()
    while service.gone < gone:
        service.start()
        service.end()
    yield f"1 alive, {service.gone} gone"
