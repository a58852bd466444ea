"""`ConfigurationError`, and how messages quote untrusted text, long lists and the errors of files."""

import errno
from collections.abc import Sequence

FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "it would be larger than this process may write (ulimit -f)",
}
"""Errors of writing that pass when there is room, and what they say."""
NOT_A_DIRECTORY = (errno.EEXIST, errno.ENOTDIR)


def one_line(value: object, most: int = 300) -> str:
    """Return text from a file or a library as one line that is safe in a terminal, a log and JSON.

    Runs of white space become one space, unprintable characters become escapes of their code points, and the text is
    cut after `most` characters, so that a hostile file controls neither the length nor the look of a message about it.
    """
    text = " ".join(str(value)[: 10 * most].split())
    cut = text if len(text) <= most else text[: most - 1] + "…"
    return "".join(character if character.isprintable() else f"\\u{ord(character):04x}" for character in cut)


def listing(items: Sequence[str], most: int = 20) -> str:
    """Return the first `most` items, separated by commas, and the number of the others."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def unwritable_reason(error: OSError) -> str:
    """Return why a file or a directory cannot be written."""
    if error.errno in NOT_A_DIRECTORY:
        return "a file is where a directory has to be"
    return FULL.get(error.errno or 0) or error.strerror or str(error)


class ConfigurationError(Exception):
    """A setting is unknown, missing or out of range; the message names it and where it came from."""
