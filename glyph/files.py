"""Reads a file of the command line; what cannot be read is that file's failure."""

import sys
from pathlib import Path

from glyph.answers import Failure

STANDARD_INPUT = "-"
MAX_BYTES = 8 << 20
"""The default of GLYPH_MAX_BODY_BYTES. No more is read of a file, whatever it is."""
_SCORE = "'glyph score' takes folders and patterns"


def read(name: str) -> bytes | Failure:
    """Return the content of the file `name`, or why it has none; `-` is standard input."""
    try:
        if name == STANDARD_INPUT:
            content = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                content = file.read(MAX_BYTES + 1)
    except IsADirectoryError:
        return _failure(name, "it is a folder", f"Give image files; {_SCORE}.")
    except FileNotFoundError:
        pattern = any(character in name for character in "*?[")
        return _failure(
            name, "there is no such file", f"Give image files; {_SCORE}." if pattern else "Check its name."
        )
    except OSError as error:
        return _failure(name, f"it cannot be read ({error.strerror})", "Check its name and permissions.")
    if not content:
        return _failure(name, "it is empty", "Give a file with an image.")
    if len(content) > MAX_BYTES:
        return _failure(name, f"it has more than {MAX_BYTES} bytes", "Give an image file of 28x28 pixels.")
    return content


def _failure(name: str, detail: str, remedy: str) -> Failure:
    return Failure(name, {"title": "The file cannot be read", "detail": detail, "remedy": remedy})
