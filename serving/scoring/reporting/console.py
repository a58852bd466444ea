"""The observer of a run that a user started: progress on the standard error, the summary on the standard output."""

import datetime as dt
import time
from collections.abc import Callable, Sequence
from typing import Any

from imagesets.source import Source
from serving.scoring.observer import Observer, Totals
from serving.scoring.output.manifest import Outcome
from serving.scoring.records import Backend, Chunk, Predictions, Receipt
from serving.scoring.reporting import report
from serving.scoring.reporting.labels import Labels
from serving.scoring.reporting.part_statistics import PartStatistics, open_statistics, reference_of
from serving.scoring.reporting.progress import ProgressMeter
from serving.scoring.reporting.summary import LabelsIdentity, Summary, labels_identity, summary_lines
from serving.scoring.settings import ScoreSettings


class ConsoleObserver(Observer):
    """Shows progress, prints the summary, writes the report."""

    def __init__(
        self,
        settings: ScoreSettings,
        *,
        meter: ProgressMeter | None = None,
        show: Callable[[str], None] = print,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._meter = meter or ProgressMeter()
        self._show = show
        self._clock = clock
        self._statistics: PartStatistics | None = None
        self._started = clock()
        self._rows_now = 0

    def on_backend(self, backend: Backend, sources: Sequence[Source]) -> None:
        """Read the labels, which need the classes and the rows.

        Raises:
            DataError: the labels cannot be read.
        """
        self._statistics = open_statistics(self._settings, backend, sources)

    def on_start(self, totals: Totals, done: Sequence[Receipt]) -> None:
        """Start the progress display."""
        self._started = self._clock()
        if self._settings.quiet:
            return
        if done:
            self._meter.say(f"resuming: {len(done):,} of {totals.own_parts:,} parts are complete")
        rows, errors = sum(receipt.rows for receipt in done), sum(receipt.errors for receipt in done)
        self._meter.start(totals.own_rows, rows, errors)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if not self._settings.quiet:
            self._meter.say(line)

    def tally(self, chunk: Chunk, predictions: Predictions) -> dict[str, Any]:
        """Return a part's statistics."""
        assert self._statistics is not None  # noqa: S101  `on_backend` is called first
        return self._statistics.compute(chunk, predictions)

    def on_part(self, receipt: Receipt, seconds: float) -> None:  # noqa: ARG002  the meter has its own clock
        """Update the progress."""
        self._rows_now += receipt.rows
        if not self._settings.quiet:
            self._meter.advance(receipt.rows, receipt.errors)

    def on_end(self, outcome: Outcome) -> None:
        """Print the summary and write the report.

        Raises:
            WriteError: the report cannot be written.
        """
        seconds = self._clock() - self._started
        self.close()
        summary = self._summary(outcome)
        if not self._settings.quiet:
            for line in summary_lines(summary, seconds=seconds, rows_now=self._rows_now):
                self._show(line)
        if self._settings.report is not None:
            details = {"output": self._settings.output, **outcome.manifest.fingerprint}
            content = report.render(
                summary,
                title=f"Scored: {self._settings.output.name}"[:120],
                when=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
                seconds=seconds,
                rows_now=self._rows_now,
                details=details,
            )
            report.write(self._settings.report, content)
            self.say(f"report: {self._settings.report}")

    def close(self) -> None:
        """Remove the bar; also after an error."""
        self._meter.stop()

    @property
    def _labels(self) -> Labels | None:
        return None if self._statistics is None else self._statistics.labels

    def _summary(self, outcome: Outcome) -> Summary:
        """Return the sum over all parts; `merge`, which opens no backend, has only manifest and receipts."""
        if self._statistics is None:
            reference = reference_of(self._settings, outcome.manifest.model)
            given = labels_identity(outcome.receipts)
        else:
            labels, reference = self._statistics.labels, self._statistics.reference
            given = None if labels is None else LabelsIdentity(labels.where, labels.sha256)
        summary = Summary(classes=outcome.manifest.classes, reference=reference, labels=given)
        for receipt in outcome.receipts:
            summary.add(receipt)
        return summary
