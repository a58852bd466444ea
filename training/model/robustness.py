"""Robustness: the predictions for test images that are moved, turned, scaled, thicker, noisy or inverted.

So do cameras, scanners and other programs produce them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from bundle.manifest import IMAGE_SIZE
from training.augmentation.geometry import base_grid, inverse_affine, warp
from training.model.evaluation import BATCH, Labels, Poll, logits_of
from training.model.mlp import Standardisation

MOST_IMAGES = 10_000
"""Most test images of which the changes are computed: an error is accurate to 0.2 percentage points."""
NOISE_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A change of the images: an affine map about the centre and the ink's width, then noise, then inversion."""

    rotation: float = 0.0
    """Degrees clockwise."""
    translation: tuple[float, float] = (0.0, 0.0)
    """Pixels to the right and down."""
    scale: float = 1.0
    """Factor of width and height."""
    ink: int = 0
    """Pixels by which the ink is wider along each axis, or narrower if negative."""
    gaussian: float = 0.0
    """Standard deviation of Gaussian noise that is added to every pixel, of 255."""
    salt_and_pepper: float = 0.0
    """Probability that a pixel becomes black or white, each as often."""
    inverted: bool = False
    """Whether black becomes white."""


CHANGES: Mapping[str, Change] = {
    "moved by 2 pixels to the right": Change(translation=(2.0, 0.0)),
    "moved by 1 and 1 pixels": Change(translation=(1.0, 1.0)),
    "moved by 2 and 2 pixels": Change(translation=(2.0, 2.0)),
    "moved by 3 and 3 pixels": Change(translation=(3.0, 3.0)),
    "turned by 15 degrees": Change(rotation=15.0),
    "turned by 15 degrees to the left": Change(rotation=-15.0),
    "turned by 30 degrees": Change(rotation=30.0),
    "scaled to 80%": Change(scale=0.8),
    "scaled to 120%": Change(scale=1.2),
    "ink a pixel thicker": Change(ink=1),
    "ink a pixel thinner": Change(ink=-1),
    "with Gaussian noise of 32 of 255": Change(gaussian=32.0),
    "with salt and pepper on 5% of the pixels": Change(salt_and_pepper=0.05),
    "inverted": Change(inverted=True),
}
"""Name, in manifest, report and model card, to the change of the test images."""


def apply_change(images: npt.NDArray[np.uint8], change: Change, paper: int) -> npt.NDArray[np.uint8]:
    """Apply a change to `uint8[n, 28, 28]` with bilinear interpolation; `paper` fills what comes in from outside.

    The noise is the same in every call.
    """
    grid = base_grid(IMAGE_SIZE, torch.device("cpu"))
    affine = inverse_affine(
        torch.tensor([change.rotation]),
        torch.zeros(1),
        torch.full((1, 2), change.scale),
        torch.tensor([change.translation]),
    )
    random = np.random.default_rng(NOISE_SEED)
    changed = np.empty_like(images)
    for start in range(0, len(images), BATCH):
        part = torch.from_numpy(images[start : start + BATCH]).float()
        moved = warp(part, grid, affine.expand(len(part), -1, -1), None, paper)
        found = (_widen(moved, change.ink, paper) if change.ink else moved).numpy()
        if change.gaussian:
            found += change.gaussian * random.standard_normal(found.shape, dtype=np.float32)
        if change.salt_and_pepper:
            drawn = random.random(found.shape, dtype=np.float32)
            found[drawn < change.salt_and_pepper] = 255
            found[drawn < change.salt_and_pepper / 2] = 0
        changed[start : start + BATCH] = np.rint(found).clip(0, 255)
    return 255 - changed if change.inverted else changed


def _widen(images: torch.Tensor, pixels: int, paper: int) -> torch.Tensor:
    """Return `float32[n, 28, 28]` with the ink `pixels` wider, or narrower: grey dilation, or erosion, by a square."""
    is_lighter = (paper < 128) == (pixels > 0)
    sign = 1 if is_lighter else -1  # the minimum is the maximum of the negative
    side = abs(pixels)
    padded = functional.pad(sign * images, (side, 0, side, 0), value=sign * paper)
    return sign * functional.max_pool2d(padded[:, None], side + 1, stride=1)[:, 0]


def indices(images: int) -> npt.NDArray[np.int64]:
    """Return the indices of the test images that are changed: all, or `MOST_IMAGES` of them, evenly spaced."""
    return np.linspace(0, images - 1, min(images, MOST_IMAGES)).astype(np.int64)


def predictions(
    model: nn.Module,
    standardise: Standardisation,
    images: npt.NDArray[np.uint8],
    paper: int,
    changes: Mapping[str, Change] = CHANGES,
    poll: Poll = lambda: None,
) -> dict[str, Labels]:
    """Return the predicted classes, `int64[n]`, of the images after each change, by its name.

    Args:
        model: on the CPU.
        standardise: the standardisation of its input.
        images: `uint8[n, 28, 28]`.
        paper: value of the background, 0 for white on black and 255 for black on white.
        changes: the changes, by name.
        poll: called before each batch; it may raise.
    """
    found = {}
    for name, change in changes.items():
        changed = torch.from_numpy(apply_change(images, change, paper))
        found[name] = logits_of(model, standardise, changed, poll).argmax(axis=1)
    return found


def accuracies(predicted: Mapping[str, Labels], labels: Labels) -> dict[str, float]:
    """Return the accuracy after each change, by its name; `labels` are those of the changed images, `int64[n]`."""
    return {name: float((found == labels).mean()) for name, found in predicted.items()}
