"""Small data sets as files, for the commands that load their own."""

from pathlib import Path

import numpy as np

from training.data.dataset import Images


def noisy(count: int, seed: int) -> Images:
    """Return images of three classes, each slightly brighter in another third: hard enough to err on."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = generator.integers(0, 200, (count, 28, 28), dtype=np.uint8)
    for index, label in enumerate(labels):
        images[index, 9 * label : 9 * label + 9] += 10
    return Images(images=images, labels=labels.astype(np.int64))


def archive(path: Path, training: int = 360, test: int = 90) -> str:
    """Write a NumPy archive of noisy images and return what `--data` takes for it."""
    train, held_out = noisy(training, 1), noisy(test, 2)
    np.savez(path, x_train=train.images, y_train=train.labels, x_test=held_out.images, y_test=held_out.labels)
    return f"npz:{path}"
