"""Complete, consistent bundles for tests, with files that are not models."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from bundle.golden import GoldenExamples
from bundle.manifest import FILES, GOLDEN_FILE, ModelMetadata
from bundle.repository import Bundle, publish, staging

CLASSES = ("zero", "one", "two")
GOLDEN_IMAGES = 4
A_GRAPH = b"\x08\x0a\x3a\x00"
"""The shortest ONNX file with a graph: format 10, and nothing in the graph."""
HASHES = dict.fromkeys(FILES, "ab" * 32)
"""What a manifest could say of its files."""


def some_metadata(**changes: Any) -> ModelMetadata:
    """Return metadata that a bundle of three classes could have, with `changes` to them."""
    metrics = {
        "images": 10,
        "accuracy": 0.9,
        "nll": 0.31,
        "ece": 0.02,
        "nll_calibrated": 0.3,
        "ece_calibrated": 0.01,
    }
    histogram = {"edges": (0.0, 128.0, 256.0), "counts": (7, 3)}
    metadata: dict[str, Any] = {
        "name": "shapes",
        "created": "2026-11-22T12:00:00+00:00",
        "classes": CLASSES,
        "input": {"polarity": "white-on-black"},
        "temperature": 1.25,
        "hyperparameters": {"hidden": [512, 256], "dropout": 0.2, "device": "cpu"},
        "dataset": {
            "name": "shapes",
            "sha256": {"images": "ab" * 32},
            "train": 80,
            "validation": 10,
            "test": 10,
            "split_seed": 0,
        },
        "environment": {
            "code_revision": "unknown",
            "python": "3.13.0",
            "packages": {"torch": "2.14.1"},
            "device": "cpu",
            "threads": 1,
        },
        "validation": metrics,
        "test": metrics,
        "parity": {
            "onnx_cpu": {
                "images": 10,
                "max_absolute_difference": 1e-6,
                "max_relative_difference": 1e-7,
                "labels_differing": 0,
            }
        },
        "golden": {"images": GOLDEN_IMAGES, "tolerance": 1e-4},
        "sample_label": "one",
        "reference": {
            "mean_ink": histogram,
            "border_brightness": histogram,
            "confidence": histogram,
            "predicted": (3, 3, 4),
        },
    }
    return ModelMetadata.model_validate(metadata | changes)


def some_golden(images: int = GOLDEN_IMAGES, classes: int = len(CLASSES)) -> GoldenExamples:
    """Return golden examples whose probabilities sum to 1."""
    generator = np.random.default_rng(0)
    scores = generator.random((images, classes)) + 0.1
    return GoldenExamples(
        images=generator.integers(0, 256, (images, 28, 28), dtype=np.uint8),
        probabilities=(scores / scores.sum(axis=1, keepdims=True)).astype(np.float32),
    )


def fill(directory: Path, classes: int = len(CLASSES), more: Collection[str] = ()) -> None:
    """Write every file that `publish` asks for, and `more`."""
    for name in (*FILES, *more):
        content = A_GRAPH if name.endswith(".onnx") else f"the content of {name}\n".encode() * 3
        (directory / name).write_bytes(content)
    (directory / GOLDEN_FILE).write_bytes(some_golden(classes=classes).to_bytes())


def publish_one(models: Path, more: Collection[str] = (), **changes: Any) -> Bundle:
    """Publish a bundle in `models`, with `more` files than it must have and `changes` to its metadata."""
    metadata = some_metadata(**changes)
    with staging(models, metadata.name) as directory:
        fill(directory, len(metadata.classes), more)
        return publish(directory, metadata)
