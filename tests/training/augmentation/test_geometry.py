"""The geometry of augmentation, against torchvision, torch.rot90 and sums written out."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as reference

from training.augmentation.geometry import (
    base_grid,
    blur,
    blur_matrix,
    erase,
    inverse_affine,
    rectangles,
    warp,
)

CPU = torch.device("cpu")
SIZE = 28
GRID = base_grid(SIZE, CPU)


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    """Return noise, `float32[count, 28, 28]` in 0..255: no two neighbours alike."""
    return torch.rand(count, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) * 255


def maps(
    *,
    rotation: float = 0,
    shear: float = 0,
    scale: tuple[float, float] = (1, 1),
    translation: tuple[float, float] = (0, 0),
) -> torch.Tensor:
    """Return one affine map, `float32[1, 2, 3]`, from plain numbers."""
    return inverse_affine(
        torch.tensor([float(rotation)]),
        torch.tensor([float(shear)]),
        torch.tensor([scale], dtype=torch.float32),
        torch.tensor([translation], dtype=torch.float32),
    )


def assert_pixels(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Compare pixels of 0..255 to a hundredth of a step: float32 coordinates allow no more."""
    torch.testing.assert_close(actual, expected, atol=1e-2, rtol=0)


angles = st.floats(-180, 180, width=32)


@settings(deadline=None)
@given(
    angles,
    st.floats(-50, 50, width=32),
    st.floats(0.5, 2, width=32),
    st.tuples(st.floats(-9, 9, width=32), st.floats(-9, 9, width=32)),
)
def test_affine_equals_torchvision(
    rotation: float, shear: float, scale: float, translation: tuple[float, float]
) -> None:
    """Rotation, shear, scale and translation together move pixels where torchvision moves them.

    Without `fill`, that is: with one, torchvision weighs the pixels at the image's edge twice.
    """
    images = pictures(2)
    affine = maps(rotation=rotation, shear=shear, scale=(scale, scale), translation=translation)
    expected = reference.affine(
        images[:, None],
        angle=rotation,
        translate=list(translation),
        scale=scale,
        shear=[shear, 0.0],
        interpolation=reference.InterpolationMode.BILINEAR,
    )[:, 0]
    assert_pixels(warp(images, GRID, affine.expand(2, 2, 3), None), expected)


def test_elastic_equals_torchvision() -> None:
    """A displacement field moves pixels where torchvision's elastic moves them."""
    images = pictures(1)
    field = (pictures(2, seed=1) / 255 - 0.5) * 8
    halves = (field * 2 / SIZE).permute(1, 2, 0)[None]
    expected = reference.elastic(
        images,
        halves,
        interpolation=reference.InterpolationMode.BILINEAR,
    )
    assert_pixels(warp(images, GRID, None, field[None]), expected)


def test_maps_add_up() -> None:
    """The affine place and the displacement are added: a translation by either, or half by each, is one."""
    images, field = pictures(1), torch.zeros(1, 2, SIZE, SIZE)
    field[:, 0], field[:, 1] = -1, -2
    expected = warp(images, GRID, maps(translation=(2, 4)), None)
    assert_pixels(warp(images, GRID, maps(translation=(1, 2)), field), expected)
    assert_pixels(warp(images, GRID, None, 2 * field), expected)


@given(st.integers(-30, 30), st.integers(-30, 30))
def test_whole_pixels_move_unchanged(x: int, y: int) -> None:
    """A translation by whole pixels moves every pixel there, and paper comes in."""
    images = pictures(1)
    padded = torch.zeros(1, 3 * 32, 3 * 32)
    padded[:, 32 + y : 60 + y, 32 + x : 60 + x] = images
    assert_pixels(warp(images, GRID, maps(translation=(x, y)), None), padded[:, 32:60, 32:60])


@pytest.mark.parametrize("turns", [-1, 1, 2, 3])
def test_quarter_turns_are_exact(turns: int) -> None:
    """Rotation by 90 degrees clockwise is torch.rot90 backwards."""
    images = pictures(3)
    turned = warp(images, GRID, maps(rotation=90 * turns).expand(3, 2, 3), None)
    assert_pixels(turned, torch.rot90(images, -turns, (1, 2)))


