"""The exceptions of the training job and their exit codes. Each message says what is wrong and what to do.

Each class has its own exit code, so that callers can tell the failures apart without reading the log; above all a
Kubernetes podFailurePolicy, which should not retry what would fail again. The codes are those of BSD's sysexits.h
where it has one for the case.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from bundle.errors import BundleError
from common.errors import FULL, ConfigurationError, unwritable_reason
from common.object_store import StoreError
from imagesets.errors import DataError

EXIT_MISUSE = 2
"""A setting is unknown or invalid: a retry would fail again."""
EXIT_KEYBOARD_INTERRUPT = 130
NO_MEMORY = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory")
"""Parts of PyTorch's messages for out-of-memory errors that have no class of their own."""
REASON_LENGTH = 200


class TrainingError(Exception):
    """The base of the job's errors; the message is a sentence for the user."""

    exit_code = 1


class CheckpointError(TrainingError):
    """A checkpoint is corrupt, of a run with other settings, or of an unfinished run that would be lost."""

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
    """A file cannot be written: the directory is read-only, full or in use, or the file there is not Glyph's."""

    exit_code = 73


class InterruptedRunError(TrainingError):
    """A signal ended the run after a checkpoint was written; `--resume` continues from it."""

    exit_code = 75


class DivergedError(TrainingError):
    """The loss is infinite or NaN; a retry with the same settings would diverge again."""

    exit_code = 76


@contextmanager
def reading_into_memory() -> Iterator[None]:
    """Turn a MemoryError of the block, which reads a data set, into a LostError."""
    try:
        yield
    except MemoryError as error:
        raise LostError(
            f"out of memory ({_first_line(error)}) while the data set is read, which takes 784 bytes for "
            "each image: use a machine with more memory, or fewer images"
        ) from None


@contextmanager
def writing(what: object) -> Iterator[None]:
    """Turn an OSError of the block into an UnwritableError; the block writes `what`."""
    try:
        yield
    except OSError as error:
        raise UnwritableError(f"{what} cannot be written: {unwritable_reason(error)}") from None


@contextmanager
def writing_to_store() -> Iterator[None]:
    """Turn a StoreError of the block into an UnwritableError."""
    try:
        yield
    except StoreError as error:
        raise UnwritableError(str(error)) from None


def exit_code(work: Callable[[], None]) -> int:
    """Call `work` and return 0, or print its error and return the error's exit code."""
    code, message = _outcome(work)
    if message:
        try:
            print(message, file=sys.stderr, flush=True)
        except OSError:
            _discard(sys.stderr)
    return code


def _outcome(work: Callable[[], None]) -> tuple[int, str]:
    """Call `work`, and return the exit code and the error message, which is empty if it succeeds."""
    try:
        work()
    except (ConfigurationError, BundleError, TrainingError, DataError) as error:
        by_kind = EXIT_MISUSE if isinstance(error, ConfigurationError) else UnwritableError.exit_code
        return getattr(error, "exit_code", by_kind), f"error: {error}"
    except OSError as error:
        if not _is_full(error):
            raise
        what = error.filename or "a file, perhaps the log"
        return UnwritableError.exit_code, f"error: {what} cannot be written: {unwritable_reason(error)}"
    except (MemoryError, RuntimeError) as error:
        if (said := lost(error)) is None:
            raise
        return LostError.exit_code, f"error: {said}; --resume continues from the last checkpoint"
    except KeyboardInterrupt:
        return EXIT_KEYBOARD_INTERRUPT, "interrupted: --resume continues from the last checkpoint"
    return 0, ""


def print_result(text: object) -> None:
    """Print on standard output, which may be a file on a full disk.

    Raises:
        UnwritableError: it cannot be written.
    """
    try:
        with writing("standard output"):
            print(text, flush=True)
    except UnwritableError:
        _discard(sys.stdout)
        raise


def _discard(stream: TextIO) -> None:
    """Let a stream that cannot be written lead nowhere: Python flushes it at exit, and would exit with 120."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _is_full(error: OSError) -> bool:
    """Return whether a disk, that of temporary files included, has no room; `tempfile` has no error number for that."""
    return error.errno in FULL or "No usable temporary directory" in str(error)


def lost(error: MemoryError | RuntimeError) -> str | None:
    """Return an error message for an out-of-memory error or a failed device; None for other errors."""
    reason = _first_line(error)
    if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
        return f"out of memory ({reason}): use a smaller --batch-size, or a machine with more memory"
    torch = sys.modules.get("torch")  # too slow to import for a message
    if torch is not None and isinstance(error, torch.AcceleratorError):
        return f"the device has failed ({reason}): check nvidia-smi, and train again"
    return None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:REASON_LENGTH]
