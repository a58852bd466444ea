"""`glyph COMMAND`: one command for training, serving, scoring and published models; `python -m glyph` is the same.

Exit codes are those of the command (docs/operations.md), and: 2 there is no such command; 69 a package that it needs is
not installed; 141 the reader of its standard output has gone.
"""

import sys

from bundle import __version__
from common.programs import called
from glyph.commands import COMMANDS, GROUPS, NAMES, PROGRAMS, SYNONYMS
from glyph.endings import EXIT_MISSING, MissingPackageError, needing, standard_output

EXIT_UNKNOWN = 2
_HEAD = """\
usage: glyph COMMAND [options]

Trains a classifier for 28x28 grayscale images, and serves it over HTTP.
"""
_TAIL = """\
'glyph COMMAND --help' has its options; 'glyph --version' prints the version.
example:  glyph fit --epochs 5  then  glyph predict digit.png  or  glyph serve\
"""


def main(arguments: list[str] | None = None) -> int:
    """Call the program that the first word names; return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    name = words[0] if words else "--help"
    if name in ("-h", "--help"):
        return _print(help_text())
    if name in ("-V", "--version"):
        return _print(f"glyph {__version__}")
    if (command := COMMANDS.get(name)) is None:
        print(f"error: there is no command {name!r}{_nearest(name)}", file=sys.stderr)
        return EXIT_UNKNOWN
    try:
        with called(NAMES), needing(command.extra, name):
            return PROGRAMS[command.module]([*command.words, *words[1:]])
    except MissingPackageError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_MISSING


def help_text() -> str:
    """Return what `glyph --help` prints: one screen."""
    width = max(map(len, COMMANDS))
    groups = (
        "\n".join([f"{title}:", *(f"  {name:{width}}  {command.text}" for name, command in group.items())])
        for title, group in GROUPS.items()
    )
    return "\n".join([_HEAD, *groups, _TAIL])


def _print(text: str) -> int:
    with standard_output():
        print(text)
    return 0


def _nearest(name: str) -> str:
    from common.configuration import nearest  # it imports pydantic

    return nearest(name, COMMANDS, SYNONYMS)


if __name__ == "__main__":
    sys.exit(main())
