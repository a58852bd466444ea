"""What keeps a file from being an image for the model, and a file that is built to cost its reader much."""

from enum import StrEnum


class ImageFault(StrEnum):
    """What keeps a file from being an image for the model; the values are words to count files by."""

    EMPTY = "empty file"
    FORMAT = "not a PNG, JPEG, GIF, BMP, WebP or TIFF image"
    SIZE = "not 28x28"
    TOO_LARGE = "a file of more than 1 MiB"
    ANIMATED = "several frames"
    PIXEL_RANGE = "pixels of 32 bits, without a known range"
    DAMAGED = "damaged"


class ImageError(Exception):
    """A file is no image that the model takes; the message is a sentence about this file."""

    def __init__(self, kind: ImageFault, detail: str, *, found: str = "") -> None:
        super().__init__(detail)
        self.kind = kind
        """The same for all files with this trouble, to count and to decide by."""
        self.detail = detail
        self.found = found
        """What was found, in a few words to stand behind those of `kind`; empty if they say it all."""


class HostileImageError(Exception):
    """A small file is built to cost a parser much; the message says by what, in a few words."""
