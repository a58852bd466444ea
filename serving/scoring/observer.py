"""Who watches a run: progress, summary and report are made of what an observer is told."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from serving.scoring.records import Backend, Chunk, Predictions, Receipt


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """How much a run has to do."""

    rows: int
    """Of the whole input, all shards together."""
    parts: int
    own_rows: int
    """Of this shard."""
    own_parts: int


class Observer(Protocol):
    """Is told of a run, from the thread that runs it."""

    def on_backend(self, backend: Backend) -> None:
        """Note who answers; then comes `on_start`."""
        ...

    def on_start(self, totals: Totals, done: Sequence[Receipt]) -> None:
        """Note how much is to be done, and this shard's parts that earlier lives of the run have done."""
        ...

    def say(self, line: str) -> None:
        """Take a line for the user."""
        ...

    def tally(self, chunk: Chunk, predictions: Predictions) -> dict[str, Any]:
        """Return what should be remembered of a part, as JSON: it is kept in the part's receipt.

        It must follow from the part alone (no times, no order), so that a run that was killed and
        runs again, or ran on many machines, ends with the same sums. Called by a thread of its own.
        """
        ...

    def on_part(self, receipt: Receipt, seconds: float) -> None:
        """Note a part that was just written, and the seconds since the last one."""
        ...


class NullObserver:
    """Watches nothing."""

    def on_backend(self, backend: Backend) -> None:
        """Do nothing."""

    def on_start(self, totals: Totals, done: Sequence[Receipt]) -> None:
        """Do nothing."""

    def say(self, line: str) -> None:
        """Do nothing."""

    def tally(self, chunk: Chunk, predictions: Predictions) -> dict[str, Any]:  # noqa: ARG002
        """Remember nothing."""
        return {}

    def on_part(self, receipt: Receipt, seconds: float) -> None:
        """Do nothing."""
