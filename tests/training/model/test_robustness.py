"""Robustness: moved and rotated test images, against slices and torchvision, and what the report says of them."""

import numpy as np
import torch
from torch import nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from bench.support.runs import blobs
from training.data.dataset import Images
from training.model.mlp import Standardisation
from training.model.robustness import CHANGES, Change, accuracies, apply_change


def test_a_move_is_a_slice() -> None:
    """Moved by 2 and 2 pixels, an image is exactly its upper left part, with paper at the left and the top."""
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    for paper in (0, 255):
        expected = np.full_like(images, paper)
        expected[:, 2:, 2:] = images[:, :-2, :-2]
        assert (apply_change(images, CHANGES["moved by 2 and 2 pixels"], paper) == expected).all()


def test_a_turn_is_torchvisions() -> None:
    """Turned by 15 degrees, an image is what torchvision's rotation gives, to one step of 255."""
    images = blobs(20, 0).images
    turned = apply_change(images, CHANGES["turned by 15 degrees"], 0).astype(int)
    theirs = functional.rotate(
        torch.from_numpy(images)[:, None].float(), -15, interpolation=v2.InterpolationMode.BILINEAR
    )[:, 0]
    assert abs(turned - theirs.numpy()).max() <= 1


def test_no_change_changes_nothing() -> None:
    """The identity gives every pixel back."""
    images = np.random.default_rng(1).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    assert (apply_change(images, Change(), 0) == images).all()


class LeftOrRight(nn.Module):
    """Says 1 where the ink's centre is right of a column."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return `float32[n, 2]` of `float32[n, 784]`."""
        columns = pixels.view(-1, 28, 28).sum(1)
        centre = (columns * torch.arange(28)).sum(1) / columns.sum(1)
        return torch.stack([15 - centre, centre - 15], dim=1)


def test_accuracy_is_counted_on_the_changed_images() -> None:
    """A model that goes by the place of the ink fails where the ink was moved across, and only there."""
    generator = np.random.default_rng(2)
    images = np.zeros((40, 28, 28), dtype=np.uint8)
    columns = generator.choice([10, 14, 20], 40)
    images[np.arange(40), 13, columns] = 255
    test = Images(images=images, labels=(columns > 15).astype(np.int64))
    found = accuracies(LeftOrRight(), Standardisation(mean=0.0, deviation=1.0), test, 0)
    assert found.keys() == CHANGES.keys()
    assert found["moved by 2 and 2 pixels"] == (columns != 14).mean()
    assert found["turned by 15 degrees"] == 1
