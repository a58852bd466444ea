"""The input contract of an image: size, polarity, and how others are resized. The decoder imports nothing heavier."""

from typing import Literal, get_args

IMAGE_SIZE = 28
PIXELS = IMAGE_SIZE * IMAGE_SIZE
Polarity = Literal["white-on-black", "black-on-white"]
WHITE_ON_BLACK: Polarity = "white-on-black"
BLACK_ON_WHITE: Polarity = "black-on-white"
PAPER: dict[Polarity, int] = {WHITE_ON_BLACK: 0, BLACK_ON_WHITE: 255}
"""Polarity to the value of the background pixels."""

Resize = Literal["fit", "pad", "mnist"]
"""How an image of any size becomes 28x28; `resizing.resize` describes the three."""
RESIZES: tuple[Resize, ...] = get_args(Resize)
