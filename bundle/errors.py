"""Every error that this package raises on purpose: what was wrong, and what to do."""

import re
from enum import StrEnum

from common.errors import one_line


def runtime_reason(error: Exception) -> str:
    """Return what an error of ONNX Runtime says, on one line.

    Of one on CUDA these are CUDA's own words alone: the message has them between long signatures, and goes on to name
    this machine, which is no business of a client's or of a published file's.
    """
    said = " ".join(str(error).split())
    failure = re.search(r"\bCU\w+ failure \d+: [^;]+", said)
    return one_line(failure[0].strip() if failure else said) or type(error).__name__


class BundleError(Exception):
    """A bundle, or a model repository, is not what the contract says."""


class NoBundleError(BundleError):
    """There is no published version where one was looked for."""


class InvalidBundleError(BundleError):
    """A version is there, but it is incomplete, changed or written by a newer schema."""


class GoldenMismatchError(InvalidBundleError):
    """A version is intact, and does not give its golden examples the recorded probabilities."""


class PublishError(BundleError):
    """A bundle could not be published; nothing that counts was written."""


class ImageFault(StrEnum):
    """What keeps a file from being an image for the model; the values are words to count files by."""

    EMPTY = "empty file"
    FORMAT = "not a PNG, JPEG, GIF, BMP, WebP or TIFF image"
    SIZE = "not 28x28"
    HEAVY = "a file of more than 1 MiB"
    ANIMATED = "several frames"
    RANGE = "pixels of 32 bits, without a known range"
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


class BurdenError(Exception):
    """A small file is built to cost a parser much; the message says by what, in a few words."""
