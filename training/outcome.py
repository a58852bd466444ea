"""How a command ends: its errors as sentences on the standard error, and the exit code of each."""

import sys
from collections.abc import Callable

from bundle.errors import BundleError, ConfigurationError
from training.errors import EXIT_MISUSE, LostError, TrainingError, UnwritableError

EXIT_KEYBOARD_INTERRUPT = 130
NO_MEMORY = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory")
"""How PyTorch says that there is none, where it has no class for it."""
REASON_LENGTH = 200


def exit_code(work: Callable[[], None]) -> int:
    """Do the work and return 0, or say what went wrong and return the code of `errors.py` for it."""
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
