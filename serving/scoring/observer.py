"""Callbacks of a run: progress, summary and report are built on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from imagesets.source import Source
from serving.scoring.records import Backend, Chunk, Predictions, Receipt


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """The size of a run's work."""

    rows: int
    """Of the whole input, all shards together."""
    parts: int
    own_rows: int
    """Of this shard."""
    own_parts: int


class Observer:
    """Is notified of a run, in the thread that runs it. Every method does nothing; subclasses override them."""

    def on_backend(self, backend: Backend, sources: Sequence[Source]) -> None:
        """Handle the opened backend and input; `on_start` follows."""

    def on_start(self, totals: Totals, done: Sequence[Receipt]) -> None:
        """Handle the start: how much there is to do, and this shard's parts that earlier runs have finished."""

    def say(self, line: str) -> None:
        """Show the user a line."""

    def tally(self, chunk: Chunk, predictions: Predictions) -> dict[str, Any]:  # noqa: ARG002
        """Return a part's statistics as JSON; its receipt keeps them.

        They must depend on the part alone, not on times or order, so that a run that was killed and resumed, or ran
        on several machines, ends with the same sums. Called from the writing thread.
        """
        return {}

    def on_part(self, receipt: Receipt, seconds: float) -> None:
        """Handle a part that has been written, `seconds` after the one before."""
