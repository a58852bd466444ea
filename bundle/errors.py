"""The exceptions of this package. Each message says what is wrong and what to do."""

import re

from common.errors import one_line


def runtime_reason(error: Exception) -> str:
    """Return the message of an ONNX Runtime error, on one line.

    Of a CUDA error only CUDA's own message is kept: ONNX Runtime wraps it in long C++ signatures and adds the name of
    this host, which must reach neither clients nor published files.
    """
    said = " ".join(str(error).split())
    failure = re.search(r"\bCU\w+ failure \d+: [^;]+", said)
    return one_line(failure[0].strip() if failure else said) or type(error).__name__


class BundleError(Exception):
    """A bundle or a model repository violates the contract."""

    def __init__(self, detail: str, *, remedy: str | None = None) -> None:
        super().__init__(detail if remedy is None else f"{detail}: {remedy}")
        self.detail = detail
        """The message, without the remedy where that is given by itself."""


class NoBundleError(BundleError):
    """No version is published at the given path."""


class InvalidBundleError(BundleError):
    """A version failed verification: it is incomplete, changed, unsafe to load, or of a newer schema."""


class GoldenMismatchError(InvalidBundleError):
    """A version is intact, but does not reproduce the probabilities of its golden examples."""


class PublishError(BundleError):
    """A bundle could not be published; no version was created."""
