"""The report's pictures, as SVG text without fonts or links to anything outside."""

import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from training.evaluate import ECE_BINS, Labels, Logits, log_softmax
from training.state import Epoch

SHOWN_UNITS = 64


def curves(history: Sequence[Epoch]) -> str:
    """Draw loss and accuracy of training and validation over the epochs, the gap shaded."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    epochs = [epoch.epoch for epoch in history]
    for axes, name, train, validation in zip(
        figure.subplots(1, 2),
        ("loss (nats)", "accuracy"),
        ([e.train_loss for e in history], [e.train_accuracy for e in history]),
        ([e.validation_loss for e in history], [e.validation_accuracy for e in history]),
        strict=True,
    ):
        axes.plot(epochs, train, marker=".", label="training, with dropout")
        axes.plot(epochs, validation, marker=".", label="validation")
        axes.fill_between(epochs, train, validation, alpha=0.15)
        axes.set(xlabel="epoch", ylabel=name)
        axes.grid(alpha=0.3)
        axes.legend()
    return _svg(figure)


def confusion(labels: Labels, predicted: npt.NDArray[np.int64], classes: Sequence[str]) -> str:
    """Draw counts of predicted class (columns) by true class (rows), mistakes in colour."""
    count = len(classes)
    matrix = np.bincount(labels * count + predicted, minlength=count**2).reshape(count, count)
    mistakes = np.where(np.eye(count, dtype=bool), 0, matrix)
    side = min(9, 2 + 0.45 * count)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(mistakes, cmap="Reds")
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_xticks(range(count), classes, rotation=90 if max(map(len, classes)) > 2 else 0)
    axes.set_yticks(range(count), classes)
    if count <= 30:
        threshold = mistakes.max() * 0.6
        for row, column in zip(*np.nonzero(matrix), strict=True):
            bright = mistakes[row, column] > threshold > 0
            colour = "white" if bright else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour, size=8)
    return _svg(figure)


def reliability(logits: Logits, labels: Labels, temperature: float) -> str:
    """Draw accuracy against confidence in 15 bins, before and after calibration."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, value, name in zip(
        figure.subplots(1, 2), (1.0, temperature), ("before calibration", "after calibration"), strict=True
    ):
        probabilities = np.exp(log_softmax(logits, value))
        confidence = probabilities.max(axis=1)
        right = probabilities.argmax(axis=1) == labels
        bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
        counts = np.bincount(bins, minlength=ECE_BINS)
        filled = np.flatnonzero(counts)
        accuracy = np.bincount(bins, weights=right, minlength=ECE_BINS)[filled] / counts[filled]
        mean = np.bincount(bins, weights=confidence, minlength=ECE_BINS)[filled] / counts[filled]
        axes.plot([0, 1], [0, 1], "--", color="grey", linewidth=1)
        axes.scatter(mean, accuracy, s=10 + 150 * np.sqrt(counts[filled] / len(labels)), alpha=0.7)
        axes.set(title=name, xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.04))
        axes.grid(alpha=0.3)
    return _svg(figure)


def first_layer(weights: npt.NDArray[np.float32]) -> str:
    """Draw the incoming weights of the units with the largest norms, `float32[units, 784]`, as images."""
    largest = np.argsort(-np.linalg.norm(weights, axis=1))[:SHOWN_UNITS]
    columns = 16
    rows = -(-len(largest) // columns)
    canvas = np.full((rows * 29 + 1, columns * 29 + 1), np.nan, dtype=np.float32)
    for position, unit in enumerate(largest):
        top, left = 1 + 29 * (position // columns), 1 + 29 * (position % columns)
        canvas[top : top + 28, left : left + 28] = weights[unit].reshape(28, 28) / np.abs(weights[unit]).max()
    figure = Figure(figsize=(9, 9 * rows / columns), layout="constrained")
    axes = figure.subplots()
    axes.imshow(canvas, cmap="RdBu", vmin=-1, vmax=1)
    axes.set_axis_off()
    return _svg(figure)


def _svg(figure: Figure) -> str:
    """Return the figure as an `<svg>` element; text stays text, which keeps it small and readable."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "glyph"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
