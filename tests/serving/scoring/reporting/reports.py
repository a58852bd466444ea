"""A page about a run that never was, with all that can be on it."""

from pathlib import Path

import numpy as np

from bundle.manifest import Histogram, Reference
from serving.scoring.reporting import report
from serving.scoring.reporting.labels import open_labels
from serving.scoring.reporting.part_statistics import PartStatistics
from serving.scoring.reporting.summary import LabelsIdentity, Summary
from tests.serving.scoring.parts import a_chunk, a_receipt, numbered, some_images, some_predictions

NASTY = (
    "<script>alert(1)</script>",
    "a & b",
    "\"quoted\" 'twice'",
    "שלום",
    "turned \u202eback",
    "$title ${sheet}",
)
COUNT = 300


def a_page(tmp_path: Path, classes: tuple[str, ...], rows: list[str]) -> tuple[Summary, str]:
    """Return a summary with all that can be in it, and its page."""
    bins = Histogram(edges=(0, 127, 256), counts=(5, 5))
    reference = Reference(
        mean_ink=bins, border_brightness=bins, confidence=bins, predicted=(1,) * len(classes)
    )
    true = tmp_path / "labels.npy"
    np.save(true, np.random.default_rng(2).integers(0, len(classes), COUNT))
    labels = open_labels(str(true), classes, numbered(COUNT))
    chunk = a_chunk(some_images(COUNT), rows=rows, errors={7: "no image: <b>"}, warnings={})
    tally = PartStatistics(classes=classes, reference=reference, labels=labels).compute(
        chunk, some_predictions(COUNT, classes)
    )
    given = LabelsIdentity(labels.where, labels.sha256)
    summary = Summary(classes=classes, reference=reference, labels=given)
    summary.add(a_receipt(0, chunk, tally))
    page = report.render(
        summary, title="Scored: <x>", when="now", seconds=2.0, rows_now=COUNT, details={"input <a>": "b & c"}
    )
    return summary, page
