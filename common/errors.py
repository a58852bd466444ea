"""`ConfigurationError`, and how messages quote untrusted text and long lists."""

from collections.abc import Sequence


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


class ConfigurationError(Exception):
    """A setting is unknown, missing or out of range; the message names it and where it came from."""
