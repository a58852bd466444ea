"""A run-length encoded sequence of strings, for sources and row ids: ranges, repeated strings, lists."""

import bisect
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, repeat

Piece = range | tuple[str, int] | Sequence[str]
"""Numbers; a string and how often it is repeated; or strings."""


class LazyStrings:
    """A sequence of strings that are created on access: a run has one for every image."""

    __slots__ = ("_ends", "pieces")

    def __init__(self, *pieces: Piece) -> None:
        self.pieces = pieces
        self._ends = list(accumulate(map(length, pieces)))

    @classmethod
    def concatenate(cls, sequences: Sequence["LazyStrings | Sequence[str]"]) -> "LazyStrings":
        """Return the sequences one after another; adjacent ranges and equal repeats are merged."""
        pieces: list[Piece] = []
        for piece in chain.from_iterable(
            one.pieces if isinstance(one, LazyStrings) else (one,) for one in sequences
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
    """Return whether a piece is one repeated string."""
    return isinstance(piece, tuple) and len(piece) == 2 and isinstance(piece[1], int)


def length(piece: Piece) -> int:
    """Return a piece's number of strings."""
    return int(piece[1]) if is_repeat(piece) else len(piece)
