"""Why an image file or an array cannot be used, and the error of a file that is built to exhaust its reader."""

from enum import StrEnum


class ImageFault(StrEnum):
    """Why a file is not usable as an image; the values are the categories in reports."""

    EMPTY = "empty file"
    FORMAT = "not a PNG, JPEG, GIF, BMP, WebP or TIFF image"
    SIZE = "not 28x28"
    PIXELS = "too many pixels to be resized"
    TOO_LARGE = "a file of more than 1 MiB"
    ANIMATED = "several frames"
    PIXEL_RANGE = "pixels of 32 bits, signed or floating-point, without a known range"
    UNSUPPORTED = "of a kind that is not read"
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


class NumbersError(ValueError):
    """An array of numbers cannot be read as images; the message is what was found and what to do about it."""

    def __init__(self, detail: str, remedy: str, *, in_doubt: bool = False) -> None:
        super().__init__(f"{detail}: {remedy}")
        self.detail = detail
        """What was found, in a clause without a full stop."""
        self.remedy = remedy
        """What to do about it, with NumPy; in the same form."""
        self.in_doubt = in_doubt
        """Whether a declared range, 0..1 or 0..255, would remove the doubt: a caller with such an option names it."""


class HostileImageError(Exception):
    """A small file is built to exhaust a parser; the message says how, in a few words."""
