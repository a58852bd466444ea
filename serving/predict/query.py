"""The query of `POST /predict`: `?top=k` and `?threshold=p`."""

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl

from common.configuration import nearest
from serving.errors import BadQueryError

MAX_FIELDS = 8
_COUNT = re.compile(r"[0-9]{1,9}")
_DECIMAL = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """What a client asked of the answer's form."""

    top: int | None = None
    """So many of the most probable classes are listed; None lists all, in the classes' order."""
    threshold: float | None = None
    """A less probable label is not given."""


DEFAULT = Query()


def parse(query: str) -> Query:
    """Return the query, parsed; `query` is as it was sent, without the question mark.

    Raises:
        BadQueryError: a parameter is unknown, given twice, or has a value that it cannot have.
    """
    if not query:
        return DEFAULT
    fields = _fields(query)
    if unknown := fields.keys() - {"top", "threshold"}:
        raise _bad(f"there is no query parameter '{_shown(min(unknown))}'", min(unknown))
    return Query(
        top=None if "top" not in fields else _top(fields["top"]),
        threshold=None if "threshold" not in fields else _threshold(fields["threshold"]),
    )


def reject(query: str) -> None:
    """Refuse any query, where a path takes none.

    Raises:
        BadQueryError: there is a parameter.
    """
    if query and _fields(query):
        raise BadQueryError(
            "this path takes no query parameter", remedy="Leave the query out; 'top' is of /predict."
        )


def _fields(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError:  # UnicodeDecodeError is one
        raise BadQueryError(
            "the query is not UTF-8 in percent-encoding, or has too many fields",
            remedy="Write it as in ?top=3&threshold=0.9.",
        ) from None
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise BadQueryError("a query parameter is given twice", remedy="Give each parameter once.")
    return fields


def _top(text: str) -> int:
    if _COUNT.fullmatch(text) and int(text) >= 1:
        return int(text)
    raise BadQueryError(
        f"top is '{_shown(text)}'", remedy="Give the number of classes to list, 1 or more: ?top=3."
    )


def _threshold(text: str) -> float:
    if _DECIMAL.fullmatch(text) and 0 <= float(text) <= 1:
        return float(text)
    raise BadQueryError(
        f"threshold is '{_shown(text)}'", remedy="Give a probability, 0 to 1: ?threshold=0.9."
    )


def _bad(detail: str, name: str) -> BadQueryError:
    hint = nearest(name[:40], ["top", "threshold"]).removeprefix("; ")
    return BadQueryError(detail, remedy=hint[0].upper() + hint[1:] + ("" if hint.endswith("?") else "."))


def _shown(text: str) -> str:
    """Return a client's text short enough to be repeated to it."""
    return text if len(text) <= 40 else f"{text[:40]}..."
