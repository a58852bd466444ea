"""Data augmentation: batches of images are deformed anew in every epoch, on the device.

The deformations, and the limits that reached 0.35% on MNIST, are those of Cireşan et al., "Deep, big, simple neural
nets for handwritten digit recognition", Neural Computation 22 (2010), section 2 (arXiv 1003.0358); the elastic
deformation is that of Simard, Steinkraus and Platt, "Best practices for convolutional neural networks applied to
visual document analysis", ICDAR 2003, section 2.

`counter_rng` draws the random numbers, and `geometry` moves the pixels.
"""

from enum import IntEnum

import torch

from bundle.manifest import IMAGE_SIZE
from common.errors import ConfigurationError
from training.augmentation.counter_rng import CounterRng, uniform, uniform_8bit
from training.augmentation.geometry import (
    base_grid,
    blur,
    blur_matrix,
    erase,
    inverse_affine,
    rectangles,
    warp,
)
from training.settings import AugmentationSettings

ERASING_TRIES = 10
"""As in torchvision's RandomErasing."""

CPU_CHUNK = 1024
"""Images deformed at once on a CPU, so that intermediate results stay in the L2 cache."""


class Lane(IntEnum):
    """The lanes of an image's random words, by their use. Adding one must not move the others."""

    ROTATION = 0
    SHEAR = 1
    ROTATE_OR_SHEAR = 2
    SCALING = 3
    """And 4: along x and y."""
    TRANSLATION = 5
    """And 6: along x and y."""
    ERASING = 7
    ERASING_PLACE = 8
    """And 9: top and left."""
    ERASING_TRIES = 10
    """To 29: areas, then aspect ratios."""
    ELASTIC = 32
    """To the end: four numbers a word, along x, then along y."""


LANES = Lane.ELASTIC + 2 * IMAGE_SIZE**2 // 4


class Augmenter:
    """Deforms batches of images, each by a function of (seed, epoch, index in the data set) and the image.

    The result is the same on every device up to float error (about 1e-3 grey levels of 255), whatever else is in the
    batch. Nothing synchronises with the device, no shape depends on values, and disabled deformations cost nothing.
    """

    def __init__(
        self,
        limits: AugmentationSettings,
        *,
        classes: int,
        seed: int,
        device: torch.device,
        paper: int = 0,
    ) -> None:
        """Prepare the tables on the device.

        Args:
            limits: of the deformations.
            classes: number of classes.
            seed: of the random numbers.
            device: of the images.
            paper: value of the background, 0 for white on black and 255 for black on white; it fills what comes in
                from outside the image, and erased rectangles.

        Raises:
            ConfigurationError: a gentle class does not exist.
            ValueError: the policy is still `auto`.
        """
        if limits.augmentation == "auto":
            raise ValueError("the augmentation policy is still 'auto': call apply_policy first")
        unknown = [label for label in limits.gentle_classes if label >= classes]
        if unknown:
            raise ConfigurationError(
                f"gentle_classes has class {unknown[0]}; there are {classes} classes, 0 to {classes - 1}"
            )
        self.limits = limits
        self.paper = paper
        self._rng = CounterRng(seed, LANES, device)
        self._grid = base_grid(IMAGE_SIZE, device)
        factors = torch.ones(classes)
        factors[list(limits.gentle_classes)] = limits.gentle_factor
        self._factors = factors.to(device)
        """`float32[classes]`: factors on the limits of rotation and shear."""
        self._blur = blur_matrix(limits.elastic_sigma or 1, IMAGE_SIZE, device)

    def __call__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        indices: torch.Tensor,
        epoch: int | torch.Tensor,
    ) -> torch.Tensor:
        """Return the deformed images, `float32[n, 28, 28]` in 0..255, not standardised.

        Args:
            images: `uint8[n, 28, 28]`.
            labels: `int64[n]`.
            indices: `int64[n]`, each image's index in the data set.
            epoch: an int, or for a CUDA graph `int32[]` or `int64[]` on the device.
        """
        if images.device.type == "cpu" and len(images) > CPU_CHUNK:
            chunks = [slice(start, start + CPU_CHUNK) for start in range(0, len(images), CPU_CHUNK)]
            return torch.cat([self._deform(images[c], labels[c], indices[c], epoch) for c in chunks])
        return self._deform(images, labels, indices, epoch)

    def _deform(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        indices: torch.Tensor,
        epoch: int | torch.Tensor,
    ) -> torch.Tensor:
        limits, pixels = self.limits, images.float()
        elastic = limits.elastic_alpha > 0
        if not (limits.has_affine or elastic or limits.erasing):
            return pixels
        keys = self._rng.keys(indices, epoch)
        words = self._rng.words(keys, 0, Lane.ELASTIC)
        if limits.has_affine or elastic:
            affine = self._affine(uniform(words), labels) if limits.has_affine else None
            displacement = self._elastic(keys) if elastic else None
            pixels = warp(pixels, self._grid, affine, displacement, self.paper)
        if limits.erasing:
            pixels = erase(pixels, self._rectangles(uniform(words)), self.paper)
        return pixels

    def _affine(self, draws: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the affine maps, `float32[n, 2, 3]`, by the uniform numbers `float32[n, 32]`."""
        limits, signed = self.limits, 2 * draws - 1
        factor = self._factors[labels]
        rotation = signed[:, Lane.ROTATION] * (factor * limits.rotation)
        shear = signed[:, Lane.SHEAR] * (factor * limits.shear)
        if limits.rotate_or_shear:
            rotate = draws[:, Lane.ROTATE_OR_SHEAR] < 0.5
            rotation, shear = rotation * rotate, shear * ~rotate
        scale = 1 + limits.scaling * signed[:, Lane.SCALING : Lane.SCALING + 2]
        translation = limits.translation * signed[:, Lane.TRANSLATION : Lane.TRANSLATION + 2]
        return inverse_affine(rotation, shear, scale, translation)

    def _elastic(self, keys: torch.Tensor) -> torch.Tensor:
        """Return the displacements, `float32[n, 2, 28, 28]` in pixels: alpha times blurred noise."""
        words = self._rng.words(keys, Lane.ELASTIC, LANES - Lane.ELASTIC)
        fields = uniform_8bit(words).view(-1, 2, IMAGE_SIZE, IMAGE_SIZE)
        return blur(fields, self._blur).mul_(self.limits.elastic_alpha)

    def _rectangles(self, draws: torch.Tensor) -> torch.Tensor:
        """Return the rectangles to erase, `int64[n, 4]`, by the uniform numbers `float32[n, 32]`."""
        limits = self.limits
        return rectangles(
            draws[:, Lane.ERASING] < limits.erasing,
            draws[:, Lane.ERASING_TRIES : Lane.ERASING_TRIES + 2 * ERASING_TRIES].view(-1, 2, ERASING_TRIES),
            draws[:, Lane.ERASING_PLACE : Lane.ERASING_PLACE + 2],
            limits.erasing_area,
            limits.erasing_aspect,
            IMAGE_SIZE,
        )
