"""Prints answers for people: a table, with warnings and errors below their row. Requires Rich."""

import io
import sys

from rich.bar import Bar
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as Row
from rich.text import Text

from common.errors import one_line
from glyph.answers import Failure, Prediction

NEXT = 2
"""Classes that are shown after the likeliest one."""
BAR_WIDTH = 10
MOST_CHARACTERS = 24
"""Of a name: the last ones of a file's, the first ones of a class's."""
MOST_OF_A_SENTENCE = 600
HEAD = ("file", "label", "probability")


class Table:
    """A table that is printed when it is closed, since its columns fit what is in them."""

    def __init__(self) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # class names that the terminal's encoding lacks
        self._console = Console(highlight=False)
        self._rows: list[tuple[tuple[str, ...], Prediction | Failure]] = []

    def add(self, found: Prediction | Failure) -> None:
        """Add what became of a file."""
        label, probability = (
            ("", "") if isinstance(found, Failure) else (_short(found.label), str(found.probability))
        )
        self._rows.append(((_end_of(found.file), label, probability), found))

    def close(self) -> None:
        """Print it. Each row is a table of its own, because Rich's have no cells across columns."""
        cells = [HEAD, *(cells for cells, _ in self._rows)]
        widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
        for place, (row, found) in enumerate(self._rows):
            table = Row(box=None, pad_edge=False, show_header=not place)
            for title, width in zip(HEAD, widths, strict=True):
                table.add_column(title, width=width, overflow="fold")
            table.add_column("", width=BAR_WIDTH)
            table.add_column("next", overflow="fold")
            texts = map(Text, row)
            if isinstance(found, Failure):
                table.add_row(*texts)
                below = [("error", "red", found.sentence)]
            else:
                table.add_row(*texts, Bar(1.0, 0.0, found.probability), Text(_next(found)))
                below = [("warning", "yellow", sentence) for sentence in found.warnings]
            self._console.print(table)
            for kind, style, sentence in below:
                text = Text(f"{kind}: {one_line(sentence, MOST_OF_A_SENTENCE)}", style)
                self._console.print(Padding(text, (0, 0, 0, 2)))


def _next(found: Prediction) -> str:
    """Return the classes after the likeliest one, with their probabilities."""
    likeliest = sorted(found.probabilities.items(), key=lambda item: -item[1])
    return ", ".join(f"{_short(name)} {value:.1g}" for name, value in likeliest[1 : 1 + NEXT])


def _end_of(file: str) -> str:
    name = one_line(file, len(file) + 1)
    return name if len(name) <= MOST_CHARACTERS else "…" + name[1 - MOST_CHARACTERS :]


def _short(name: str) -> str:
    return one_line(name, MOST_CHARACTERS)
