"""The figures of the studies, in the style of the training report."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.report.figures import STYLE, svg
from training.study.designs import Study
from training.study.statistics import Summary

PARTS = (("train", ":", "s"), ("validation", "--", "^"), ("test", "-", "o"))
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """The accuracies of a point, from 0 to 1."""

    series: str
    x: float
    label: str
    train: Summary
    validation: Summary
    test: Summary
    tests: Sequence[float]
    """The test accuracy of each run."""


def figure(study: Study, rows: Sequence[Row]) -> str:
    """Return a study's figure as SVG: lines over a numeric axis, or the test accuracy of each run over names."""
    with mpl.rc_context(STYLE):
        return svg(draw(study, rows), study.title)


def draw(study: Study, rows: Sequence[Row]) -> Figure:
    """Return a study's figure."""
    names = study.scale == "names"
    drawing = Figure(figsize=(7, 1.3 + 0.4 * len(rows) if names else 4), layout="constrained")
    axes = drawing.subplots()
    if names:
        _over_names(axes, rows)
    else:
        _over_numbers(axes, study, rows)
    axes.grid(alpha=0.3)
    return drawing


def _over_numbers(axes: Axes, study: Study, rows: Sequence[Row]) -> None:
    series = list(dict.fromkeys(row.series for row in rows))
    for name, colour in zip(series, COLOURS, strict=False):
        mine = [row for row in rows if row.series == name]
        for part, style, marker in PARTS:
            summaries: list[Summary] = [getattr(row, part) for row in mine]
            axes.errorbar(
                [row.x for row in mine],
                [100 * s.mean for s in summaries],
                [100 * (s.half_width or 0.0) for s in summaries] if part == "test" else None,
                color=colour,
                linestyle=style,
                marker=marker,
                markersize=4,
                capsize=3,
                label=f"{name}, {part}" if len(series) > 1 else part,
            )
    if study.scale == "symlog":
        positive = [row.x for row in rows if row.x > 0]
        axes.set_xscale("symlog", linthresh=min(positive, default=1.0))
    elif study.scale == "log":
        axes.set_xscale("log")
    ticks = sorted({row.x for row in rows})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel=study.axis, ylabel="accuracy (%)")
    axes.legend()


def _over_names(axes: Axes, rows: Sequence[Row]) -> None:
    for place, row in enumerate(rows):
        axes.errorbar(
            [100 * row.test.mean],
            [place],
            xerr=[100 * (row.test.half_width or 0.0)],
            color="tab:blue",
            marker="o",
            capsize=4,
            label="test: mean and 95% interval" if place == 0 else None,
        )
        axes.scatter(
            [100 * value for value in row.tests],
            [place] * len(row.tests),
            marker="|",
            s=120,
            color="tab:orange",
            zorder=3,
            label="each run" if place == 0 else None,
        )
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set(xlabel="test accuracy (%)", ylim=(len(rows) - 0.5, -0.5))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
