"""Why an image file cannot be used, and the error of a file that is built to exhaust its reader."""

from enum import StrEnum


class ImageFault(StrEnum):
    """Why a file is not usable as an image; the values are the categories in reports."""

    EMPTY = "empty file"
    FORMAT = "not a PNG, JPEG, GIF, BMP, WebP or TIFF image"
    SIZE = "not 28x28"
    TOO_LARGE = "a file of more than 1 MiB"
    ANIMATED = "several frames"
    PIXEL_RANGE = "pixels of 32 bits, without a known range"
    DAMAGED = "damaged"


class ImageError(Exception):
    """A file is not an image that the model accepts; the message is a sentence about this file."""

    def __init__(self, kind: ImageFault, detail: str, *, found: str = "") -> None:
        super().__init__(detail)
        self.kind = kind
        """The category, by which callers count files and choose a response."""
        self.detail = detail
        self.found = found
        """What was found in this file, to follow the words of `kind`; empty if they suffice."""


class HostileImageError(Exception):
    """A small file is built to exhaust a parser; the message says how, in a few words."""
