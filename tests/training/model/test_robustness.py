"""Robustness: changed test images, against slices, torchvision, SciPy and counts, and the predictions for them."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from bench.support.runs import blobs
from training.model.mlp import Standardisation
from training.model.robustness import (
    CHANGES,
    MOST_IMAGES,
    Change,
    accuracies,
    apply_change,
    indices,
    predictions,
)


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


@pytest.mark.parametrize("name", ["moved by 2 pixels to the right", "moved by 3 and 3 pixels"])
def test_a_move_is_scipys(name: str) -> None:
    """Whole pixels, with paper behind."""
    images = np.random.default_rng(3).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    right, down = CHANGES[name].translation
    for paper in (0, 255):
        expected = ndimage.shift(images, (0, down, right), order=0, cval=paper)
        assert (apply_change(images, CHANGES[name], paper) == expected).all()


@pytest.mark.parametrize("name", ["scaled to 80%", "scaled to 120%"])
def test_a_scale_is_scipys(name: str) -> None:
    """About the centre, with width and height alike; SciPy interpolates between the same four pixels."""
    images = ndimage.gaussian_filter(blobs(10, 0).images.astype(np.float32), (0, 1, 1)).astype(np.uint8)
    factor = CHANGES[name].scale
    place = 13.5 - 13.5 / factor  # of output pixel 0 in the input
    expected = [
        ndimage.affine_transform(
            one.astype(np.float32), [1 / factor] * 2, place, order=1, mode="grid-constant"
        )
        for one in images
    ]
    assert abs(apply_change(images, CHANGES[name], 0) - np.array(expected)).max() <= 1


def test_thicker_and_thinner_ink_are_scipys_greatest_and_least_neighbours() -> None:
    """Of white on black, thick ink is the maximum of four neighbours and thin ink their minimum; else reversed."""
    images = np.random.default_rng(5).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    filters = {0: (ndimage.maximum_filter, ndimage.minimum_filter)}
    filters[255] = filters[0][::-1]
    for paper, (thick, thin) in filters.items():
        for name, chosen in (("ink a pixel thicker", thick), ("ink a pixel thinner", thin)):
            expected = chosen(images, size=(1, 2, 2), mode="constant", cval=paper)
            assert (apply_change(images, CHANGES[name], paper) == expected).all()


def test_noise_has_its_mean_and_deviation() -> None:
    """On mid grey, where nothing is cut off; each image has its own, and the same in every call."""
    images = np.full((400, 28, 28), 128, np.uint8)
    noisy = apply_change(images, CHANGES["with Gaussian noise of 32 of 255"], 0).astype(float) - 128
    assert abs(noisy.mean()) < 0.3
    assert abs(noisy.std() - 32) < 0.3
    assert abs(np.corrcoef(noisy[0].ravel(), noisy[1].ravel())[0, 1]) < 0.2
    assert (apply_change(images, CHANGES["with Gaussian noise of 32 of 255"], 0) == noisy + 128).all()


def test_salt_and_pepper_are_equally_frequent() -> None:
    """On 5% of the pixels together; all others stay."""
    images = np.full((400, 28, 28), 128, np.uint8)
    changed = apply_change(images, CHANGES["with salt and pepper on 5% of the pixels"], 0)
    counts = {
        int(value): count / images.size
        for value, count in zip(*np.unique(changed, return_counts=True), strict=True)
    }
    assert counts.keys() == {0, 128, 255}
    assert abs(counts[0] - 0.025) < 0.001
    assert abs(counts[255] - 0.025) < 0.001


def test_an_inverted_image_is_its_complement() -> None:
    """Black becomes white."""
    images = np.random.default_rng(4).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    assert (apply_change(images, CHANGES["inverted"], 0) == 255 - images).all()


def test_of_a_large_test_set_a_sample_is_changed() -> None:
    """Evenly spaced; a small one is taken whole."""
    assert (indices(7) == np.arange(7)).all()
    many = indices(4 * MOST_IMAGES)
    assert len(many) == MOST_IMAGES
    assert many[0] == 0
    assert many[-1] == 4 * MOST_IMAGES - 1
    assert set(np.diff(many)) == {4, 3} or set(np.diff(many)) == {4, 5}


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
    labels = (columns > 15).astype(np.int64)
    standardise = Standardisation(mean=0.0, deviation=1.0)
    found = accuracies(predictions(LeftOrRight(), standardise, images, 0), labels)
    assert found.keys() == CHANGES.keys()
    assert found["moved by 2 and 2 pixels"] == (columns != 14).mean()
    assert found["moved by 1 and 1 pixels"] == 1
    assert found["turned by 15 degrees"] == 1
