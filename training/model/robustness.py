"""How good a model is on test images that are moved and turned, as a camera or another program gives them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bundle.manifest import IMAGE_SIZE
from training.augmentation.geometry import base_grid, inverse_affine, warp
from training.data.dataset import Images
from training.model.evaluation import BATCH, Poll, logits_of
from training.model.mlp import Standardisation


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One affine map, the same for every image."""

    rotation: float = 0.0
    """Degrees clockwise."""
    translation: tuple[float, float] = (0.0, 0.0)
    """Pixels to the right and down."""


CHANGES: Mapping[str, Change] = {
    "moved by 2 and 2 pixels": Change(translation=(2.0, 2.0)),
    "turned by 15 degrees": Change(rotation=15.0),
}
"""What is done to the test images, by the name that manifest, report and model card have."""


def apply_change(images: npt.NDArray[np.uint8], change: Change, paper: int) -> npt.NDArray[np.uint8]:
    """Return `uint8[n, 28, 28]` changed, interpolated bilinearly and rounded; `paper` comes in from outside."""
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
    """Return the accuracy on the test images after each of the changes.

    Args:
        model: on the CPU.
        standardise: what comes before it.
        test: the images and their classes.
        paper: the pixel around the ink, 0 for white on black and 255 for black on white.
        poll: called before each batch, and may raise.
    """
    found = {}
    for name, change in CHANGES.items():
        images = torch.from_numpy(apply_change(test.images, change, paper))
        logits = logits_of(model, standardise, images, poll)
        found[name] = float((logits.argmax(axis=1) == test.labels).mean())
    return found
