"""Every error that the training job raises on purpose: what was wrong, and what to do.

Each class has an exit code of its own, so that whoever started the job can tell them apart without
reading the log: a Kubernetes podFailurePolicy, above all, which should not retry what would fail
again. Where BSD's sysexits.h has a code for the case it is that one.
"""

import sys
from collections.abc import Callable

from bundle.errors import BundleError
from common.errors import ConfigurationError

EXIT_MISUSE = 2
"""A setting is unknown or out of range: it would fail again."""
EXIT_KEYBOARD_INTERRUPT = 130
NO_MEMORY = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory")
"""How PyTorch says that there is none, where it has no class for it."""
REASON_LENGTH = 200


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


def exit_code(work: Callable[[], None]) -> int:
    """Do the work and return 0, or say what went wrong and return its exit code."""
    try:
        work()
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_MISUSE
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BundleError as error:
        print(f"error: {error}", file=sys.stderr)
        return UnwritableError.exit_code
    except (MemoryError, RuntimeError) as error:
        if (said := lost(error)) is None:
            raise
        print(f"error: {said}; with --resume it goes on from the last checkpoint", file=sys.stderr)
        return LostError.exit_code
    except KeyboardInterrupt:
        print("interrupted at once: what the last checkpoint holds is kept", file=sys.stderr)
        return EXIT_KEYBOARD_INTERRUPT
    return 0


def lost(error: MemoryError | RuntimeError) -> str | None:
    """Say that memory has run out or the device has failed, and what to do; None if it is neither."""
    reason = (str(error) or type(error).__name__).splitlines()[0][:REASON_LENGTH]
    if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
        return f"memory has run out ({reason}): train with a smaller --batch-size, or where there is more"
    torch = sys.modules.get("torch")  # too heavy to be imported for a sentence
    if torch is not None and isinstance(error, torch.AcceleratorError):
        return f"the device has failed ({reason}): look at nvidia-smi, and train again"
    return None
