"""MNIST's preparation written a second time, with NumPy and by another method, to compare the page with."""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Pixels = npt.NDArray[np.uint8]
Points = list[tuple[float, float]]

PAD = 280
FINER = 8


def crop(ink: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the smallest part of a picture that holds all its ink."""
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def area_mean(picture: npt.NDArray[np.float64], length: int) -> npt.NDArray[np.float64]:
    """Shrink or stretch the first axis: differences of the integral, which is linear between pixels."""
    integral = np.vstack([np.zeros((1, picture.shape[1])), picture.cumsum(axis=0)])
    edges = np.linspace(0, len(picture), length + 1)
    at = np.array([np.interp(edges, np.arange(len(integral)), column) for column in integral.T]).T
    result: npt.NDArray[np.float64] = np.diff(at, axis=0) * (length / len(picture))
    return result


def prepare(ink: Pixels) -> Pixels:
    """Return `uint8[28, 28]`: fitted into 20x20 with grey levels, the centre of mass on pixel 14."""
    part = crop(ink).astype(np.float64)
    height, width = (max(1, int(side * 20 / max(part.shape) + 0.5)) for side in part.shape)
    fitted = area_mean(area_mean(part, height).T, width).T
    top, left = (
        int(np.clip(np.floor(14 - centre + 0.5), 0, 28 - side))
        for centre, side in zip(centre_of_mass(fitted), fitted.shape, strict=True)
    )
    field = np.zeros((28, 28), np.uint8)
    field[top : top + height, left : left + width] = np.rint(fitted)
    return field


def centre_of_mass(picture: Pixels | npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return (row, column) of the centre of mass, pixels counted from 0."""
    rows, columns = np.indices(picture.shape).astype(np.float64)
    weights = picture.astype(np.float64)
    return float(np.average(rows, weights=weights)), float(np.average(columns, weights=weights))


def drawn(strokes: list[Points], pen: float) -> Pixels:
    """Return strokes with a round pen as Pillow draws them, `uint8[280, 280]`, points in 0..1."""
    image = Image.new("L", (PAD * FINER, PAD * FINER))
    draw = ImageDraw.Draw(image)
    radius = pen * FINER / 2
    for stroke in strokes:
        points = [(x * PAD * FINER, y * PAD * FINER) for x, y in stroke]
        draw.line(points, fill=255, width=round(2 * radius))
        for x, y in points:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return np.asarray(image.reduce(FINER))
