"""Robustness: the accuracy on test images that are moved and rotated, as cameras and other programs produce them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bundle.manifest import IMAGE_SIZE
from training.augmentation.geometry import base_grid, inverse_affine, warp
from training.data.dataset import Images
from training.model.evaluation import BATCH, Poll, accuracy, logits_of
from training.model.mlp import Standardisation


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """An affine map, the same for every image."""

    rotation: float = 0.0
    """Degrees clockwise."""
    translation: tuple[float, float] = (0.0, 0.0)
    """Pixels to the right and down."""


CHANGES: Mapping[str, Change] = {
    "moved by 2 and 2 pixels": Change(translation=(2.0, 2.0)),
    "turned by 15 degrees": Change(rotation=15.0),
}
"""Name, in manifest, report and model card, to the change of the test images."""


def apply_change(images: npt.NDArray[np.uint8], change: Change, paper: int) -> npt.NDArray[np.uint8]:
    """Apply a change to `uint8[n, 28, 28]` with bilinear interpolation; `paper` fills what comes in from outside."""
    grid = base_grid(IMAGE_SIZE, torch.device("cpu"))
    affine = inverse_affine(
        torch.tensor([change.rotation]),
        torch.zeros(1),
        torch.ones(1, 2),
        torch.tensor([change.translation]),
    )
    parts = [
        warp(part.float(), grid, affine.expand(len(part), -1, -1), None, paper)
        for part in torch.split(torch.from_numpy(images), BATCH)
    ]
    changed: npt.NDArray[np.uint8] = torch.cat(parts).round_().clamp_(0, 255).to(torch.uint8).numpy()
    return changed


def accuracies(
    model: nn.Module, standardise: Standardisation, test: Images, paper: int, poll: Poll = lambda: None
) -> dict[str, float]:
    """Return the accuracy on the test images after each change, by its name.

    Args:
        model: on the CPU.
        standardise: the standardisation of its input.
        test: the test set.
        paper: value of the background, 0 for white on black and 255 for black on white.
        poll: called before each batch; it may raise.
    """
    found = {}
    for name, change in CHANGES.items():
        images = torch.from_numpy(apply_change(test.images, change, paper))
        logits = logits_of(model, standardise, images, poll)
        found[name] = accuracy(logits, test.labels)
    return found
