"""`--report`: a self-contained HTML page about a run, without scripts or external resources.

Page frame, sprite sheet and confusion matrix are shared with the training report (`common/html/`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common.atomic_files import write_whole
from common.html import confusion_matrix, sprite_sheet
from common.html.frame import NOTHING, Html, Section, name, page, table, text
from imagesets.labels import UNKNOWN
from serving.scoring.errors import WriteError
from serving.scoring.reporting.part_statistics import LOW_CONFIDENCE
from serving.scoring.reporting.progress import format_seconds
from serving.scoring.reporting.summary import LeastConfident, Summary, interpret_psi, percent

NAME_LIMIT = 16
"""Characters of a class name under an image; the table of classes has the full name."""
ROW_LIMIT = 60


def render(
    summary: Summary, *, title: str, when: str, seconds: float, rows_now: int, details: Mapping[str, object]
) -> str:
    """Return the page.

    Args:
        summary: of all parts.
        title: plain text.
        when: the time at which the run ended.
        seconds: duration of the last run of the job.
        rows_now: images that the last run scored.
        details: output and fingerprint, by name, for the last table.
    """
    sections = [
        Section(anchor="result", title="Result", body=_result(summary, seconds, rows_now)),
        Section(anchor="classes", title="Predicted classes", body=_classes(summary)),
    ]
    if summary.reference is not None:
        sections.append(Section(anchor="drift", title="Drift", body=_drift(summary)))
    if summary.labels is not None:
        sections.append(Section(anchor="labels", title="Compared with the labels", body=_comparison(summary)))
    sections.append(Section(anchor="least", title="Least confident images", body=_least(summary)))
    if summary.errors:
        sections.append(Section(anchor="errors", title="Rows with an error", body=_errors(summary)))
    rows = [(key, Html(f"<code>{text(value)}</code>")) for key, value in details.items()]
    sections.append(
        Section(
            anchor="run",
            title="The run",
            body=table(rows, ("name", "value"), caption="Output, model, options and inputs"),
        )
    )
    least = summary.least
    picture = sprite_sheet.render(np.stack([example.image() for example in least])) if least else "data:,"
    said = f"Scored {when}: {summary.rows:,} rows, {summary.errors:,} of them with an error."
    return page(title, said, sections, sprites=picture, sprites_width=sprite_sheet.WIDTH)


def write(path: Path, content: str) -> None:
    """Write the page.

    Raises:
        WriteError: the page cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a pipe or a terminal, which a rename would replace
            path.write_text(content, encoding="utf-8")
        else:
            write_whole(path.resolve(), content.encode())
    except OSError as error:
        raise WriteError(f"--report {path} cannot be written: {error.strerror}; give another path") from error


def _result(summary: Summary, seconds: float, rows_now: int) -> str:
    scored = summary.scored
    tiles = {
        "images scored": f"{scored:,}",
        "with an error": f"{summary.errors:,}",
        "with a warning": f"{summary.warned:,}",
        "mean confidence": f"{summary.confidence / scored:.4f}" if scored else NOTHING,
        f"confidence below {LOW_CONFIDENCE:g}": percent(summary.low_confidence, scored),
    }
    if summary.confusion.images:
        tiles["accuracy"] = f"{summary.confusion.right / summary.confusion.images:.2%}"
    if rows_now and seconds > 0:
        tiles["images/s"] = f"{rows_now / seconds:,.0f}"
    shown = "".join(f"<div><dt>{term}</dt><dd>{value}</dd></div>" for term, value in tiles.items())
    note = (
        f'<p class="quiet">{rows_now:,} images in {format_seconds(seconds)}; confidence is the calibrated probability '
        "of the predicted class. Rows with an error have no prediction and are not counted elsewhere.</p>"
    )
    return f"<dl>{shown}</dl>{note}"


