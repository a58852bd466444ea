"""Labels in a file beside each image, with the same key: `.cls` and `.json`, as WebDataset has them.

A key is a path without endings: without the last one, or all from the first dot of the name on, as WebDataset does. A
`.cls` holds a number or a name, a `.json` an object with `label` or `cls`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from imagesets.errors import DataError
from imagesets.labels import LabelColumn, column_of

MAX_LABEL_BYTES = 1 << 10
LABEL_KEYS = ("cls", "label", "class")


def keys_of(path: str) -> tuple[str, str]:
    """Return the keys of a path: without its last ending, and without all of them."""
    folder, slash, name = path.rpartition("/")
    last = name.rpartition(".")[0] or name
    return f"{folder}{slash}{last}", f"{folder}{slash}{name[:1]}{name[1:].partition('.')[0]}"


def label_in(data: bytes | str, where: str) -> str:
    """Return the label in a `.cls` file's content.

    Raises:
        DataError: the file could not be read (`data` says why), or is no short text.
    """
    if isinstance(data, str):
        raise DataError(f"{where}: {data}")
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        text = ""
    if not text or len(data) > MAX_LABEL_BYTES or "\0" in text:
        raise DataError(f"{where} is no label: write a number or a name into it")
    return text


def label_in_json(data: bytes | str) -> str | None:
    """Return the label in a `.json` file's content, None if there is none."""
    try:
        found = json.loads(data) if isinstance(data, bytes) else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    value: Any = next((found[key] for key in LABEL_KEYS if key in found), None)
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) else None


def labels_by_key(paths: Sequence[str], labels: Mapping[str, str], where: str) -> LabelColumn:
    """Return the label of each path by its keys; a path whose keys have none has no label."""
    found = [next((labels[key] for key in keys_of(path) if key in labels), None) for path in paths]
    return column_of(found, where) if found else column_of([""], where).take(slice(0))
