"""The input contract of an image: its size and its polarity. The decoder imports nothing heavier."""

from typing import Literal

IMAGE_SIZE = 28
PIXELS = IMAGE_SIZE * IMAGE_SIZE
Polarity = Literal["white-on-black", "black-on-white"]
WHITE_ON_BLACK: Polarity = "white-on-black"
BLACK_ON_WHITE: Polarity = "black-on-white"
PAPER: dict[Polarity, int] = {WHITE_ON_BLACK: 0, BLACK_ON_WHITE: 255}
"""Polarity to the value of the background pixels."""
