"""The sum of the parts' statistics, and the summary that is printed.

Summary.add(receipt)           adds a part, in any order
summary_lines(summary, ...)    the printed lines
"""

import base64
import heapq
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bundle import drift
from bundle.manifest import IMAGE_SIZE, Reference
from common.html.confusion_matrix import Confusion
from imagesets.labels import UNKNOWN
from serving.scoring.records import Images, Receipt
from serving.scoring.reporting.part_statistics import ERRORS_KEPT, LEAST_KEPT, LOW_CONFIDENCE
from serving.scoring.reporting.progress import format_seconds

ERRORS_SHOWN = 20
TEXT_CLASSES = 20
"""Largest number of classes for which the confusion matrix is printed."""
PSI_MODERATE, PSI_LARGE = 0.1, 0.25
"""Usual thresholds of the population stability index, see `bundle.drift`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LeastConfident:
    """One of the least confident predictions, with its image."""

    source: str
    row: str
    index: int
    """The predicted class."""
    confidence: float
    second: int
    """The runner-up class."""
    second_confidence: float
    true: int
    """The true label; `UNKNOWN` if there is none."""
    pixels: bytes
    """784 bytes, compressed by zlib."""

    def image(self) -> Images:
        """Return `uint8[28, 28]`."""
        return np.frombuffer(zlib.decompress(self.pixels), np.uint8).reshape(IMAGE_SIZE, IMAGE_SIZE)


@dataclass(frozen=True, slots=True)
class LabelsIdentity:
    """Identifies the labels that parts were compared with."""

    where: str
    sha256: str


def labels_identity(receipts: Iterable[Receipt]) -> LabelsIdentity | None:
    """Return the labels of the first part that was compared with labels."""
    for receipt in receipts:
        if compared := receipt.tally.get("compared"):
            return LabelsIdentity(compared["where"], compared["sha256"])
    return None


@dataclass(slots=True)
class Summary:
    """The sum of the parts' statistics."""

    classes: Sequence[str]
    reference: Reference | None = None
    labels: LabelsIdentity | None = None
    rows: int = 0
    errors: int = 0
    warned: int = 0
    low_confidence: int = 0
    confidence: float = 0.0
    counts: npt.NDArray[np.int64] = field(init=False)
    """Number of predictions by class."""
    features: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    """Histograms over the reference's bins."""
    unmeasured: int = 0
    """Parts without histograms, or with other bins."""
    confusion: Confusion = field(init=False)
    uncompared: int = 0
    """Parts that an earlier run compared with other labels or none."""
    _errors: list[tuple[int, int, tuple[str, str, str]]] = field(default_factory=list)
    _least: list[tuple[float, int, int, LeastConfident]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start at zero."""
        self.counts = np.zeros(len(self.classes), np.int64)
        self.confusion = Confusion(self.classes)

    def add(self, receipt: Receipt) -> None:
        """Add a part."""
        tally: Mapping[str, Any] = receipt.tally
        self.rows += receipt.rows
        self.errors += receipt.errors
        self.warned += tally["warned"]
        self.low_confidence += tally["doubtful"]
        self.confidence += tally["confidence"]
        self.counts += np.array(tally["classes"], np.int64)
        faults = [(receipt.part, at, tuple(fault)) for at, fault in enumerate(tally["faults"])]
        self._errors = heapq.nsmallest(ERRORS_SHOWN, [*self._errors, *faults])
        self._add_least(receipt.part, tally["least"])
        if self.reference is not None:
            self._add_features(tally)
        if self.labels is not None:
            compared = tally.get("compared")
            if compared and compared["sha256"] == self.labels.sha256:
                for true, guess, count in compared["confusion"]:
                    self.confusion.counts[true, guess] += count
            else:
                self.uncompared += 1

    def _add_least(self, part: int, least: Sequence[Sequence[Any]]) -> None:
        entries = list(self._least)
        for at, (source, row, index, confidence, second, second_confidence, true, packed) in enumerate(least):
            example = LeastConfident(
                source=source,
                row=row,
                index=index,
                confidence=confidence,
                second=second,
                second_confidence=second_confidence,
                true=true if self.labels is not None else UNKNOWN,
                pixels=base64.b64decode(packed),
            )
            entries.append((confidence, part, at, example))
        self._least = heapq.nsmallest(LEAST_KEPT, entries, key=lambda entry: entry[:3])

    def _add_features(self, tally: Mapping[str, Any]) -> None:
        references = drift.references(self.reference) if self.reference is not None else {}
        for feature in ("mean_ink", "border_brightness"):
            counts = np.array(tally.get(feature, ()), np.float64)
            if len(counts) != len(references[feature]):
                self.unmeasured += 1
                return
        for feature in ("mean_ink", "border_brightness"):
            self.features[feature] = self.features.get(feature, 0) + np.array(tally[feature], np.float64)

    @property
    def scored(self) -> int:
        """Number of rows with a prediction."""
        return self.rows - self.errors

    @property
    def least(self) -> list[LeastConfident]:
        """The least confident predictions, lowest first."""
        return [entry[3] for entry in self._least]

    @property
    def first_errors(self) -> list[tuple[str, str, str]]:
        """The first errors: source, row, reason."""
        return [fault for _, _, fault in self._errors]

    def drift(self) -> dict[str, float]:
        """Return the population stability index by feature; empty without a reference.

        NaN below 100 images. Pixel features are measured on a sample, classes on all images.
        """
        if self.reference is None or not self.features:
            return {}
        references = drift.references(self.reference)
        observed = self.features | {"class": self.counts.astype(np.float64)}
        return {feature: drift.psi(observed[feature], references[feature]) for feature in drift.FEATURES}


def interpret_psi(value: float) -> str:
    """Return an interpretation of a population stability index."""
    if np.isnan(value):
        return f"fewer than {drift.LEAST_IMAGES} images are not enough"
    if value < PSI_MODERATE:
        return "as in the validation set"
    return (
        "moderate drift" if value < PSI_LARGE else "strong drift: the images differ from the validation set"
    )


def percent(count: int, of: int) -> str:
    """Return `12.3%`."""
    return f"{count / of:.1%}" if of else "0%"


def summary_lines(summary: Summary, *, seconds: float, rows_now: int) -> Iterator[str]:
    """Yield the lines that are printed at the end of a run.

    Args:
        summary: of all parts, including those of earlier runs.
        seconds: duration of this run.
        rows_now: images that this run scored.
    """
    scored = summary.scored
    counts = [f"{summary.rows:,} rows", f"{scored:,} scored", f"{summary.errors:,} with an error"]
    yield ", ".join([*counts, f"{summary.warned:,} with a warning"])
    for source, row, sentence in summary.first_errors[:ERRORS_KEPT]:
        yield f"  {source} {row}: {sentence}"
    if summary.errors > ERRORS_KEPT:
        yield f"  and {summary.errors - ERRORS_KEPT:,} more: see the column error of the output"
    if scored:
        yield from _classes(summary)
        yield (
            f"confidence: {summary.confidence / scored:.4f} mean; {summary.low_confidence:,} "
            f"({percent(summary.low_confidence, scored)}) below {LOW_CONFIDENCE:g}"
        )
    for feature, value in summary.drift().items():
        index = "" if np.isnan(value) else f"PSI {value:.3f}, "
        yield f"drift of {feature.replace('_', ' ')}: {index}{interpret_psi(value)}"
    if summary.labels is not None:
        yield from _comparison(summary)
    if rows_now:
        earlier = f", {summary.rows - rows_now:,} were complete before" if summary.rows > rows_now else ""
        rate = f"{rows_now / seconds:,.0f} images/s" if seconds > 0 else ""
        yield f"rate: {rate}; {rows_now:,} images in {format_seconds(seconds)}{earlier}"


def _classes(summary: Summary) -> Iterator[str]:
    order = np.arange(len(summary.classes))
    if len(order) > TEXT_CLASSES:
        order = np.argsort(-summary.counts, kind="stable")[:TEXT_CLASSES]
        yield f"the {TEXT_CLASSES} most frequent of {len(summary.classes)} classes:"
    width = max(len(summary.classes[k]) for k in order.tolist())
    for k in order.tolist():
        count = int(summary.counts[k])
        yield f"  {summary.classes[k]:{width}} {count:14,} {percent(count, summary.scored):>7}"


def _comparison(summary: Summary) -> Iterator[str]:
    confusion, labels = summary.confusion, summary.labels
    assert labels is not None  # noqa: S101  checked by the caller
    if confusion.images:
        accuracy = confusion.right / confusion.images
        yield f"accuracy: {accuracy:.2%}, {confusion.right:,} of {confusion.images:,} equal --labels {labels.where}"
        if len(summary.classes) <= TEXT_CLASSES:
            yield from matrix(confusion)
        for true, guess, count in list(confusion.confusions())[
            : 0 if len(summary.classes) <= TEXT_CLASSES else 10
        ]:
            yield f"  {true} predicted as {guess}: {count:,}"
    else:
        yield f"accuracy: unknown, no row has a label in {labels.where}"
    if summary.uncompared:
        yield (
            f"{summary.uncompared:,} parts were written by a run with other labels or without labels, and are not "
            "compared: score into a new output to compare all parts"
        )
    elif missing := summary.scored - confusion.images:
        yield f"{missing:,} rows have no label"


def matrix(confusion: Confusion) -> Iterator[str]:
    """Yield the confusion matrix as text: a row for each true class, a column for each predicted class."""
    classes = confusion.classes
    counts = [[confusion.counts.get((t, p), 0) for p in range(len(classes))] for t in range(len(classes))]
    wide = max(len(f"{max(map(max, counts)):,}"), *(min(len(name), 8) for name in classes)) + 1
    head = max(*(len(name) for name in classes), len("true"))
    yield "  " + "true".ljust(head) + "".join(f"{name[:8]:>{wide}}" for name in classes) + "  (predicted)"
    for name, row in zip(classes, counts, strict=True):
        cells = (f"{count:,}" if count else "." for count in row)
        yield "  " + name.ljust(head) + "".join(f"{cell:>{wide}}" for cell in cells)
