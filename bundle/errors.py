"""Every error that this package raises on purpose: what was wrong, and what to do."""

import re

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
