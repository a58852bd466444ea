"""The error of a setting, and how what a file or a library said is quoted in a message."""


def one_line(value: object, most: int = 300) -> str:
    """Return what a file or a library said as one line that a terminal, a log and JSON can hold.

    White space is one space, a character that is not printed stands as its code point, and what is longer than
    `most` characters is cut: a prepared file decides neither the length nor the look of a sentence about it.
    """
    text = " ".join(str(value)[: 10 * most].split())
    cut = text if len(text) <= most else text[: most - 1] + "…"
    return "".join(character if character.isprintable() else f"\\u{ord(character):04x}" for character in cut)


class ConfigurationError(Exception):
    """A setting is unknown, missing or out of range; the message names it and where it came from."""
