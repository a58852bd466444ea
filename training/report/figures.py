"""The report's figures: inline SVG and PNG data URIs, without embedded fonts or external links.

Matplotlib draws with placeholder colours, which are replaced by the page's CSS variables, so that a figure follows the
light or dark theme. Figures are drawn at the width of a phone, so that their text stays readable.
"""

import io
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter
from PIL import Image

from common.html.sprite_sheet import png
from training.loop.state import Epoch
from training.model.evaluation import ECE_BINS, Labels, Logits, binned_confidence

SHOWN_UNITS = 128
"""Most units of the first layer whose weights are drawn, in about 90 KB."""
WIDTH, HEIGHT = 4.4, 3.0
"""Inches; at 72 units an inch, a font of 11 units has 12 pixels on a phone."""
OPAQUE_FROM = 0.98
"""Quantile of a unit's magnitudes from which a pixel is opaque; with the maximum, an outlier would fade the rest."""
LOG_FROM = 8.0
"""Ratio of the largest to the smallest value from which the axis of a curve is logarithmic; else its end looks flat."""

INK, LINE, TRAINING, VALIDATION, GOOD, BAD = (f"#0a0b{n:02x}" for n in range(6))
_VARIABLES = {
    INK: "--ink",
    LINE: "--line",
    TRAINING: "--training",
    VALIDATION: "--validation",
    GOOD: "--good",
    BAD: "--bad",
}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "glyph",
    "font.size": 11,
    "font.sans-serif": ["DejaVu Sans"],
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Bins:
    """The data of a reliability diagram, for 15 equal bins of confidence."""

    count: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    """Mean in the bin; 0 where it is empty."""
    accuracy: npt.NDArray[np.float64]

    @classmethod
    def of(cls, logits: Logits, labels: Labels, temperature: float) -> "Bins":
        """Bin predictions by the probability of the predicted class, as the ECE does."""
        confidence, correct, index = binned_confidence(logits, labels, temperature)
        count = np.bincount(index, minlength=ECE_BINS)
        some = np.maximum(count, 1)
        return cls(
            count=count,
            confidence=np.bincount(index, weights=confidence, minlength=ECE_BINS) / some,
            accuracy=np.bincount(index, weights=correct, minlength=ECE_BINS) / some,
        )

    @property
    def error(self) -> float:
        """The expected calibration error."""
        return float((self.count * np.abs(self.accuracy - self.confidence)).sum() / self.count.sum())


def curve(
    name: str,
    history: Sequence[Epoch],
    training: Sequence[float],
    validation: Sequence[float],
    *,
    published: int,
    at_rest: float | None,
) -> str:
    """Draw the learning curve of a metric, with the area between training and validation shaded.

    Args:
        name: of the metric, with its unit.
        history: the epochs.
        training: a value for each epoch.
        validation: a value for each epoch.
        published: number of the epoch whose weights were published.
        at_rest: the value of the published weights on training images, in evaluation mode.
    """
    epochs = [epoch.epoch for epoch in history]
    with mpl.rc_context(STYLE):
        figure, axes = _axes()
        axes.plot(epochs, training, marker="o", color=TRAINING, label="training, in training mode")
        axes.plot(epochs, validation, marker="o", color=VALIDATION, label="validation")
        axes.fill_between(epochs, training, validation, color=VALIDATION, alpha=0.15, linewidth=0)
        if at_rest is not None:
            mark: dict[str, Any] = {"marker": "D", "linestyle": "none", "color": TRAINING, "markersize": 7}
            axes.plot([published], [at_rest], label="training, published weights", fillstyle="none", **mark)
        if published != epochs[-1]:
            axes.axvline(published, color=INK, linestyle=":", linewidth=1)
        values = [*training, *validation, *([] if at_rest is None else [at_rest])]
        _vertical(axes, values)
        axes.set(xlabel="epoch", ylabel=name)
        axes.legend(fontsize=10)
        said = (
            f"{name} by epoch: training from {training[0]:.3g} to {training[-1]:.3g}, "
            f"validation from {validation[0]:.3g} to {validation[-1]:.3g}"
        )
        return svg(figure, said)


def learning_rate(history: Sequence[Epoch]) -> str:
    """Draw the learning rate at the start of each epoch."""
    rates = [epoch.learning_rate for epoch in history]
    with mpl.rc_context(STYLE):
        figure, axes = _axes()
        axes.plot([epoch.epoch for epoch in history], rates, marker="o", color=TRAINING)
        axes.set(xlabel="epoch", ylabel="learning rate at the start")
        axes.set_ylim(bottom=0)
        return svg(figure, f"learning rate by epoch: peak {max(rates):.3g}, last {rates[-1]:.3g}")


