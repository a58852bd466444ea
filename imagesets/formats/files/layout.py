"""What the folders of a set say: its parts, the class of each image, and what is in the wrong place. Pure functions.

    CLASS/1.png                         a folder for each class
    train/CLASS/1.png, test/CLASS/...   the parts (`file_names.PART_WORDS`), with a folder for each class
    NAME/train/CLASS/1.png              the same in a folder of its own, as archives unpack

A folder is looked at once, however many images are in it, so that ten million need no time. Folders of the disk and of
the names of an archive's members are looked at alike.
"""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from imagesets.names.file_names import (
    is_system_file,
    part_of_folder,
    read_name,
    without_compression,
)
from imagesets.source import PARTS, Part

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff")

CONTAINER_ENDINGS = (
    "idx3-ubyte",
    ".idx3",
    ".npy",
    ".npz",
    ".mat",
    ".parquet",
    ".tar",
    ".tgz",
    ".tbz2",
    ".txz",
    ".zip",
)
"""Endings of files of many images, without `.gz`, `.xz` and `.bz2`."""
LABELS_ENDING = "idx1-ubyte"

SIDECARS = frozenset(
    {".cls", ".cls2", ".csv", ".id", ".idx", ".index", ".json", ".md", ".tsv", ".txt", ".xml"}
)
"""Extensions of files beside images in archives and folders, such as labels and descriptions; not scored."""

NESTED = "folder inside a class"
BESIDE = "folder beside train/ and test/"
STRAY = "class that is not in train/"
TWICE = "second folder of the same part"


class Problem(NamedTuple):
    """A file or folder that training does not take; the scorer gives its row an error, or scores it."""

    path: str
    kind: str
    """The category in which it is counted."""
    found: str = ""
    """The details of this one."""


class Place(NamedTuple):
    """What a folder says of the images directly in it."""

    part: Part | None
    label: str | None
    """The folder's name, None if it is no class."""
    problem: str = ""
    """Why training does not take the images; empty if it does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The parts and classes of a set in folders."""

    top: str
    """The folder that has all the others, with a slash at its end; empty if that is the set's own."""
    parts: Mapping[Part, str]
    """The folder of each part, below `top`; empty if there are no parts."""
    places: Mapping[str, Place]
    """Every folder that was given, by its name."""

    def classes(self) -> list[str]:
        """Return the names of the classes, sorted; those of folders in the wrong place are none."""
        return sorted({place.label for place in self.places.values() if place.label and not place.problem})

    def has_classes(self) -> bool:
        """Return whether the folders are classes: two or more, and not all of them parts or of images of any class."""
        names = {place.label for place in self.places.values() if place.label is not None}
        return len(names) > 1 and not all(
            read_name(name).role == "images" or part_of_folder(name) is not None for name in names
        )


def classify(folders: Mapping[str, bool]) -> Layout:
    """Return what the folders of a set say.

    Args:
        folders: names relative to the set, with slashes (empty for the set's own folder), to whether a file directly
            in it is an image by its ending. In a folder without folders every file counts.

    A folder named as a part is one if there are folders in it: a class may be called `test`.
    """
    split = {folder: components(folder) for folder in folders}
    above = {names[:depth] for names in split.values() for depth in range(len(names))}
    holding = {names for folder, names in split.items() if folders[folder] or names not in above}
    top = _top(holding)
    parts, twice = _parts(holding, top)
    places = {folder: _place(names, top, parts, twice, holding) for folder, names in split.items()}
    if "training" in parts.values():
        places = _without_strays(places)
    return Layout(
        top="".join(f"{name}/" for name in top),
        parts={part: name for name, part in parts.items()},
        places=places,
    )


def components(folder: str) -> tuple[str, ...]:
    """Return the names of the folders on the way to one; those that say nothing (`.`, empty) are left out."""
    return tuple(name for name in folder.split("/") if name not in ("", "."))


def is_junk(name: str) -> bool:
    """Return whether a file is the system's, or is in a folder of it, such as `__MACOSX/`."""
    return any(is_system_file(part) for part in components(name) if part != "..")


def has_ending(name: str, endings: tuple[str, ...]) -> bool:
    """Return whether a file's name ends so, in any case."""
    return name.lower().endswith(endings)


def is_container(name: str) -> bool:
    """Return whether a file has many images or their labels, by its name, compressed or not."""
    return has_ending(without_compression(name), (*CONTAINER_ENDINGS, LABELS_ENDING))


def is_sidecar(name: str) -> bool:
    """Return whether a member or file is not an image: it is the system's or has a sidecar's extension."""
    base = name.rpartition("/")[2]
    return is_system_file(base) or posixpath.splitext(base)[1].lower() in SIDECARS


def parent(path: str) -> str:
    """Return the folder of a file: what is before the last slash."""
    return path.rpartition("/")[0]


def _top(holding: set[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the way to the folder of the set: down while all is in one folder that is neither part nor class."""
    top: tuple[str, ...] = ()
    while True:
        heads = {names[len(top)] if len(names) > len(top) else "" for names in holding}
        if len(heads) != 1 or "" in heads:
            return top
        below = (*top, heads.pop())
        if below in holding or part_of_folder(below[-1]) is not None:
            return top
        top = below


def _parts(holding: set[tuple[str, ...]], top: tuple[str, ...]) -> tuple[dict[str, Part], set[str]]:
    """Return the folders of parts, and those that are a second one of their part."""
    depth = len(top)
    parts: dict[str, Part] = {}
    twice: set[str] = set()
    for name in sorted({names[depth] for names in holding if len(names) > depth + 1}):
        if (part := part_of_folder(name)) is None:
            continue
        if part in parts.values():
            twice.add(name)
        else:
            parts[name] = part
    return parts, twice


def _place(
    names: tuple[str, ...],
    top: tuple[str, ...],
    parts: Mapping[str, Part],
    twice: set[str],
    holding: set[tuple[str, ...]],
) -> Place:
    below = names[len(top) :]
    if names not in holding or not below:
        part = parts.get(below[0]) if len(below) == 1 else None
        return Place(part, None)
    if not parts:
        return Place(None, below[-1], NESTED if len(below) > 1 else "")
    head, *classes = below
    if head in twice:
        return Place(part_of_folder(head), classes[-1] if classes else None, TWICE)
    if head not in parts:
        return Place(part_of_folder(head), below[-1], BESIDE)
    if not classes:
        return Place(parts[head], None)
    return Place(parts[head], classes[-1], NESTED if len(classes) > 1 else "")


def _without_strays(places: Mapping[str, Place]) -> dict[str, Place]:
    """Return the places with the problem of classes that the training part has not."""
    known = {place.label for place in places.values() if place.part == "training" and not place.problem}
    return {
        folder: place._replace(problem=STRAY)
        if place.label is not None and not place.problem and place.part and place.label not in known
        else place
        for folder, place in places.items()
    }


def in_order(parts: set[Part | None]) -> list[Part | None]:
    """Return parts in the order of a set: what belongs to none first."""
    return [part for part in (None, *PARTS) if part in parts]
