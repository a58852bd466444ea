"""Chunks, predictions and receipts, made without a run."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imagesets.formats.arrays.array_source import spooled
from imagesets.source import Source
from serving.scoring.records import Chunk, Predictions, Receipt, predictions_of


def a_chunk(images: npt.NDArray[np.uint8], **more: Any) -> Chunk:
    """Return a chunk of `uint8[n, 28, 28]`, its rows numbered from `first` on."""
    first = more.get("first", 0)
    rows = [str(row) for row in range(first, first + len(images))]
    given: dict[str, Any] = {
        "first": 0,
        "sources": ["images"] * len(images),
        "rows": rows,
        "errors": {},
        "warnings": {},
    }
    return Chunk(images=images, **(given | more))


def numbered(count: int) -> list[Source]:
    """Return an input of so many images, whose rows are numbered and have no labels."""
    return [spooled("images", Path("images"), [some_images(count)])]


def some_images(count: int, seed: int = 1) -> npt.NDArray[np.uint8]:
    """Return `uint8[count, 28, 28]`."""
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28), dtype=np.uint8)


def some_predictions(count: int, classes: tuple[str, ...], seed: int = 1) -> Predictions:
    """Return predictions with probabilities that differ."""
    random = np.random.default_rng(seed)
    return predictions_of(random.dirichlet(np.ones(len(classes)), count).astype(np.float32), classes)


def a_receipt(part: int, chunk: Chunk, tally: dict[str, Any]) -> Receipt:
    """Return the receipt of a part."""
    errors = len(chunk.errors)
    return Receipt(part=part, rows=len(chunk), errors=errors, sha256="0" * 64, bytes=1, tally=tally)
