"""Every error that the training job raises on purpose: what was wrong, and what to do.

Each class has an exit code of its own, so that whoever started the job can tell them apart without
reading the log: a Kubernetes podFailurePolicy, above all, which should not retry what would fail
again. Where BSD's sysexits.h has a code for the case it is that one.
"""

EXIT_MISUSE = 2
"""A setting is unknown or out of range: it would fail again."""


class TrainingError(Exception):
    """The job cannot go on; the message is a sentence for its user."""

    exit_code = 1


class DataError(TrainingError):
    """The images or labels are missing, unreadable, or not what was asked for."""

    exit_code = 65


class CheckpointError(TrainingError):
    """A checkpoint cannot be used: corrupt, or made by a run with other settings."""

    exit_code = 66


class DeviceError(TrainingError):
    """The device that was asked for is not there, does not work, or cannot record a step as a CUDA graph."""

    exit_code = 69


class ExportError(TrainingError):
    """The exported model is not proven equal to the trained one: nothing was published."""

    exit_code = 70


class LostError(TrainingError):
    """Memory has run out, or the device failed on the way; a smaller batch, or another machine, may have it."""

    exit_code = 71


class UnwritableError(TrainingError):
    """A directory that must be written cannot be: read-only, full, or somebody else's."""

    exit_code = 73


class InterruptedRunError(TrainingError):
    """A signal ended the run; what was done is in a checkpoint, and `--resume` goes on from there."""

    exit_code = 75


class DivergedError(TrainingError):
    """The loss is infinite or NaN: the same settings would do it again."""

    exit_code = 76
