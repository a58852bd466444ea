"""The names of the programs in messages: `python -m training fit`, or `glyph fit` where the command `glyph` runs it."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_PROGRAM = re.compile(r"python -m \w+(?:\.\w+)*")
_names: dict[str, str] = {}
"""Names of the form `python -m MODULE`, to those that this process has for them."""


@contextmanager
def called(names: Mapping[str, str]) -> Iterator[None]:
    """Use other names of programs within the block: `python -m serving` is a key."""
    before = dict(_names)
    _names.update(names)
    try:
        yield
    finally:
        _names.clear()
        _names.update(before)


def named(text: str) -> str:
    """Return a text for the user, with the names that this process has for the programs in it."""
    return _PROGRAM.sub(lambda found: _names.get(found[0], found[0]), text)
