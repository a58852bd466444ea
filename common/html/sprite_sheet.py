"""Sprite sheets: many images in one PNG, of which CSS shows one at a time (`.cards i` in `frame.py`).

A thousand small PNG files in a page take four times the bytes of one sprite sheet.
"""

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

COLUMNS = 64
"""Sprites in a row: the sheet is 1,792 pixels wide, and 28 high for each 64 images; browsers take 16,384 either way."""
ZOOM = 2
WIDTH = COLUMNS * 28 * ZOOM
"""Width of the sprite sheet on the page, in CSS pixels."""


def render(images: npt.NDArray[np.uint8], greys: int = 256) -> str:
    """Return the sprite sheet of `uint8[n, 28, 28]` as the data URI of a PNG; of no images, an empty URI.

    Args:
        images: in the order of their positions.
        greys: how many grey levels are kept; fewer make a smaller file.
    """
    if not len(images):
        return "data:,"
    rows = -(-len(images) // COLUMNS)
    full = np.zeros((rows * COLUMNS, 28, 28), dtype=np.uint8)  # the last row is padded
    full[: len(images)] = images
    pixels = full.reshape(rows, COLUMNS, 28, 28).swapaxes(1, 2).reshape(rows * 28, COLUMNS * 28)
    if greys == 256:
        return png(Image.fromarray(pixels))
    step = 255 / (greys - 1)
    image = Image.fromarray(np.rint(pixels / step).astype(np.uint8))
    image.putpalette([round(level * step) for level in range(greys) for _ in "rgb"])
    return png(image)


def sprite(position: int, label: str) -> str:
    """Return the HTML of the sprite at `position`; `label` is its text alternative, as HTML."""
    place = f"--x:{position % COLUMNS};--y:{position // COLUMNS}"
    return f'<i role="img" aria-label="{label}" style="{place}"></i>'


def png(image: Image.Image, transparency: bytes | None = None) -> str:
    """Return the image as the data URI of a PNG."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {} if transparency is None else {"transparency": transparency}
    image.save(buffer, format="PNG", optimize=True, **options)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
