"""Watch a run for its user: show how far it is, remember what each part is like, and say at the end what was found."""

import datetime as dt
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bundle.errors import BundleError
from bundle.manifest import Manifest
from bundle.repository import resolve
from serving.scoring import report
from serving.scoring.engines import Engine
from serving.scoring.labels import open_labels
from serving.scoring.observer import Receipt, Totals
from serving.scoring.progress import Meter
from serving.scoring.records import Answers, Chunk
from serving.scoring.settings import ScoreSettings
from serving.scoring.summary import Summary, Tallier, lines


class Watch:
    """The observer of a run that a user started.

    Raises:
        InputError: the labels cannot be read.
    """

    def __init__(
        self,
        settings: ScoreSettings,
        engine: Engine,
        *,
        manifest: Manifest | None,
        meter: Meter | None = None,
        show: Callable[[str], None] = print,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._meter = meter or Meter()
        self._show = show
        self._clock = clock
        self._labels = None if settings.labels is None else open_labels(settings.labels, engine.classes)
        self._reference = None if manifest is None else manifest.reference
        self._tallier = Tallier(classes=engine.classes, reference=self._reference, labels=self._labels)
        self.summary = Summary(classes=engine.classes, reference=self._reference, labels=self._labels)
        self._started = clock()
        self._rows_now = 0

    def begin(self, totals: Totals, done: Sequence[Receipt]) -> None:
        """Start the clock, and count what earlier lives of the run have done.

        Raises:
            InputError: there is not one label for each row.
        """
        if self._labels is not None:
            self._labels.check(totals.rows)
        for receipt in done:
            self.summary.add(receipt)
        self._started = self._clock()
        if not self._settings.quiet:
            if done:
                self._meter.say(f"going on: {len(done):,} of {totals.own_parts:,} parts are done already")
            self._meter.begin(totals.own_rows, self.summary.rows, self.summary.errors)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if not self._settings.quiet:
            self._meter.say(line)

    def tally(self, chunk: Chunk, answers: Answers) -> dict[str, Any]:
        """Return what the summary needs to know of a part."""
        return self._tallier.of(chunk, answers)

    def on_part(self, receipt: Receipt, seconds: float) -> None:  # noqa: ARG002  the meter has its own clock
        """Count a part."""
        self.summary.add(receipt)
        self._rows_now += receipt.rows
        if not self._settings.quiet:
            self._meter.advance(receipt.rows, receipt.errors)

    def end(self, facts: Mapping[str, object]) -> None:
        """Take the bar away, print the summary and write the report; to be called when a run is whole.

        Args:
            facts: more of the run for the report's last table.

        Raises:
            WriteError: the report cannot be written.
        """
        seconds = self._clock() - self._started
        self.close()
        if not self._settings.quiet:
            for line in lines(self.summary, seconds=seconds, rows_now=self._rows_now):
                self._show(line)
        if self._settings.report is not None:
            content = report.render(
                self.summary,
                title=f"Scored: {', '.join(self._settings.input)}"[:120],
                when=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
                seconds=seconds,
                rows_now=self._rows_now,
                facts={
                    "model": self._engine.digest,
                    **self._engine.identity,
                    "input": ", ".join(self._settings.input),
                    "output": self._settings.output,
                    **facts,
                },
            )
            report.write(self._settings.report, content)
            self.say(f"report: {self._settings.report}")

    def close(self) -> None:
        """Take the bar away, whatever happened."""
        self._meter.end()


def manifest_of(settings: ScoreSettings, digest: str) -> Manifest | None:
    """Return the manifest of the model that a service answers with, if this machine has it, for its reference."""
    try:
        found = resolve(settings.model, settings.version).manifest
    except BundleError:
        return None
    return found if found.digest == digest else None
