"""Parses a large JSON document in pieces, so that other threads run in between.

orjson holds the global interpreter lock until it returns: parsing 1,000 images as numbers in a single pass blocked the
event loop for tens of milliseconds, even from another thread. Here the largest array is found by its brackets, split
at its commas, and parsed in pieces of 64 KiB; the rest of the document is parsed with a marker in the array's place.
"""

import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

PIECE_BYTES = 64 << 10
"""Bytes that are scanned or parsed at a time, which takes at most a millisecond."""

_IS_MARK = np.zeros(256, np.bool_)
_IS_MARK[list(b'[]{},"')] = True
_DEPTH_CHANGE = np.zeros(256, np.int8)
_DEPTH_CHANGE[list(b"[{")], _DEPTH_CHANGE[list(b"]}")] = 1, -1
_QUOTE, _COMMA, _BRACKET = b'",['
_SPACE = b" \t\r\n"


class ScatteredError(ValueError):
    """A large document has too much content outside its largest array."""


@dataclass(frozen=True, slots=True)
class Structure:
    """The brackets, braces and commas of a document (RFC 8259, structural characters), without those in strings."""

    offsets: npt.NDArray[np.int64]
    marks: npt.NDArray[np.uint8]
    depths: npt.NDArray[np.int32]
    """The nesting depth after each mark."""


def structure(body: bytes, most: int) -> Structure | None:
    """Return the structure of a document; None if more than `most` marks begin a value.

    Without regular expressions, which take a second for a body of empty strings.
    """
    offsets, marks = [np.zeros(0, np.int64)], [np.zeros(0, np.uint8)]
    start = values = quotes = 0
    while start < len(body):
        chunk = body[start : start + PIECE_BYTES]
        # An odd number of trailing backslashes: take the escaped character with them.
        if (len(chunk) - len(chunk.rstrip(b"\\"))) % 2:
            chunk = body[start : start + PIECE_BYTES + 1]
        size = len(chunk)
        if b"\\" in chunk:  # hide escaped quotes, and escaped backslashes first
            chunk = chunk.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        text = np.frombuffer(chunk, np.uint8)
        found = np.flatnonzero(_IS_MARK[text])
        kinds = text[found]
        is_quote = kinds == _QUOTE
        # The sum may overflow, its last bit does not.
        inside = (np.cumsum(is_quote, dtype=np.uint8) + (quotes & 1)) & 1
        quotes += int(np.count_nonzero(is_quote))
        is_outside = (inside == 0) & ~is_quote
        offsets.append(found[is_outside] + start)
        marks.append(kinds[is_outside])
        values += int(np.count_nonzero(_DEPTH_CHANGE[marks[-1]] >= 0))
        if values > most:
            return None
        start += size
    together = np.concatenate(marks)
    return Structure(np.concatenate(offsets), together, np.cumsum(_DEPTH_CHANGE[together], dtype=np.int32))


def loads(body: bytes, found: Structure) -> Any:
    """Parse a document as `orjson.loads` does, in pieces.

    Raises:
        orjson.JSONDecodeError: it is not JSON.
        ScatteredError: more than one piece lies outside its largest array.
    """
    array = _largest_array(body, found)
    if array is None:
        raise ScatteredError(f"more than {PIECE_BYTES} bytes lie outside its largest array")
    start, end, depth = array
    first, last = np.searchsorted(found.offsets, (start, end))
    is_cut = (found.marks[first:last] == _COMMA) & (found.depths[first:last] == depth)
    commas = found.offsets[first:last][is_cut]
    cuts = commas[np.unique(commas // PIECE_BYTES, return_index=True)[1]].tolist()
    items: list[Any] = []
    for left, right in zip([start, *cuts], [*cuts, end], strict=True):
        piece = body[left + 1 : right]
        if cuts and not piece.strip(_SPACE):
            raise orjson.JSONDecodeError("a value is missing", "", left)
        items += orjson.loads(b"[%b]" % piece)
    marker = uuid.uuid4().hex
    document = orjson.loads(b'%b"%b"%b' % (body[: start + 1], marker.encode(), body[end:]))
    placed = _find_array(document, marker)
    if placed is not None:  # None if a later member with the same name replaces the array
        placed[:] = items
    return document


def _largest_array(body: bytes, found: Structure) -> tuple[int, int, int] | None:
    """Return start, end and depth of the innermost array that holds the body except for one piece."""
    changes = _DEPTH_CHANGE[found.marks]
    array = None
    for depth in range(1, int(found.depths.max(initial=0)) + 1):
        opened = found.offsets[(changes > 0) & (found.depths == depth)]
        closed = found.offsets[(changes < 0) & (found.depths == depth - 1)]
        if len(opened) != len(closed):
            return array
        spans = closed - opened
        widest = int(spans.argmax())
        if spans[widest] < len(body) - PIECE_BYTES:
            return array
        if body[opened[widest]] == _BRACKET:
            array = int(opened[widest]), int(closed[widest]), depth
    return array


def _find_array(document: Any, marker: str) -> list[Any] | None:
    """Return the array of a small document that holds only the marker."""
    if isinstance(document, list) and document == [marker]:
        return document
    inner = (
        document.values() if isinstance(document, dict) else document if isinstance(document, list) else ()
    )
    return next((place for value in inner if (place := _find_array(value, marker)) is not None), None)
