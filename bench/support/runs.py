"""Small training runs: three separable classes of noise."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.progress import Progress
from training.data.dataset import Images
from training.interrupts import StopFlag
from training.loop.fit import Fitted, Run
from training.settings import TrainingSettings


class StopAfter(StopFlag):
    """A flag that is set when it has been looked at a number of times: once a step, once an epoch's end."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self._looks = looks

    @property
    def requested(self) -> bool:
        """Count the look."""
        self._looks -= 1
        if self._looks < 0:
            self.signal = signal.SIGTERM
        return super().requested


def blobs(count: int, seed: int) -> Images:
    """Return noisy images of three classes, each bright in a different third."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, count)
    images = generator.integers(0, 100, (count, 28, 28), dtype=np.uint8)
    for index, label in enumerate(labels):
        images[index, 9 * label : 9 * label + 9] += 100
    return Images(images=images, labels=labels.astype(np.int64))


def small_run(directory: Path, stop: StopFlag | None = None, **settings: object) -> Run:
    """Return a run of three epochs of a small network, with `settings` changed; on a GPU if `device` says so."""
    chosen = {"epochs": 3, "hidden": (32, 16), "batch_size": 32, "learning_rate": 3e-3, **settings}
    device = torch.device("cuda" if chosen.get("device") == "cuda" else "cpu")
    return Run(
        settings=TrainingSettings.model_validate(chosen),
        train=blobs(500, 1).to(device),
        validation=blobs(100, 2).to(device),
        classes=3,
        polarity="white-on-black",
        data_sha256={"blobs": "0" * 64},
        directory=directory,
        progress=Progress(quiet=True),
        stop=stop or StopFlag(),
    )


def rich_run(directory: Path, stop: StopFlag | None = None, **settings: object) -> Run:
    """Return a run with every kind of state, and a checkpoint after every step."""
    rich: dict[str, Any] = {
        "dropout": (0.3,),
        "noise": 0.1,
        "rotation": 10,
        "batch_norm": True,
        "ema": 0.9,
        "patience": 1000,
        "monitor": "loss",
        "max_norm": 3.0,
        "epochs": 8,
        "straight_through": 3,
        "checkpoint_seconds": 0.0,
    }
    return small_run(directory, stop, **(rich | settings))


def weights(fitted: Fitted) -> bytes:
    """Return every parameter and buffer as bytes."""
    return b"".join(value.cpu().numpy().tobytes() for value in fitted.model.state_dict().values())
