"""All workers of this service as one: their numbers added up, and whether any of them answers.

The management process is the only one that looks at another's files. What a worker counted stays
counted when it is gone: its numbers are added to those of all the departed before its file goes.
"""

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from serving.system.memory_directory import is_alive
from serving.telemetry import readiness_report, shared_memory
from serving.telemetry.metrics import FACTS_SUFFIX, HEARTBEAT, SLOTS_SUFFIX, STATE, STATES
from serving.telemetry.readiness_report import ENDING, newest_first, no_model, not_ready

log = logging.getLogger("glyph.management")

EXITED_FILE = "exited.json"
STUCK = "stuck"
STUCK_TICKS = 5
"""For how many ticks a heartbeat stands still before its worker counts as stuck. Ticks and not seconds: in a pause of
all processes (SIGSTOP, `docker pause`) nobody ticks. Both worker classes beat once a second at least."""
Numbers = dict[bytes, npt.NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """A worker that is alive."""

    path: Path
    pid: int
    state: str
    facts: dict[str, Any]
    """What `ModelStore` published; empty while it starts."""

    def numbers(self) -> Numbers:
        """Return all that it has counted."""
        return shared_memory.read(self.path) or {}


@dataclass(slots=True)
class ExitedWorkers:
    """What workers that are gone have counted."""

    numbers: Numbers = field(default_factory=dict)
    exits: Counter[str] = field(default_factory=Counter)
    """How many `ended` because they were asked to, and how many `died`."""
    names: set[str] = field(default_factory=set)
    """Files that are in the sums already, and may still be there after a crash between the two steps."""

    @classmethod
    def read(cls, path: Path) -> "ExitedWorkers":
        """Return what `write` left."""
        try:
            document = orjson.loads(path.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return cls()  # no worker has gone yet
        numbers = {key.encode(): np.array(values) for key, values in document["numbers"].items()}
        return cls(numbers, Counter(document["exits"]), set(document["names"]))

    def write(self, path: Path) -> None:
        """Write it so that a reader finds this or what was there before."""
        document = {
            "numbers": {key.decode(): values.tolist() for key, values in self.numbers.items()},
            "exits": dict(self.exits),
            "names": sorted(self.names),
        }
        staged = path.with_suffix(".new")
        staged.write_bytes(orjson.dumps(document))
        staged.replace(path)

    def add(self, name: str, numbers: Numbers, outcome: str) -> None:
        """Take in the numbers of a worker that is gone."""
        for key, values in numbers.items():
            before = self.numbers.get(key)
            self.numbers[key] = values.copy() if before is None else before + values
        self.exits[outcome] += 1
        self.names.add(name)


class WorkerRegistry:
    """The workers whose files lie in one directory. Safe to ask from several threads."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        self._exited = ExitedWorkers.read(directory / EXITED_FILE)
        self._facts: dict[Path, tuple[object, dict[str, Any]]] = {}
        self._beats: dict[Path, tuple[float, int]] = {}
        """Each worker's heartbeat at the last tick, and for how many ticks it has stood still."""

    def tick(self) -> None:
        """Look whether the workers' hearts beat; to be called once a second."""
        with self._lock:
            found = {}
            for path in self.directory.glob(f"*{SLOTS_SUFFIX}"):
                beat = shared_memory.read_value(path, HEARTBEAT)
                before, still = self._beats.get(path, (0.0, 0))
                found[path] = beat, still + 1 if beat == before else 0
            self._beats = found

    def scan(self) -> tuple[list[Worker], ExitedWorkers]:
        """Return the living, oldest first, and all the dead there have been."""
        with self._lock:
            workers, exited = [], []
            for path in sorted(self.directory.glob(f"*{SLOTS_SUFFIX}"), key=_age):
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
        # Before its model is loaded it has not begun to beat.
        if state in ("ready", "unready") and beat and still >= STUCK_TICKS:
            return STUCK
        return "draining" if state in ("ended", "aborted") else state  # it has not gone yet

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
        if not written:  # what the dead had is room now
            self._write_exited()

    def _write_exited(self) -> bool:
        try:
            self._exited.write(self.directory / EXITED_FILE)
        except OSError as error:
            log.warning("what workers that are gone have counted is kept in memory alone: %s", error)
            return False
        return True

    def _facts_of(self, path: Path) -> dict[str, Any]:
        """Return a worker's facts, read again only where they were written again."""
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
    """Return what `/readyz` answers: ready is whoever has a worker that is.

    Raises:
        NotReadyError: none is; the detail says what they are doing instead.
    """
    states = dict(Counter(worker.state for worker in workers))
    refused = newest_first(each for worker in workers for each in worker.facts.get("refused", ()))
    ready = [worker for worker in workers if worker.state == "ready" and "model" in worker.facts]
    if not ready:
        raise not_ready(*_reason(workers), {"workers": states, "refused": refused})
    newest = max(ready, key=lambda worker: int(worker.facts["model"]["version"]))
    return readiness_report.report(newest.facts | {"refused": refused}) | {"workers": states}


def _reason(workers: list[Worker]) -> tuple[str, str]:
    """Return why no worker is ready, and what helps."""
    by_state = {worker.state: worker for worker in workers}
    if "unready" in by_state:
        reason = by_state["unready"].facts.get("reason", "its worker did not say why")
        remedy = (
            "Publish or restore a version, and wait until it is noticed (GLYPH_RELOAD_SECONDS); "
            "'python -m bundle verify' checks a version."
        )
        return no_model(reason), remedy
    if STUCK in by_state:
        remedy = (
            "Wait: a worker that stays silent is replaced after GLYPH_TIMEOUT_SECONDS. If that comes again, look for "
            "CPU throttling and blocked volumes, or for who stops processes."
        )
        return "the workers are stopped or stuck", remedy
    if "starting" in by_state:
        return "the workers are loading the model", "Wait; if it stays, the service's log says why."
    if "draining" in by_state:
        return ENDING
    return "no worker is running", "Wait until one is started; if it stays, the service's log says why."


def sum_numbers(many: Iterator[Numbers]) -> Numbers:
    """Return the sums of several processes' numbers."""
    sums: Numbers = {}
    for numbers in many:
        for key, values in numbers.items():
            before = sums.get(key)
            sums[key] = values if before is None else before + values
    return sums


def _pid(path: Path) -> int:
    return int(path.name.split("-")[1])


def _age(path: Path) -> int:
    return int(path.stem.split("-")[2])
