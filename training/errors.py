"""The exceptions of the training job and their exit codes. Each message says what is wrong and what to do.

Each class has its own exit code, so that callers can tell the failures apart without reading the log; above all a
Kubernetes podFailurePolicy, which should not retry what would fail again. The codes are those of BSD's sysexits.h
where it has one for the case.
"""

import errno
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bundle.errors import BundleError
from common.errors import ConfigurationError

EXIT_MISUSE = 2
"""A setting is unknown or invalid: a retry would fail again."""
EXIT_KEYBOARD_INTERRUPT = 130
NO_MEMORY = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory")
"""Parts of PyTorch's messages for out-of-memory errors that have no class of their own."""
REASON_LENGTH = 200


class TrainingError(Exception):
    """The base of the job's errors; the message is a sentence for the user."""

    exit_code = 1


class DataError(TrainingError):
    """The images or labels are missing, unreadable or invalid."""

    exit_code = 65


class CheckpointError(TrainingError):
    """A checkpoint is corrupt, or was written by a run with other settings."""

    exit_code = 66


class DeviceError(TrainingError):
    """The requested device is not available, does not work, or cannot capture a step as a CUDA graph."""

    exit_code = 69


class ExportError(TrainingError):
    """The exported model differs from the trained one; nothing was published."""

    exit_code = 70


class LostError(TrainingError):
    """The job ran out of memory, or the device failed; a smaller batch, or another machine, may help."""

    exit_code = 71


class UnwritableError(TrainingError):
    """A file cannot be written: the directory is read-only or full, or the file there is not Glyph's."""

    exit_code = 73


class InterruptedRunError(TrainingError):
    """A signal ended the run after a checkpoint was written; `--resume` continues from it."""

    exit_code = 75


class DivergedError(TrainingError):
    """The loss is infinite or NaN; a retry with the same settings would diverge again."""

    exit_code = 76


@contextmanager
def reading(what: object) -> Iterator[None]:
    """Turn an OSError of the block, or an error of a compressed file, into a DataError; the block reads `what`."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{what} cannot be read: {getattr(error, 'strerror', None) or error}") from None


@contextmanager
def writing(what: object) -> Iterator[None]:
    """Turn an OSError of the block into an UnwritableError; the block writes `what`."""
    try:
        yield
    except OSError as error:
        why = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        raise UnwritableError(f"{what} cannot be written: {why}") from None


def exit_code(work: Callable[[], None]) -> int:
    """Call `work` and return 0, or print its error and return the error's exit code."""
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
        print(f"error: {said}; --resume continues from the last checkpoint", file=sys.stderr)
        return LostError.exit_code
    except KeyboardInterrupt:
        print("interrupted: --resume continues from the last checkpoint", file=sys.stderr)
        return EXIT_KEYBOARD_INTERRUPT
    return 0


def lost(error: MemoryError | RuntimeError) -> str | None:
    """Return an error message for an out-of-memory error or a failed device; None for other errors."""
    reason = (str(error) or type(error).__name__).splitlines()[0][:REASON_LENGTH]
    if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
        return f"out of memory ({reason}): use a smaller --batch-size, or a machine with more memory"
    torch = sys.modules.get("torch")  # too slow to import for a message
    if torch is not None and isinstance(error, torch.AcceleratorError):
        return f"the device has failed ({reason}): check nvidia-smi, and train again"
    return None
