"""Synthetic models whose every number is known, for the tests of reports, cards and loggers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bundle.manifest import (
    WHITE_ON_BLACK,
    Dataset,
    Environment,
    Golden,
    Histogram,
    InputContract,
    Metrics,
    ModelMetadata,
    Parity,
    Reference,
)
from training.data.dataset import Images
from training.loop.state import Epoch
from training.model.evaluation import Logits, metrics
from training.model.robustness import indices
from training.report.page import ReportData
from training.settings import TrainingSettings

DIGITS = tuple("0123456789")


def an_epoch(number: int = 1, **values: float) -> Epoch:
    """Return an epoch of a model that fits, with `values` changed."""
    usual: dict[str, Any] = {
        "train_loss": 0.05,
        "train_accuracy": 0.985,
        "validation_loss": 0.06,
        "validation_accuracy": 0.982,
        "learning_rate": 1e-3,
        "seconds": 2.0,
        "images_per_second": 27_500.0,
    }
    return Epoch(epoch=number, **{**usual, **values})


def answers(
    count: int, classes: int, wrong: int, seed: int = 0, *, noise: bool = False
) -> tuple[Images, Logits]:
    """Return images and logits that get the first `wrong` of them wrong.

    Args:
        count: of images.
        classes: how many there are.
        wrong: how many images get another class than their own.
        seed: of it all.
        noise: fill every pixel at random, which cannot be compressed; else draw a blot.
    """
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, count)
    images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    if not noise:
        images[:, :6], images[:, 22:], images[:, :, :9], images[:, :, 19:] = 0, 0, 0, 0
    predicted = np.where(np.arange(count) < wrong, (labels + 1) % classes, labels)
    logits = generator.normal(0, 1, (count, classes)).astype(np.float32)
    logits[np.arange(count), predicted] += 6 + generator.normal(0, 0.5, count).astype(np.float32)
    fixed = logits.argmax(axis=1) != predicted  # the noise was louder
    logits[fixed, predicted[fixed]] = logits[fixed].max(axis=1) + 1
    return Images(images=images, labels=labels.astype(np.int64)), logits


def some_metadata(
    test: Images,
    logits: Logits,
    classes: Sequence[str] = DIGITS,
    temperature: float = 1.1,
    **settings: Any,
) -> ModelMetadata:
    """Return what a manifest would say of these answers."""
    measured = metrics(logits, test.labels, temperature)
    histogram = Histogram(edges=(0.0, 1.0), counts=(1,))
    return ModelMetadata(
        name="mnist",
        created="2026-11-22T12:00:00+00:00",
        run_id="0123456789abcdef",
        classes=tuple(classes),
        input=InputContract(polarity=WHITE_ON_BLACK),
        temperature=temperature,
        hyperparameters=TrainingSettings.model_validate(settings).model_dump(mode="json"),
        dataset=Dataset(
            name="mnist",
            sha256={"train-images-idx3-ubyte": "a" * 64},
            train=55_000,
            validation=5_000,
            test=len(test),
            split_seed=0,
        ),
        environment=Environment(
            code_revision="f" * 40,
            python="3.11.2",
            packages={"torch": "2.14.1"},
            device="cpu (x86_64)",
            threads=1,
        ),
        validation=Metrics(
            images=5_000, accuracy=0.982, nll=0.06, ece=0.01, nll_calibrated=0.06, ece_calibrated=0.005
        ),
        test=measured,
        robustness={"moved by 2 and 2 pixels": 0.9123, "turned by 15 degrees": 0.8765},
        parity={
            "onnx_cpu": Parity(
                images=len(test),
                max_absolute_difference=1e-6,
                max_relative_difference=1e-7,
                labels_differing=0,
            )
        },
        golden=Golden(images=30, tolerance=1e-4),
        sample_label=classes[0],
        reference=Reference(
            mean_ink=histogram,
            border_brightness=histogram,
            confidence=histogram,
            predicted=tuple(len(classes) * [1]),
        ),
    )


def report_data(
    *,
    count: int = 600,
    wrong: int = 40,
    classes: Sequence[str] = DIGITS,
    noise: bool = False,
    seed: int = 0,
    **settings: Any,
) -> ReportData:
    """Return what a report is about."""
    test, logits = answers(count, len(classes), wrong, seed, noise=noise)
    history = [an_epoch(n, train_loss=0.2 / n, validation_loss=0.21 / n) for n in range(1, 6)]
    guesses = logits[indices(len(test))].argmax(axis=1)
    return ReportData(
        metadata=some_metadata(test, logits, classes, **settings),
        history=history,
        test=test,
        logits=logits,
        changed={"moved by 2 and 2 pixels": np.roll(guesses, 1), "inverted": 0 * guesses},
    )
