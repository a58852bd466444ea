"""How a command ends where a package is missing, where its output's reader has gone, and at Ctrl-C."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

EXIT_MISSING = 69
"""A package is not installed: EX_UNAVAILABLE of BSD's sysexits.h, "a support program or file does not exist"."""
EXIT_BROKEN_PIPE = 128 + signal.SIGPIPE
"""What a shell shows of a program that SIGPIPE has ended."""
OWN = ("bundle", "common", "glyph", "imagesets", "serving", "training")


class MissingPackageError(Exception):
    """A package is not installed; the message names the extra that has it."""


@contextmanager
def needing(extra: str, command: str) -> Iterator[None]:
    """Turn a package that the block cannot import into a sentence with the extra that has it.

    Raises:
        MissingPackageError: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package, _, inside = (error.name or "").partition(".")
        if not package or (package in OWN and inside):
            raise
        place = "not in this image" if package in OWN else f"not installed: {_remedy(extra)}"
        raise MissingPackageError(
            f"'glyph {command}' needs the package {package}, which is {place}"
        ) from error


def _remedy(extra: str) -> str:
    extras = f"[{extra}]" if extra else ""
    try:
        metadata.distribution("glyph")
    except metadata.PackageNotFoundError:  # a clone, where another glyph would be downloaded
        return f"pip install '.{extras}' in the clone, or run 'make run' and use its .venv"
    return f"pip install 'glyph{extras}'"


@contextmanager
def standard_output() -> Iterator[None]:
    """End without a traceback where the reader of standard output has gone, as in `glyph list ... | head -1`.

    SIGPIPE stays ignored, because it would also end the process where a service closes a connection.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at exit
        raise SystemExit(EXIT_BROKEN_PIPE) from None


@contextmanager
def ended_by_interrupt() -> Iterator[None]:
    """Let Ctrl-C end the process at once, by the signal, within imports and ONNX Runtime too."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # not where a shell has the process ignore it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
