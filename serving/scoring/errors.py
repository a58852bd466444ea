"""Every error that the batch scorer raises on purpose, each with the exit code of the run that it ends."""

from typing import ClassVar

EXIT_DONE = 0
EXIT_SETTING = 2
EXIT_BAD_IMAGES = 3
"""The run is complete, and some of its rows carry an error in place of an answer."""


class ScoringError(Exception):
    """The base of all of them; the message is a sentence with the remedy."""

    exit_code: ClassVar[int] = 70


class InputError(ScoringError):
    """An input is missing, of no known kind, or damaged as a whole."""

    exit_code = 65


class BadImageError(ScoringError):
    """One image cannot be read, and `--strict` asks to stop there."""

    exit_code = 65


class OutputError(ScoringError):
    """The output belongs to another job, or is not what its own records say."""

    exit_code = 66


class BackendError(ScoringError):
    """What computes the probabilities is not there, or failed: the device, the service, the cluster."""

    exit_code = 69


class ModelError(ScoringError):
    """The model cannot be loaded or proven."""

    exit_code = 70


class DecoderError(ScoringError):
    """A process that decodes is gone: the system killed it, as for want of memory."""

    exit_code = 71


class BackendLostError(ScoringError):
    """What computes was lost on the way: the GPU failed, or memory has run out."""

    exit_code = 71


class WriteError(ScoringError):
    """The output cannot be written: no permission, no room."""

    exit_code = 73


class IncompleteError(ScoringError):
    """Not every part is there yet: run what is missing, then again."""

    exit_code = 75


class LockedError(ScoringError):
    """Another run is at work on the same parts: one of the two is too many."""

    exit_code = 75


class Stopped(ScoringError):  # noqa: N818  it is no fault
    """A signal asked the run to end; the same command goes on where it stopped."""

    exit_code = 75