def test_scales_are_separate() -> None:
    """A scale of (2, 1) doubles the width about the centre and leaves the height alone."""
    images = torch.zeros(1, SIZE, SIZE)
    images[:, 10:12, 12:16] = 100
    wide = warp(images, GRID, maps(scale=(2, 1)), None)[0]
    assert_pixels(wide[:10].sum() + wide[12:].sum(), torch.tensor(0.0))
    assert_pixels(wide[10, 10:18], torch.tensor([75.0] + 6 * [100.0] + [75.0]))
    assert_pixels(wide[10, 9], torch.tensor(25.0))


@pytest.mark.parametrize(
    ("arguments", "forward"),
    [
        ({"scale": (1.5, 0.8)}, [[1.5, 0, 0], [0, 0.8, 0], [0, 0, 1]]),
        ({"shear": 45.0}, [[1, -1, 0], [0, 1, 0], [0, 0, 1]]),
        ({"rotation": 30.0}, [[3**0.5 / 2, -0.5, 0], [0.5, 3**0.5 / 2, 0], [0, 0, 1]]),
        ({"translation": (3.0, -2.0)}, [[1, 0, 3], [0, 1, -2], [0, 0, 1]]),
        ({"shear": 45.0, "scale": (2.0, 3.0), "translation": (1.0, 0.0)}, [[2, -3, 1], [0, 3, 0], [0, 0, 1]]),
    ],
    ids=str,
)
def test_maps_invert_matrices_made_by_hand(arguments: dict[str, Any], forward: list[list[float]]) -> None:
    """The map from output to input is the inverse of the matrix in the textbook, scale first."""
    expected = torch.linalg.inv(torch.tensor(forward, dtype=torch.float32))[None, :2]
    torch.testing.assert_close(maps(**arguments), expected)


def test_each_image_has_its_own_map() -> None:
    """A batch gives what its images give one by one."""
    images = pictures(4)
    affine = torch.cat([maps(rotation=20 * i, translation=(i, 0)) for i in range(4)])
    field = pictures(8, seed=2).view(4, 2, SIZE, SIZE) / 50
    together = warp(images, GRID, affine, field)
    for i in range(4):
        one = slice(i, i + 1)
        assert_pixels(together[one], warp(images[one], GRID, affine[one], field[one]))


def test_nothing_is_written_into_arguments() -> None:
    """Images, maps and fields are as they were."""
    images, affine, field = pictures(1), maps(rotation=5), torch.ones(1, 2, SIZE, SIZE)
    warp(images, GRID, affine, field, paper=255)
    warp(images, GRID, None, field, paper=255)
    assert torch.equal(images, pictures(1))
    assert torch.equal(affine, maps(rotation=5))
    assert torch.equal(field, torch.ones(1, 2, SIZE, SIZE))
    assert torch.equal(base_grid(SIZE, CPU), GRID)


def test_paper_comes_in() -> None:
    """Black on white deforms as the negative of white on black does."""
    images, affine = pictures(1), maps(rotation=30, translation=(6, 0))
    assert_pixels(warp(255 - images, GRID, affine, None, paper=255), 255 - warp(images, GRID, affine, None))


def direct_blur(field: npt.NDArray[np.float64], sigma: float) -> npt.NDArray[np.float64]:
    """Convolve with a 2-D Gaussian, pixel by pixel, on a field continued by reflection."""
    radius = int(8 * sigma + 1) // 2
    weights = np.array(
        [
            [math.exp(-(x * x + y * y) / (2 * sigma**2)) for x in range(-radius, radius + 1)]
            for y in range(-radius, radius + 1)
        ]
    )
    weights /= weights.sum()
    padded = np.pad(field, radius, mode="reflect")
    blurred = np.empty_like(field)
    for y, x in np.ndindex(field.shape):
        blurred[y, x] = (padded[y : y + 2 * radius + 1, x : x + 2 * radius + 1] * weights).sum()
    return blurred


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.7, 4.0, 6.0, 8.0, 20.0])
def test_the_blur_is_a_convolution(sigma: float) -> None:
    """K @ D @ K.T is the direct convolution, for blurs wider than the image too."""
    field = pictures(1)[0]
    expected = direct_blur(field.double().numpy(), sigma)
    ours = blur(field, blur_matrix(sigma, SIZE, CPU)).numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-3)


