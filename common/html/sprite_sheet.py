"""Many images as one picture, out of which a page cuts each of them: what `.cards i` in `page.py` shows.

A thousand small PNG files in a page cost four times the bytes of one large one.
"""

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

COLUMNS = 64
"""Of the sheet: 1792 pixels wide, and 28 rows high for each 64 images; browsers take 16384 either way."""
ZOOM = 2
WIDTH = COLUMNS * 28 * ZOOM
"""Of the sheet on the page, in CSS pixels."""


def render(images: npt.NDArray[np.uint8], greys: int = 256) -> str:
    """Return `uint8[n, 28, 28]` as one PNG's data URI, 64 in a row; no image is an empty URI.

    Args:
        images: in the order of their positions.
        greys: how many shades are kept; fewer make a smaller picture.
    """
    if not len(images):
        return "data:,"
    columns = COLUMNS  # a short row is filled up, so that the positions stay the same
    rows = -(-len(images) // columns)
    full = np.zeros((rows * columns, 28, 28), dtype=np.uint8)
    full[: len(images)] = images
    pixels = full.reshape(rows, columns, 28, 28).swapaxes(1, 2).reshape(rows * 28, columns * 28)
    if greys == 256:
        return png(Image.fromarray(pixels))
    step = 255 / (greys - 1)
    image = Image.fromarray(np.rint(pixels / step).astype(np.uint8))
    image.putpalette([round(level * step) for level in range(greys) for _ in "rgb"])
    return png(image)


def sprite(position: int, label: str) -> str:
    """Return the HTML of one image of the sheet; `label` is HTML for who does not see it."""
    place = f"--x:{position % COLUMNS};--y:{position // COLUMNS}"
    return f'<i role="img" aria-label="{label}" style="{place}"></i>'


def png(image: Image.Image, transparency: bytes | None = None) -> str:
    """Return the image as the data URI of a PNG."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {} if transparency is None else {"transparency": transparency}
    image.save(buffer, format="PNG", optimize=True, **options)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