def reliability(bins: Bins, name: str) -> str:
    """Draw the reliability diagram: accuracy by confidence, the gap to the diagonal, and a histogram of confidence."""
    edges = np.linspace(0, 1, ECE_BINS + 1)[:-1]
    filled = bins.count > 0
    width = 0.9 / ECE_BINS
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        bars: dict[str, Any] = {"width": width, "align": "edge"}
        top.bar(edges[filled], bins.accuracy[filled], color=TRAINING, label="accuracy", **bars)
        gap = bins.confidence[filled] - bins.accuracy[filled]
        top.bar(
            edges[filled],
            gap,
            bottom=bins.accuracy[filled],
            color=BAD,
            alpha=0.45,
            label="gap to the confidence",
            **bars,
        )
        top.plot([0, 1], [0, 1], linestyle="--", color=INK, linewidth=1)
        top.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        figure.suptitle(f"{name}: ECE {bins.error:.2%}", fontsize=11)
        figure.legend(fontsize=10, loc="outside lower center", ncols=2)
        bottom.bar(edges[filled], bins.count[filled], color=LINE, **bars)
        bottom.set(xlabel="confidence: probability of the predicted class", ylabel="images")
        bottom.set_yscale("log")
        bottom.set_ylim(bottom=0.7)
        return svg(figure, f"reliability diagram, {name}: expected calibration error {bins.error:.2%}")


def first_layer(weights: npt.NDArray[np.float32]) -> str:
    """Return an `<img>` of the units' incoming weights, `float32[units, 784]`, red positive and blue negative.

    Of more than 128 units, those with the largest norms are shown, largest first. The strongest 2% of a unit's weights
    are opaque, and a weight of 0 is transparent.
    """
    norms = np.linalg.norm(weights, axis=1)
    chosen = np.argsort(-norms, kind="stable")[:SHOWN_UNITS] if len(weights) > SHOWN_UNITS else slice(None)
    units = weights[chosen]
    columns = min(16, len(units))
    rows = -(-len(units) // columns)
    canvas = np.zeros((rows * 30, columns * 30), dtype=np.float32)
    for position, unit in enumerate(units):
        top, left = 1 + 30 * (position // columns), 1 + 30 * (position % columns)
        strong = max(float(np.quantile(np.abs(unit), OPAQUE_FROM)), 1e-30)
        canvas[top : top + 28, left : left + 28] = (unit.reshape(28, 28) / strong).clip(-1, 1)
    # Palette: 0..31 blue with decreasing opacity, 32 transparent, 33..64 red with increasing opacity.
    levels = np.rint(canvas * 32).astype(np.int16) + 32
    image = Image.fromarray(levels.astype(np.uint8))
    image.putpalette([*(32 * [43, 108, 215]), *(33 * [214, 54, 62])])
    opacity = bytes(min(255, 8 * abs(level - 32)) for level in range(65))
    kind = "all" if len(units) == len(weights) else f"the {len(units)} strongest"
    said = f"incoming weights of {kind} of {len(weights)} units as 28x28 images"
    return f'<img class="weights" alt="{said}" width="{canvas.shape[1]}" src="{png(image, opacity)}">'


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.subplots()
    axes.grid()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure, axes


def _vertical(axes: Axes, values: Sequence[float]) -> None:
    """Make the vertical axis logarithmic if the values have a wide range."""
    least, largest = min(values), max(values)
    if least > 0 and largest / least > LOG_FROM:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())


def svg(figure: Figure, description: str) -> str:
    """Return a figure drawn with `STYLE`, within its context, as an `<svg>` element with text as text."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)  # figure_1, axes_1: equal in every figure
    picture = f"{zlib.crc32(text.encode()):08x}-"  # makes referenced ids unique on the page
    text = re.sub(r'( id="|xlink:href="#|url\(#)', rf"\g<1>{picture}", text)
    text = re.sub(r"font-family: [^;]*;", "", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r"\s*\n\s*", "\n", text)
    label = escape(description)
    return re.sub(
        r'<svg .*?viewBox="([^"]+)".*?>',
        rf'<svg role="img" aria-label="{label}" viewBox="\1" xmlns:xlink="http://www.w3.org/1999/xlink">',
        text,
        count=1,
        flags=re.DOTALL,
    )
