"""What the names of files and folders say: the part of a set, images or labels, and what is nobody's data.

`emnist-letters-train-images-idx3-ubyte.gz`, `k49-val-imgs.npz`, `sign_mnist_test.csv`, `data/Training/cat/1.png`: the
words between separators name the part and the role, what is left is the set's name.
"""

import re
from typing import Literal, NamedTuple

from imagesets.source import Part

Role = Literal["images", "labels"]

PART_WORDS: dict[str, Part] = {
    "train": "training",
    "training": "training",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
    "t10k": "test",
}
"""A word in the name of a file or folder, in any case, to the part of the set."""
ROLE_WORDS: dict[str, Role] = {
    "images": "images",
    "image": "images",
    "imgs": "images",
    "patterns": "images",
    "img": "images",
    "x": "images",
    "labels": "labels",
    "label": "labels",
    "targets": "labels",
    "y": "labels",
}
SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "icon\r", "$recycle.bin", "system volume information"})
SYSTEM_FOLDERS = frozenset({"__macosx", "__pycache__", "@eadir", "lost+found"})
COMPRESSIONS = (".gz", ".xz", ".bz2")

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+|[^\W_]+")


class SetName(NamedTuple):
    """What a file's name says."""

    prefix: str
    """The words that name neither part nor role, joined by dashes: the set's name; may be empty."""
    part: Part | None
    role: Role | None


def read_name(stem: str) -> SetName:
    """Return what a file's name says, without its folder and extensions.

    A word counts as part or role only once: `test-train` is a test part of a set called train. `train_valid` is the
    training part, of which its authors take the validation images.
    """
    part: Part | None = None
    role: Role | None = None
    rest: list[str] = []
    for word in _words(stem):
        lower = word.lower()
        if part is None and lower in PART_WORDS:
            part = PART_WORDS[lower]
        elif part == "training" and PART_WORDS.get(lower) == "validation":
            continue
        elif role is None and lower in ROLE_WORDS:
            role = ROLE_WORDS[lower]
        else:
            rest.append(lower)
    return SetName("-".join(rest), part, role)


def _words(stem: str) -> list[str]:
    return [match.group() for match in _WORD.finditer(stem)]


def part_of_folder(name: str) -> Part | None:
    """Return the part that a folder named so holds, in any case; None if it is a class, or anything else."""
    return PART_WORDS.get(name.lower())


def is_system_file(name: str) -> bool:
    """Return whether a file or folder of that name is the system's or hidden, and nobody's data."""
    lower = name.lower()
    return name.startswith(".") or lower in SYSTEM_FILES or lower in SYSTEM_FOLDERS


def without_compression(name: str) -> str:
    """Return a file's name without `.gz`, `.xz` or `.bz2`."""
    lower = name.lower()
    return next((name[: -len(ending)] for ending in COMPRESSIONS if lower.endswith(ending)), name)
