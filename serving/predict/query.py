"""The query of `POST /predict`: `?top=k`, `?threshold=p` and `?resize=how`."""

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl

from bundle.images.contract import RESIZES, Resize
from common.configuration import nearest
from serving.errors import BadQueryError, shortened

MAX_FIELDS = 8
PARAMETERS = ("top", "threshold", "resize")
_COUNT = re.compile(r"[0-9]{1,9}")
_DECIMAL = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """What a response lists, and what becomes of images of other sizes, as the client asks."""

    top: int | None = None
    """Number of classes to list, the most probable first; None lists all, in the classes' order."""
    threshold: float | None = None
    """The label and index are null if the probability is lower."""
    resize: Resize | None = None
    """How image files of other sizes become 28x28; None rejects them."""


DEFAULT = Query()


def parse(query: str) -> Query:
    """Parse a query, as the client sent it, without the question mark.

    Raises:
        BadQueryError: a parameter is unknown, repeated, or has an invalid value.
    """
    if not query:
        return DEFAULT
    fields = _fields(query)
    if unknown := fields.keys() - {*PARAMETERS}:
        raise _bad(f"there is no query parameter '{shortened(min(unknown))}'", min(unknown))
    return Query(
        top=None if "top" not in fields else _top(fields["top"]),
        threshold=None if "threshold" not in fields else _threshold(fields["threshold"]),
        resize=None if "resize" not in fields else _resize(fields["resize"]),
    )


def reject(query: str) -> None:
    """Reject any query parameter, for a path that takes none.

    Raises:
        BadQueryError: there is a parameter.
    """
    if query and _fields(query):
        raise BadQueryError(
            "this path takes no query parameters",
            remedy="Omit the query; top, threshold and resize are parameters of POST /predict.",
        )


def _fields(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError:  # UnicodeDecodeError is one
        raise BadQueryError(
            f"the query is not percent-encoded UTF-8, or has more than {MAX_FIELDS} parameters",
            remedy="Write it as in ?top=3&threshold=0.9.",
        ) from None
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise BadQueryError("a query parameter is repeated", remedy="Give each parameter once.")
    return fields


def _top(text: str) -> int:
    if _COUNT.fullmatch(text) and int(text) >= 1:
        return int(text)
    raise BadQueryError(f"the query parameter 'top' is '{shortened(text)}'")


def _threshold(text: str) -> float:
    if _DECIMAL.fullmatch(text) and 0 <= float(text) <= 1:
        return float(text)
    raise BadQueryError(
        f"the query parameter 'threshold' is '{shortened(text)}'",
        remedy="Give a probability from 0 to 1: ?threshold=0.9.",
    )


def _resize(text: str) -> Resize:
    for how in RESIZES:
        if text == how:
            return how
    raise BadQueryError(
        f"the query parameter 'resize' is '{shortened(text)}'",
        remedy="Give fit, pad or mnist: the one that GET /metadata names as input.resize.",
    )


def check_offered(asked: Resize | None, offered: Resize | None) -> None:
    """Check that a model was trained on images resized as a request asks.

    Raises:
        BadQueryError: it was trained on others.
    """
    if asked is None or asked == offered:
        return
    if offered is None:
        raise BadQueryError(
            "the model was trained on 28x28 images as they are, so none is resized for it",
            remedy="Omit resize, and send images of 28x28, prepared as the training images were.",
        )
    raise BadQueryError(
        f"the model was trained on images resized by '{offered}', not by '{asked}'",
        remedy=f"Ask for ?resize={offered}.",
    )


def _bad(detail: str, name: str) -> BadQueryError:
    hint = nearest(name[:40], [*PARAMETERS]).removeprefix("; ")
    return BadQueryError(detail, remedy=hint[0].upper() + hint[1:] + ("" if hint.endswith("?") else "."))
