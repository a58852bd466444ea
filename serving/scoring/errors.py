"""The batch scorer's exceptions, each with the exit code of the command."""

from typing import ClassVar

EXIT_DONE = 0
EXIT_SETTING = 2
EXIT_BAD_IMAGES = 3
"""The run is complete, and some rows have an error instead of a prediction."""


class ScoringError(Exception):
    """The base class; the message says what is wrong and what to do."""

    exit_code: ClassVar[int] = 70


class BadImageError(ScoringError):
    """An image cannot be read, and `--strict` is set."""

    exit_code = 65


class NothingScoredError(ScoringError):
    """Every row has an error; the output has them."""

    exit_code = 65


class OutputError(ScoringError):
    """The output belongs to another job, or does not match its receipts."""

    exit_code = 66


class BackendError(ScoringError):
    """The backend is not available or failed: the device, the service, the cluster."""

    exit_code = 69


class ModelError(ScoringError):
    """The model cannot be loaded or proven."""

    exit_code = 70


class DecoderError(ScoringError):
    """A decoding process died, for example because the system ran out of memory."""

    exit_code = 71


class BackendLostError(ScoringError):
    """The backend failed while computing: the GPU failed, or memory ran out."""

    exit_code = 71


class StoreLostError(ScoringError):
    """An object store refused, or cannot be reached."""

    exit_code = 71


class WriteError(ScoringError):
    """The output cannot be written: no permission, or the disk is full."""

    exit_code = 73


class IncompleteError(ScoringError):
    """Parts are missing: run their shards, then merge again."""

    exit_code = 75


class LockedError(ScoringError):
    """Another run holds the lock of the same parts."""

    exit_code = 75


class Stopped(ScoringError):  # noqa: N818  not an error
    """A signal stopped the run; the same command resumes it."""

    exit_code = 75
