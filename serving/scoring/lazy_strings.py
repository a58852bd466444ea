"""Sources and row ids of many rows, as short as they can be said: numbers, one name again and again, lazy_strings."""

import bisect
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, repeat

Piece = range | tuple[str, int] | Sequence[str]
"""Numbers that are ids; a text and how many rows have it; or texts."""


class LazyStrings:
    """A sequence of texts that makes them when they are asked for: a run has one for every image."""

    __slots__ = ("_ends", "pieces")

    def __init__(self, *pieces: Piece) -> None:
        self.pieces = pieces
        self._ends = list(accumulate(map(length, pieces)))

    @classmethod
    def concatenate(cls, lazy_strings: Sequence["LazyStrings | Sequence[str]"]) -> "LazyStrings":
        """Return lazy_strings behind each other; the same text again and again stays one piece."""
        pieces: list[Piece] = []
        for piece in chain.from_iterable(
            one.pieces if isinstance(one, LazyStrings) else (one,) for one in lazy_strings
        ):
            last = pieces[-1] if pieces else None
            if isinstance(piece, range) and isinstance(last, range) and last.stop == piece.start:
                pieces[-1] = range(last.start, piece.stop)
            elif is_repeat(piece) and last is not None and is_repeat(last) and last[0] == piece[0]:
                pieces[-1] = (str(piece[0]), length(last) + length(piece))
            else:
                pieces.append(piece)
        return cls(*pieces)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, at: int) -> str:
        place = bisect.bisect_right(self._ends, at)
        if at < 0 or place == len(self.pieces):
            raise IndexError(at)
        piece = self.pieces[place]
        return str(piece[0] if is_repeat(piece) else piece[at - self._ends[place] + length(piece)])

    def __iter__(self) -> Iterator[str]:
        for piece in self.pieces:
            yield from map(str, repeat(piece[0], length(piece)) if is_repeat(piece) else piece)


def is_repeat(piece: Piece) -> bool:
    """Tell whether a piece is one text again and again."""
    return isinstance(piece, tuple) and len(piece) == 2 and isinstance(piece[1], int)


def length(piece: Piece) -> int:
    """Return of how many rows a piece is."""
    return int(piece[1]) if is_repeat(piece) else len(piece)
