"""Labelled images, and tables of them as text, for the tests of the readers of tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imagesets.source import RawRows, Source

COUNT = 60
LABELS = np.arange(COUNT) * 7 % 10


def pictures(count: int = COUNT) -> npt.NDArray[np.uint8]:
    """Return distinct images, `uint8[count, 28, 28]`, with black corners; transposed they are others."""
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 3:25, 5:24] = np.random.default_rng(1).integers(0, 256, (count, 22, 19), dtype=np.uint8)
    return images


def text(
    rows: Sequence[Sequence[Any]], header: Sequence[str] = (), separator: str = ",", end: str = "\n"
) -> str:
    """Return a table as text."""
    lines = ([header] if header else []) + list(rows)
    return "".join(separator.join(map(str, line)) + end for line in lines)


def label_first() -> list[list[Any]]:
    """Return the labels and pixels of `pictures`, a row each."""
    flat = pictures().reshape(COUNT, 784).tolist()
    return [[label, *pixels] for label, pixels in zip(LABELS.tolist(), flat, strict=True)]


def numbered(prefix: str = "pixel", first: int = 0) -> list[str]:
    """Return the names of 784 columns."""
    return [f"{prefix}{place}" for place in range(first, first + 784)]


def write(path: Path, content: str | bytes) -> Path:
    """Write a file."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def whole(source: Source) -> npt.NDArray[np.uint8]:
    """Return the pixels of all rows, which are taken in two slices, the second one first; then close it."""
    half = source.count // 2
    second, first = source.take(half, source.count - half), source.take(0, half)
    source.close()
    assert isinstance(first, RawRows)
    assert isinstance(second, RawRows)
    assert first.pixels is not None
    assert second.pixels is not None
    assert not first.errors
    assert not second.errors
    return np.concatenate([first.pixels, second.pixels])


def names_of(source: Source) -> list[str | None] | None:
    """Return the label of each row as text, None without a label; None if there are no labels."""
    labels = source.labels()
    if labels is None:
        return None
    return [labels.values[code] if code >= 0 else None for code in labels.codes.tolist()]
