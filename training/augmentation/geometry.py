"""Deterministic geometry on batches of images: affine maps, elastic displacement fields, rectangles.

Coordinates are torchvision's: x to the right and y down, in pixels from the image's centre (13.5 pixels from the centre
of the first pixel); positive angles are clockwise.
"""

import math

import torch
from torch.nn import functional


def inverse_affine(
    rotation: torch.Tensor,
    shear: torch.Tensor,
    scale: torch.Tensor,
    translation: torch.Tensor,
) -> torch.Tensor:
    """Return the affine maps from output to input coordinates, `float32[n, 2, 3]`.

    The image is scaled along its own axes, sheared, rotated about its centre, then moved. With
    equal scales this is `torchvision.transforms.v2.functional.affine` with `shear=[shear, 0]`.

    Args:
        rotation: `float32[n]`, degrees clockwise.
        shear: `float32[n]`, degrees by which vertical strokes lean to the right.
        scale: `float32[n, 2]`, factors along x and y, nonzero.
        translation: `float32[n, 2]`, pixels to the right and down.
    """
    angle, lean = torch.deg2rad(rotation), torch.tan(torch.deg2rad(shear))
    cosine, sine = torch.cos(angle), torch.sin(angle)
    linear = torch.stack((cosine - lean * sine, sine + lean * cosine, -sine, cosine), dim=1).view(-1, 2, 2)
    linear = linear / scale[:, :, None]
    shift = -(linear * translation[:, None, :]).sum(dim=2, keepdim=True)
    return torch.cat((linear, shift), dim=2)


def base_grid(size: int, device: torch.device) -> torch.Tensor:
    """Return the homogeneous coordinates of an image's pixels, `float32[3, size * size]`: x, y and 1.

    x and y are in half image widths (a pixel is 2 / size), as `grid_sample` requires.
    """
    axis = (torch.arange(size, device=device) * 2 + 1) / size - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack((x, y, torch.ones_like(x))).view(3, -1)


def warp(
    images: torch.Tensor,
    grid: torch.Tensor,
    affine: torch.Tensor | None,
    displacement: torch.Tensor | None,
    paper: float = 0,
) -> torch.Tensor:
    """Resample `float32[n, size, size]` once, bilinearly, by both maps together.

    Output pixel p is the input at `affine(p) + displacement(p)`, or `paper` outside the image.

    Args:
        images: the images to deform.
        grid: `base_grid(size, device)`.
        affine: `float32[n, 2, 3]` in pixels, from `inverse_affine`; None is the identity.
        displacement: `float32[n, 2, size, size]` in pixels along x and y; None is zero.
        paper: the value outside the images.
    """
    count, size = len(images), images.shape[-1]
    if affine is None:
        places = grid[:2].repeat(count, 1, 1)
    else:
        # The translation is in pixels, the grid in half widths; the linear part is dimensionless.
        places = torch.cat((affine[:, :, :2], affine[:, :, 2:] * (2 / size)), dim=2) @ grid
    if displacement is not None:
        places.add_(displacement.flatten(2), alpha=2 / size)
    places = places.view(count, 2, size, size).permute(0, 2, 3, 1)
    moved = functional.grid_sample(
        (images - paper if paper else images)[:, None],
        places,
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )[:, 0]
    return moved.add_(paper) if paper else moved


def blur_matrix(sigma: float, size: int, device: torch.device) -> torch.Tensor:
    """Return K, `float32[size, size]`, such that K @ D @ K.T is D blurred by a Gaussian of `sigma` pixels.

    D is padded by reflection, and the Gaussian is truncated at 4 sigma and normalised: as in torchvision's
    ElasticTransform, but for any sigma (there, 4 sigma must fit into the image).
    """
    radius = int(8 * sigma + 1) // 2
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    # Reflection that does not repeat the edge has period 2 (size - 1).
    period = max(2 * (size - 1), 1)
    places = (torch.arange(size)[:, None] + offsets) % period
    places = torch.minimum(places, period - places)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    matrix.scatter_add_(1, places, (weights / weights.sum()).expand(size, -1))
    return matrix.float().to(device)


def blur(fields: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Blur the last two axes of `float32[..., size, size]` by `blur_matrix`'s K."""
    return matrix @ (fields @ matrix.T)


def rectangles(
    chance: torch.Tensor,
    tries: torch.Tensor,
    place: torch.Tensor,
    area: tuple[float, float],
    aspect: tuple[float, float],
    size: int,
) -> torch.Tensor:
    """Choose a rectangle in each image, as torchvision's RandomErasing does.

    Area and aspect ratio (height by width, log-uniform) are drawn several times, and the first rectangle that fits is
    taken; if none fits, nothing is erased. Source: Zhong et al., "Random erasing data augmentation", AAAI 2020,
    algorithm 1.

    Args:
        chance: `bool[n]`, whether to erase.
        tries: uniform `float32[n, 2, t]`, for area and aspect ratio of each try.
        place: uniform `float32[n, 2]`, for the top and left edges.
        area: smallest and largest share of the image.
        aspect: smallest and largest aspect ratio.
        size: of the images.

    Returns:
        `int64[n, 4]`: top, left, height and width; height and width are 0 where nothing is erased.
    """
    share = (area[0] + (area[1] - area[0]) * tries[:, 0]) * size**2
    low, high = math.log(aspect[0]), math.log(aspect[1])
    ratio = torch.exp(low + (high - low) * tries[:, 1])
    sides = torch.stack((share * ratio, share / ratio), dim=1).sqrt().round().long()
    fits = (sides < size).all(dim=1) & chance[:, None]
    first = fits & (fits.cumsum(dim=1) == 1)
    chosen = (sides * first[:, None]).sum(dim=2)
    corner = (place * (size + 1 - chosen)).long()
    return torch.cat((corner, chosen), dim=1)


def erase(images: torch.Tensor, boxes: torch.Tensor, paper: float = 0) -> torch.Tensor:
    """Fill a rectangle of each of `float32[n, size, size]` with `paper`; `boxes` are from `rectangles`."""
    axis = torch.arange(images.shape[-1], device=images.device)
    start, end = boxes[:, :2, None], (boxes[:, :2] + boxes[:, 2:])[:, :, None]
    inside = (axis >= start) & (axis < end)
    return images.masked_fill(inside[:, 0, :, None] & inside[:, 1, None, :], paper)