def _classes(summary: Summary) -> str:
    counts, scored = summary.counts, summary.scored
    expected = np.array(summary.reference.predicted, np.float64) if summary.reference is not None else None
    order = np.arange(len(counts))
    left_out = ""
    if len(order) > confusion_matrix.MAX_LISTED_CLASSES:
        order = np.argsort(-counts, kind="stable")[: confusion_matrix.MAX_LISTED_CLASSES]
        left_out = f"<p>The {confusion_matrix.MAX_LISTED_CLASSES} most frequent of {len(counts)} classes.</p>"
    rows: list[Sequence[object]] = []
    for k in order.tolist():
        row: list[object] = [
            Html(name(summary.classes[k])),
            f"{counts[k]:,}",
            percent(int(counts[k]), scored),
        ]
        if expected is not None:
            row.append(f"{expected[k] / max(1.0, expected.sum()):.1%}")
        rows.append(row)
    head = ("class", "images", "share", "share in the validation set")[: len(rows[0])]
    return left_out + table(rows, head, caption="Images by predicted class")


def _drift(summary: Summary) -> str:
    found = summary.drift()
    if not found:
        return (
            "<p>Not measured: these parts were written by a run without the model's reference histograms.</p>"
        )
    meanings = {
        "mean_ink": "mean pixel of an image",
        "border_brightness": "mean of an image's border",
        "class": "predicted class",
    }
    rows = [
        (meanings[feature], NOTHING if np.isnan(value) else f"{value:.3f}", interpret_psi(value))
        for feature, value in found.items()
    ]
    note = (
        '<p class="quiet">The population stability index compares these images with the validation set of the '
        "model: below 0.1 there is no drift, above 0.25 the population has changed.</p>"
    )
    return table(rows, ("feature", "PSI", "reading"), caption="Against the validation set") + note


def _comparison(summary: Summary) -> str:
    found = summary.confusion
    assert summary.labels is not None  # noqa: S101  checked by the caller
    if not found.images:
        return f"<p>No row has a label in {text(summary.labels.where)}.</p>"
    said = (
        f"<p>{found.right:,} of {found.images:,} predictions equal the label in {text(summary.labels.where)}: "
        f"{found.right / found.images:.2%}.</p>"
    )
    if summary.uncompared:
        said += (
            f"<p><strong>{summary.uncompared:,} parts are not compared</strong>: they were written by a run with "
            "other labels or without labels.</p>"
        )
    per_class = confusion_matrix.by_class(found, "images", "Per class")
    return said + confusion_matrix.matrix(found, "Images") + per_class


def _least(summary: Summary) -> str:
    least = summary.least
    if not least:
        return "<p>No image was scored.</p>"
    cards = "".join(_card(place, example, summary) for place, example in enumerate(least))
    note = (
        f"<p>The {len(least)} of {summary.scored:,} images with the lowest confidence, lowest first: predicted "
        "class and runner-up with their probabilities, and the row.</p>"
    )
    return f'{note}<ul class="cards">{cards}</ul>'


def _card(place: int, example: LeastConfident, summary: Summary) -> str:
    def said(index: int, confidence: float) -> str:
        return f"{name(summary.classes[index], NAME_LIMIT)}: {confidence:.1%}"

    lines = [
        f"<b>{said(example.index, example.confidence)}</b>",
        said(example.second, example.second_confidence),
    ]
    if example.true != UNKNOWN:
        lines.append(f"label {name(summary.classes[example.true], NAME_LIMIT)}")
    row = f"{Path(example.source).name} {example.row}" if example.row.isdigit() else example.row
    row = row if len(row) <= ROW_LIMIT else "…" + row[1 - ROW_LIMIT :]
    whole = text(f"{example.source} {example.row}")
    lines.append(f'<small title="{whole}"><bdi>{text(row)}</bdi></small>')
    shown = "\n".join(lines)
    return f"<li>{sprite_sheet.sprite(place, whole)}<p>{shown}</p></li>"


def _errors(summary: Summary) -> str:
    rows = [
        (Html(f"<bdi>{text(f'{source} {row}')}</bdi>"), sentence)
        for source, row, sentence in summary.first_errors
    ]
    more = summary.errors - len(rows)
    rest = f"<p>And {more:,} more: see the column error of the output.</p>" if more else ""
    return table(rows, ("row", "error"), caption="The first errors") + rest
