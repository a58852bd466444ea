"""`study.html`: a self-contained page with a figure and a table for each study."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bundle.manifest import Environment
from common.html.frame import Section, page, table, text
from training.study.designs import Point, Study
from training.study.figures import Row, figure
from training.study.statistics import Summary, summarise

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class _PointResult:
    point: Point
    records: Sequence[Record]
    """The runs with a finite loss."""
    diverged: int


def render(
    studies: Sequence[Study],
    results: Mapping[str, Sequence[Record]],
    base: Mapping[str, object],
    environment: Environment,
) -> str:
    """Return the page.

    Args:
        studies: the studies.
        results: study name to the records of its runs, with their point (`series`, `label`) and metrics.
        base: the base settings.
        environment: of the runs.
    """
    runs = {record["fingerprint"]: record for records in results.values() for record in records}
    first = next(iter(runs.values()))
    seconds = sum(record["seconds"] for record in runs.values())
    said = (
        f"{len(runs)} models, validated on {first['validation_images']} images and tested on "
        f"{first.get('test_images', 0)}; {seconds:,.0f} s of training in total. Values are means over runs with "
        "different seeds; ± is the half-width of the 95% confidence interval by Student's t. Each start "
        "trains all its models before it reads the test set, and nothing is selected by it."
    )
    ran_on = [
        ("device", environment.device),
        ("threads", environment.threads),
        ("code revision", environment.code_revision),
        ("Python", environment.python),
        *sorted(environment.packages.items()),
    ]
    sections = [_section(study, results[study.name]) for study in studies]
    sections.append(
        Section(
            anchor="base",
            title="Base settings",
            body=f"<p>The settings that a study does not vary.</p>{table(sorted(base.items()))}",
        )
    )
    sections.append(Section(anchor="environment", title="Environment", body=table(ran_on)))
    return page("Studies", said, sections)


def _section(study: Study, records: Sequence[Record]) -> Section:
    points = [_of(point, records) for point in study.points]
    rows = [
        Row(
            series=each.point.series,
            x=each.point.x,
            label=each.point.label,
            train=_summary(each, "train_accuracy"),
            validation=_summary(each, "validation_accuracy"),
            test=_summary(each, "test_accuracy"),
            tests=[record["test_accuracy"] for record in each.records],
        )
        for each in points
        if each.records
    ]
    drawn = f"<figure>{figure(study, rows)}</figure>" if rows else "<p>All runs diverged.</p>"
    body = f"<p>{text(study.text)}</p>{drawn}{_results(study, points)}"
    return Section(anchor=study.name, title=study.title, body=body)


def _of(point: Point, records: Sequence[Record]) -> _PointResult:
    mine = [r for r in records if (r["series"], r["label"]) == (point.series, point.label)]
    finite = [record for record in mine if not record["diverged"]]
    return _PointResult(point=point, records=finite, diverged=len(mine) - len(finite))


def _summary(point: _PointResult, name: str) -> Summary:
    return summarise([record[name] for record in point.records])


def _results(study: Study, points: Sequence[_PointResult]) -> str:
    several = len({each.point.series for each in points}) > 1
    head: tuple[str, ...] = (
        "model",
        study.axis or "settings",
        "parameters",
        "n",
        "training %",
        "validation %",
        "test %",
    )
    rows = []
    for each in points:
        cells = [each.point.series, each.point.label]
        if each.records:
            cells += [f"{each.records[0]['parameters']:,}", str(len(each.records))]
            cells += [
                _percent(_summary(each, f"{part}_accuracy")) for part in ("train", "validation", "test")
            ]
        else:
            cells += ["", "0", "", "", ""]
        rows.append((*cells, f"{each.diverged} diverged" if each.diverged else ""))
    start = 0 if several else 1
    if not any(each.diverged for each in points):
        rows = [row[:-1] for row in rows]
    else:
        head = (*head, "")
    return table([row[start:] for row in rows], head[start:])


def _percent(summary: Summary) -> str:
    if summary.half_width is None:
        return f"{summary.mean:.2%}".removesuffix("%")
    return f"{100 * summary.mean:.2f} ± {100 * summary.half_width:.2f}"
