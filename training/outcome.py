"""How a command ends: its errors as sentences on the standard error, and the exit code of each."""

import sys
from collections.abc import Callable

from bundle.errors import BundleError, ConfigurationError
from training.errors import EXIT_MISUSE, TrainingError, UnwritableError

EXIT_KEYBOARD_INTERRUPT = 130


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
    except KeyboardInterrupt:
        print("interrupted at once: what the last checkpoint holds is kept", file=sys.stderr)
        return EXIT_KEYBOARD_INTERRUPT
    return 0