@pytest.mark.parametrize("sigma", [1.0, 4.0, 5.5])
def test_the_blur_is_that_of_torchvision(sigma: float) -> None:
    """Radius, reflection and weights are those by which torchvision's ElasticTransform blurs."""
    fields, width = pictures(2), int(8 * sigma + 1) | 1
    expected = reference.gaussian_blur(fields[:, None], [width, width], [sigma, sigma])[:, 0]
    torch.testing.assert_close(blur(fields, blur_matrix(sigma, SIZE, CPU)), expected, atol=2e-3, rtol=0)


@given(st.floats(0.05, 100), st.integers(1, 64))
def test_a_blur_keeps_what_is_flat(sigma: float, size: int) -> None:
    """The rows of K sum to 1 and none of its entries is negative."""
    matrix = blur_matrix(sigma, size, CPU)
    assert matrix.min() >= 0
    torch.testing.assert_close(matrix.sum(1), torch.ones(size))


@given(st.integers(0, 27), st.integers(0, 27), st.integers(0, 28), st.integers(0, 28))
def test_erasing_equals_torchvision(top: int, left: int, height: int, width: int) -> None:
    """The rectangle, and nothing beside it, becomes paper."""
    images = pictures(1)
    boxes = torch.tensor([[top, left, height, width]])
    expected = reference.erase(images, top, left, height, width, torch.tensor(7.0))
    assert torch.equal(erase(images, boxes, 7), expected)


def draw_rectangles(count: int, area: tuple[float, float], aspect: tuple[float, float]) -> torch.Tensor:
    """Choose rectangles by torch's own generator, `int64[count, 4]`."""
    generator = torch.Generator().manual_seed(1)
    return rectangles(
        torch.ones(count, dtype=torch.bool),
        torch.rand(count, 2, 10, generator=generator),
        torch.rand(count, 2, generator=generator),
        area,
        aspect,
        SIZE,
    )


@settings(deadline=None)
@given(
    st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda pair: (min(pair), max(pair))),
    st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)).map(lambda pair: (min(pair), max(pair))),
)
def test_rectangles_lie_inside(area: tuple[float, float], aspect: tuple[float, float]) -> None:
    """Whatever the limits, a rectangle is inside of the image and of its limits up to rounding."""
    top, left, height, width = draw_rectangles(200, area, aspect).unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= SIZE).all()
    assert (left + width <= SIZE).all()
    some = (height > 0) & (width > 0)
    assert ((height + 0.5) * (width + 0.5) >= area[0] * SIZE**2 - 1e-3)[some].all()
    assert ((height - 0.5) * (width - 0.5) <= area[1] * SIZE**2 + 1e-3)[some].all()


def test_rectangles_are_distributed_as_in_torchvision() -> None:
    """Means and deviations of the four numbers agree with RandomErasing's own draws."""
    from torchvision.transforms import RandomErasing

    torch.manual_seed(0)
    count, image = 4000, torch.zeros(1, SIZE, SIZE)
    theirs = torch.tensor(
        [RandomErasing.get_params(image, (0.02, 0.33), (0.3, 3.3))[:4] for _ in range(count)]
    ).double()
    ours = draw_rectangles(count, (0.02, 0.33), (0.3, 3.3)).double()
    error = (theirs.var(0) * 2 / count).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 4 * error).all()
    assert ((ours.std(0) / theirs.std(0) - 1).abs() < 0.06).all()


def test_the_aspect_is_height_by_width() -> None:
    """Ratios above 1 give what is taller than wide."""
    boxes = draw_rectangles(100, (0.1, 0.2), (2, 3))
    assert (boxes[:, 2] > 1.5 * boxes[:, 3]).all()


def test_impossible_rectangles_are_none() -> None:
    """Where no try fits, or chance is against it, nothing is erased."""
    assert not draw_rectangles(50, (1, 1), (1, 1))[:, 2:].any()
    boxes = rectangles(
        torch.tensor([False]), torch.full((1, 2, 10), 0.5), torch.zeros(1, 2), (0.1, 0.2), (1, 1), SIZE
    )
    assert torch.equal(erase(pictures(1), boxes), pictures(1))
