"""The worker registry: the state and the counters of all workers, read from shared memory, and their sums.

A worker's counters outlive it: they are added to those of all exited workers before its file is removed.
"""

import contextlib
import logging
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from serving.system.memory_directory import is_alive
from serving.telemetry import readiness_report, shared_memory
from serving.telemetry.metrics import HEARTBEAT, STATE, STATES
from serving.telemetry.readiness_report import ENDING, newest_first, no_model, not_ready
from serving.telemetry.worker_files import COUNTERS_SUFFIX, EXITED_FILE, FACTS_SUFFIX, ExitedWorkers, Numbers

log = logging.getLogger("glyph.management")

STUCK = "stuck"
STUCK_TICKS = 5
"""Ticks without a heartbeat after which a worker is stuck. They are ticks and not seconds, because a pause of all
processes (SIGSTOP, `docker pause`) stops the ticks as well. Both worker classes beat at least once a second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """A living worker."""

    path: Path
    pid: int
    state: str
    facts: dict[str, Any]
    """What its `ModelStore` has published of models and device; empty while it starts."""

    def numbers(self) -> Numbers:
        """Return all that it counts."""
        return shared_memory.read(self.path) or {}


class WorkerRegistry:
    """The workers whose files are in one directory. Its methods are thread-safe."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        self._exited = ExitedWorkers.read(directory / EXITED_FILE)
        self._facts: dict[Path, tuple[object, dict[str, Any]]] = {}
        self._beats: dict[Path, tuple[float, int]] = {}
        """By file: the heartbeat at the last tick, and the ticks since it changed."""

    def tick(self) -> None:
        """Compare heartbeats with the last tick. Call this once a second."""
        with self._lock:
            found = {}
            for path in self.directory.glob(f"*{COUNTERS_SUFFIX}"):
                beat = shared_memory.read_value(path, HEARTBEAT)
                before, still = self._beats.get(path, (0.0, 0))
                found[path] = beat, still + 1 if beat == before else 0
            self._beats = found

    def scan(self) -> tuple[list[Worker], ExitedWorkers]:
        """Return the living workers, oldest first, and the sums of those that have exited."""
        with self._lock:
            workers, exited = [], []
            for path in sorted(self.directory.glob(f"*{COUNTERS_SUFFIX}"), key=_age):
                if path.name in self._exited.names or not is_alive(path):
                    exited.append(path)
                    continue
                facts = self._facts_of(path)
                workers.append(Worker(path=path, pid=_pid(path), state=self._state_of(path), facts=facts))
            if exited:
                self._remove_exited(exited)
            return workers, self._exited

    def _state_of(self, path: Path) -> str:
        state = STATES[int(shared_memory.read_value(path, STATE))]
        beat, still = self._beats.get(path, (0.0, 0))
        # A worker does not beat before its model is loaded.
        if state in ("ready", "unready") and beat and still >= STUCK_TICKS:
            return STUCK
        return "draining" if state in ("ended", "aborted") else state  # it has not exited yet

    def _remove_exited(self, exited: list[Path]) -> None:
        for path in exited:
            if path.name not in self._exited.names:
                outcome = "ended" if STATES[int(shared_memory.read_value(path, STATE))] == "ended" else "died"
                self._exited.add(path.name, shared_memory.read(path) or {}, outcome)
        written = self._write_exited()
        for path in exited:
            with contextlib.suppress(OSError):
                path.with_suffix(FACTS_SUFFIX).unlink(missing_ok=True)
                path.unlink()
                self._exited.names.discard(path.name)
            self._facts.pop(path, None)
        if not written:  # the removed files leave room now
            self._write_exited()

    def _write_exited(self) -> bool:
        try:
            self._exited.write(self.directory / EXITED_FILE)
        except OSError as error:
            log.warning("the counters of exited workers are kept in memory only: %s", error)
            return False
        return True

    def _facts_of(self, path: Path) -> dict[str, Any]:
        """Return what a worker has published, read again only if its file has changed."""
        facts = path.with_suffix(FACTS_SUFFIX)
        try:
            stat = facts.stat()
            seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            known = self._facts.get(path)
            if known is None or known[0] != seen:
                known = self._facts[path] = (seen, orjson.loads(facts.read_bytes()))
        except (OSError, orjson.JSONDecodeError):
            return {}
        return known[1]


def report(workers: list[Worker]) -> dict[str, Any]:
    """Return the response of `/readyz`: the service is ready if one of its workers is.

    Raises:
        NotReadyError: no worker is ready; the detail says why.
    """
    states = dict(Counter(worker.state for worker in workers))
    refused = newest_first(each for worker in workers for each in worker.facts.get("refused", ()))
    ready = [worker for worker in workers if worker.state == "ready" and "model" in worker.facts]
    if not ready:
        raise not_ready(*_reason(workers), {"workers": states, "refused": refused})
    newest = max(ready, key=lambda worker: int(worker.facts["model"]["version"]))
    return readiness_report.report(newest.facts | {"refused": refused}) | {"workers": states}


def _reason(workers: list[Worker]) -> tuple[str, str]:
    """Return why no worker is ready, and the remedy."""
    by_state = {worker.state: worker for worker in workers}
    if "unready" in by_state:
        reason = by_state["unready"].facts.get("reason", "its worker did not say why")
        remedy = (
            "Publish a version ('python -m training fit' trains one) or restore one, and wait until it is noticed "
            "(GLYPH_RELOAD_SECONDS); "
            "'python -m bundle verify' checks a version."
        )
        return no_model(reason), remedy
    if STUCK in by_state:
        remedy = (
            "Wait: a worker that stays silent is replaced after GLYPH_TIMEOUT_SECONDS. If that happens again, look for "
            "CPU throttling, for blocked volumes, and for what stops processes."
        )
        return "the workers are stopped or stuck", remedy
    if "starting" in by_state:
        return "the workers are loading the model", "Wait; if it stays so, see the service's log."
    if "draining" in by_state:
        return ENDING
    return "no worker is running", "Wait until one is started; if none is, see the service's log."


def _pid(path: Path) -> int:
    return int(path.name.split("-")[1])


def _age(path: Path) -> int:
    return int(path.stem.split("-")[2])
