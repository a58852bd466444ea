"""The workers' files in the service's directory in shared memory: their names, and the sums of what they count.

A worker's file holds its counters, and `exited.json` the sums of the workers that have exited, which the management
process (`serving/management/workers.py`) adds a worker to before it removes the worker's file.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson

from serving.telemetry import shared_memory

COUNTERS_SUFFIX, FACTS_SUFFIX = ".counters", ".json"
EXITED_FILE = "exited.json"
Numbers = dict[bytes, npt.NDArray[np.float64]]
"""Counters, gauges and histograms, by the JSON of a metric's name and labels."""


@dataclass(slots=True)
class ExitedWorkers:
    """The sums of all exited workers, which are kept in a file."""

    numbers: Numbers = field(default_factory=dict)
    exits: Counter[str] = field(default_factory=Counter)
    """Number of workers by outcome: `ended` on request, or `died`."""
    names: set[str] = field(default_factory=set)
    """Files that are part of the sums; after a crash before their removal they may still exist."""

    @classmethod
    def read(cls, path: Path) -> "ExitedWorkers":
        """Read what `write` has written; return empty sums if there is nothing."""
        try:
            document = orjson.loads(path.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return cls()  # no worker has exited yet
        numbers = {key.encode(): np.array(values) for key, values in document["numbers"].items()}
        return cls(numbers, Counter(document["exits"]), set(document["names"]))

    def write(self, path: Path) -> None:
        """Replace the file atomically."""
        document = {
            "numbers": {key.decode(): values.tolist() for key, values in self.numbers.items()},
            "exits": dict(self.exits),
            "names": sorted(self.names),
        }
        staged = path.with_suffix(".new")
        staged.write_bytes(orjson.dumps(document))
        staged.replace(path)

    def add(self, name: str, numbers: Numbers, outcome: str) -> None:
        """Add an exited worker."""
        for key, values in numbers.items():
            before = self.numbers.get(key)
            self.numbers[key] = values.copy() if before is None else before + values
        self.exits[outcome] += 1
        self.names.add(name)


def numbers_of_others(own: Path) -> Numbers:
    """Return the sums of all workers but one, those that have exited included.

    Args:
        own: the file of the worker that asks. It must not be opened: closing it would release the worker's lock.
    """
    others = {
        path.name: shared_memory.read(path) for path in own.parent.glob(f"*{COUNTERS_SUFFIX}") if path != own
    }
    exited = ExitedWorkers.read(own.parent / EXITED_FILE)  # afterwards, so that none is missed in between
    living = (numbers or {} for name, numbers in others.items() if name not in exited.names)
    return sum_numbers([exited.numbers, *living])


def sum_numbers(many: Iterable[Numbers]) -> Numbers:
    """Return the sums over several processes."""
    sums: Numbers = {}
    for numbers in many:
        for key, values in numbers.items():
            before = sums.get(key)
            sums[key] = values if before is None else before + values
    return sums
