"""The images of the contract: their size and their polarity. What decodes needs no more, and imports no more."""

from typing import Literal

IMAGE_SIZE = 28
PIXELS = IMAGE_SIZE * IMAGE_SIZE
Polarity = Literal["white-on-black", "black-on-white"]
WHITE_ON_BLACK: Polarity = "white-on-black"
BLACK_ON_WHITE: Polarity = "black-on-white"
PAPER: dict[Polarity, int] = {WHITE_ON_BLACK: 0, BLACK_ON_WHITE: 255}
"""The pixel around the ink."""
