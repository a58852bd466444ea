"""`--data` and `--input`: the set at a path, whatever container it is in: its parts, labels and class names.

    PATH            a file or folder: finds out what is there
    FORM:PATH       idx, npz, npy, mat, csv, parquet, tar, zip or folder, where several are there
    PATH#SET        one of several sets, such as idx:DIR#emnist-letters, and what is known of that set

A folder of files is grouped by their names (`file_names.py`): the parts of a set, and the files of images and of labels
that belong together. What is there twice, in another container or spelling, is refused: one of them must be named.
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from common.errors import listing
from imagesets.errors import DataError
from imagesets.formats.files.folder import open_folder
from imagesets.formats.tables.csv_files import has_pixels
from imagesets.label_files import read_labels
from imagesets.labels import LabelColumn, of_codes
from imagesets.names.file_names import (
    Role,
    SetName,
    is_system_file,
    part_of_folder,
    read_name,
    without_compression,
)
from imagesets.names.known_sets import KnownSet, known_by_name
from imagesets.names.naming import name_labels
from imagesets.opening import Kind, kind_of, open_file
from imagesets.source import PARTS, Options, Part, Source

FORMS = ("idx", "npz", "npy", "mat", "csv", "parquet", "tar", "zip", "folder")
DEPTH = 3
"""Levels of folders below the given one in which the files of a set are looked for: torchvision has ROOT/MNIST/raw."""
ENDINGS: Mapping[str, Kind] = {
    ".npy": "npy",
    ".npz": "npz",
    ".mat": "mat",
    ".csv": "csv",
    ".tsv": "csv",
    ".amat": "csv",
    ".parquet": "parquet",
    ".tar": "tar",
    ".tgz": "tar",
    ".zip": "zip",
}
"""Extension, without that of a compression, to what a file probably is; `kind_of` looks into it when it is opened."""
IMAGE_ENDINGS = (
    ".png",
    ".jpg",
    ".jpeg",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".webp",
    ".pgm",
    ".ppm",
    ".pbm",
    ".pnm",
)

_IDX = re.compile(r"[-._]?idx[1-4]?([-._](u?byte|u?int|short|float|double))?$", re.IGNORECASE)
_SHARD = re.compile(r"[-._]?\d+(-of-\d+)?$")
_QUICKDRAW = "full_numpy_bitmap_"

Slot = tuple[Part | None, Role | None]
Key = tuple[Path, str]
"""A folder, and the set's name in the files' names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSet:
    """A set of images."""

    path: Path
    """Where it was found."""
    name: str
    """Of the file or folder, for the model's name."""
    found: str
    """What was taken, as a phrase for the user: `idx files of emnist-letters (training, test)`."""
    sources: tuple[Source, ...]
    """In the order of their names."""
    known: Callable[[], KnownSet | None]
    """Returns the known set that it is, None if it is none; it may read the labels."""

    def part(self, part: Part) -> list[Source]:
        """Return the sources of a part; sources that say no part are training."""
        return [source for source in self.sources if (source.part or "training") == part]


def split_form(spec: str) -> tuple[str, str]:
    """Return the form and the rest of `FORM:PATH`; the form is empty if there is none."""
    form, colon, rest = spec.partition(":")
    return (form, rest) if colon and form in FORMS else ("", spec)


def open_set(spec: str, options: Options) -> ImageSet:
    """Find the set at `PATH`, `FORM:PATH` or `PATH#SET`.

    Raises:
        DataError: nothing is there, nothing that is read, or more than one set; the message lists what was found.
    """
    form, text = split_form(spec)
    path, chosen = _split_chosen(text)
    if not text or "\0" in text or not os.path.lexists(path):
        raise DataError(
            f"{spec!r} is not a data set: there is no {path}; give a file or folder, or one of "
            + ", ".join(f"{form}:PATH" for form in FORMS)
        )
    options = replace(options, chosen=chosen)
    if path.is_dir():
        name, found, folder, sources = _open_directory(path, form, options)
    else:
        name, found, folder, sources = _open_single(path, form, options)
    known = known_by_name(chosen) or known_by_name(name)
    recognised = name_labels(sources, known, options, folder)
    there = {source.part for source in sources}
    parts = [part for part in PARTS if part in there]
    more = f" ({', '.join(parts)})" if parts else ""
    return ImageSet(path=path, name=name, found=found + more, sources=tuple(sources), known=recognised)


def _split_chosen(text: str) -> tuple[Path, str]:
    """Split `PATH#SET`, unless something has that name."""
    path, mark, chosen = text.rpartition("#")
    return (Path(path), chosen) if mark and path and not os.path.lexists(text) else (Path(text), "")


def _open_single(path: Path, form: str, options: Options) -> tuple[str, str, Path, list[Source]]:
    if form == "folder":
        raise DataError(f"{path} is not a folder: give {path} without folder:")
    kind = kind_of(str(path), path)
    if form and kind != form:
        raise DataError(f"{path} is {_described(kind)}, not {form}: give {path} without {form}:")
    sources = open_file(str(path), path, options)
    says = _says(path)
    for source in sources:
        source.part = source.part or says.part
    if says.role == "images" and all(source.read_labels is None for source in sources):
        _pair(sources, [beside for beside in _files(path.parent, 0) if _partner(says, _says(beside))])
    return _stem(path), f"{_described(kind)} {path}", path.parent, sources


def _partner(images: SetName, other: SetName) -> bool:
    return other.role == "labels" and (other.prefix, other.part) == (images.prefix, images.part)


def _described(kind: str) -> str:
    return {"image": "an image", "text": "text", "csv": "a table (CSV)"}.get(kind, f"a {kind} file")


# Folders


def _open_directory(directory: Path, form: str, options: Options) -> tuple[str, str, Path, list[Source]]:
    by_form: dict[str, list[Path]] = defaultdict(list)
    for path in _files(directory, DEPTH):
        by_form[_probable_form(path)].append(path)
    by_form.pop("", None)
    if len(by_form) > 1:  # a table beside images has their labels, or the names of the classes
        by_form["csv"] = [path for path in by_form["csv"] if has_pixels(str(path), path)]
    forms = [form] if form else [form for form in FORMS if by_form[form]]
    if not forms or (form and form != "folder" and not by_form[form]):
        there = listing(sorted({path.name for path in _files(directory, DEPTH)}), 10) or "nothing"
        raise DataError(
            f"{directory} has no {form + ' files' if form else 'images'}; it has {there}: give a folder with a "
            "subfolder of images for each class, or with IDX, .npz, .npy, .mat, .csv, .parquet, .tar or .zip files"
        )
    if len(forms) > 1:
        raise DataError(
            f"{directory} has images in several forms: choose one, as in "
            + ", ".join(f"{form}:{directory}" for form in forms)
        )
    (form,) = forms
    if form == "folder":
        sources: list[Source] = [*open_folder(str(directory), directory, options)]
        return directory.resolve().name or "folder", f"image files in {directory}", directory, sources
    if form == "npy" and (named := _class_files(by_form["npy"])):
        sources = _open_classes(named, options)
        return directory.resolve().name, f"a .npy file for each class in {directory}", directory, sources
    (folder, prefix), slots = _choose(directory, form, by_form[form], options)
    sources = []
    for slot, paths in slots.items():
        if slot[1] == "labels" and not slots.keys() & {(slot[0], "images"), (slot[0], None)}:
            raise DataError(
                f"{folder} has {paths[0].name} and lacks the {slot[0] or ''} images of these labels: "
                "add them, or remove it"
            )
        if slot[1] != "labels":
            sources += _open_slot(slot, paths, slots, options)
    name = known.name if (known := known_by_name(options.chosen)) else prefix or folder.resolve().name or form
    return name, f"{form} files in {folder}", folder, sources


def _files(directory: Path, depth: int) -> Iterator[Path]:
    """Yield the files below a folder that may be anybody's data, sorted by name."""
    try:
        with os.scandir(directory) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{directory} cannot be listed: {error.strerror}") from None
    for entry in entries:
        if is_system_file(entry.name):
            continue
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link to itself
            continue
        if not is_folder:
            yield directory / entry.name
        elif depth > 0:
            yield from _files(directory / entry.name, depth - 1)


def _probable_form(path: Path) -> str:
    """Return the form of a file by its name, `folder` for an image; empty if the name says none."""
    name = without_compression(path.name).lower()
    if name.endswith(IMAGE_ENDINGS):
        return "folder"
    if _IDX.search(name):
        return "idx"
    ending = os.path.splitext(name)[1]  # noqa: PTH122  the name may be lower than the path's
    if ending in ENDINGS:
        return ENDINGS[ending]
    return ""


def _stem(path: Path) -> str:
    """Return a file's name without extensions, part, role and number of a shard."""
    says = _says(path)
    if says.prefix or (says.part is None and says.role is None):
        return says.prefix or _IDX.sub("", without_compression(path.name)).partition(".")[0]
    return path.resolve().parent.name


def _says(path: Path) -> SetName:
    name = _IDX.sub("", without_compression(path.name))
    stem = name if _IDX.search(without_compression(path.name)) else os.path.splitext(name)[0]  # noqa: PTH122
    said = read_name(_SHARD.sub("", stem))
    known = known_by_name(path.name)  # its files may differ in more than part and role
    return said._replace(prefix=known.name) if known else said


def _choose(
    directory: Path, form: str, paths: Sequence[Path], options: Options
) -> tuple[Key, dict[Slot, list[Path]]]:
    """Return the one set among the files of a form: the chosen, or the only one that has what a set needs."""
    for key_of in (lambda path: path.parent, lambda _: directory):  # files of one set may each have a folder
        groups = {key: slots for key, slots in _grouped(paths, key_of).items() if _is_set(slots)}
        if groups:
            break
    else:
        raise DataError(_lacking(directory, form, paths))
    if options.chosen:
        by_name = {key: slots for key, slots in groups.items() if _is_named(key, options.chosen)}
        fit = by_name or {key: slots for key, slots in groups.items() if _may_be(key, options.chosen)}
        if not fit:
            raise DataError(f"{directory} has no set {options.chosen!r}; it has {_names_of(groups)}")
        groups = fit
    if with_parts := {key: slots for key, slots in groups.items() if any(part for part, _ in slots)}:
        for key in groups.keys() - with_parts.keys():
            options.say(
                f"{directory}: {listing([p.name for ps in groups[key].values() for p in ps])} is left out"
            )
        groups = with_parts
    if len(groups) > 1:
        example = next(prefix or _folder_name(folder) for folder, prefix in sorted(groups, reverse=True))
        raise DataError(
            f"{directory} has several sets, {_names_of(groups)}: choose one, as in {form}:{directory}#{example}"
        )
    return next(iter(groups.items()))


def _grouped(paths: Sequence[Path], folder_of: Callable[[Path], Path]) -> dict[Key, dict[Slot, list[Path]]]:
    groups: dict[Key, dict[Slot, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(paths, key=lambda path: (path.parent, path.name)):
        prefix, part, role = _says(path)
        folder = folder_of(path)
        if part is None and (part := part_of_folder(path.parent.name)) and folder == path.parent:
            folder = folder.parent  # such as train/0.tar
        there = groups[(folder, prefix)][(part, role)]
        plain = without_compression(path.name)
        if any(other.name == plain or without_compression(other.name) == path.name for other in there):
            continue  # the same file, compressed too: sorted, so the plain one is first
        there.append(path)
    return groups


def _is_set(slots: Mapping[Slot, Sequence[Path]]) -> bool:
    """Return whether files are a set: with a table or archive of its own, or images and labels."""
    parts = {part for part, _ in slots}
    first = "training" if "training" in parts else None if None in parts else next(iter(parts))
    return (first, None) in slots or {(first, "images"), (first, "labels")} <= slots.keys()


def _is_named(key: Key, chosen: str) -> bool:
    """Return whether a set's files or folder have the chosen name, or another of the same known set."""
    folder, prefix = key
    names = (prefix, folder.name, _folder_name(folder))
    known = known_by_name(chosen)
    return chosen in names or (
        known is not None and (known.has_files(prefix) or known in map(known_by_name, names))
    )


def _may_be(key: Key, chosen: str) -> bool:
    """Return whether a set whose files have MNIST's names may be the chosen one."""
    known = known_by_name(chosen)
    return known is not None and not known.prefixed and not key[1]


def _folder_name(folder: Path) -> str:
    """Return the name of a set's folder, of MNIST/raw the first."""
    return folder.parent.name if folder.name == "raw" else folder.name


def _names_of(groups: Mapping[Key, object]) -> str:
    folders = {folder for folder, _ in groups}
    unnamed = "one without a prefix (#mnist, #fashion-mnist or #kmnist)"
    return ", ".join(
        repr(prefix or _folder_name(folder)) if prefix or len(folders) > 1 else unnamed
        for folder, prefix in sorted(groups)
    )


def _lacking(directory: Path, form: str, paths: Sequence[Path]) -> str:
    names = listing([path.name for path in paths], 8)
    return (
        f"{directory} has {names}, and not both images and labels to train on: name the files as "
        "train-images... and train-labels..., t10k-images... and t10k-labels..., or put both into one .npz, .csv or "
        f".parquet file (looked for {form} files)"
    )


def _open_slot(
    slot: Slot, paths: Sequence[Path], slots: Mapping[Slot, Sequence[Path]], options: Options
) -> list[Source]:
    """Open the files of a part, with the labels that are in files of their own."""
    part, role = slot
    if len(paths) > 1 and role == "images":
        raise DataError(f"{paths[0].parent} has both {paths[0].name} and {paths[1].name}: remove one of them")
    sources: list[Source] = []
    for path in paths:
        opened = open_file(str(path), path, options)
        for source in opened:
            source.part = source.part or part
        sources += opened
    are_images = role == "images" or ((part, "images") not in slots and not sources[0].needs_decoding)
    if are_images and all(source.read_labels is None for source in sources):
        _pair(sources, slots.get((part, "labels"), ()))
    return sources


def _pair(sources: Sequence[Source], labels: Sequence[Path]) -> None:
    """Give the images of one file the labels of another, or of several that say the same, as QMNIST's do."""
    if len(sources) == 1 and labels:
        sources[0].read_labels = partial(_read_same, labels)
        sources[0].label_files = tuple(labels)


def _read_same(paths: Sequence[Path]) -> LabelColumn:
    first, *others = map(read_labels, paths)
    for path, other in zip(paths[1:], others, strict=True):
        if other.values != first.values or not np.array_equal(other.codes, first.codes):
            raise DataError(
                f"{path.parent} has {paths[0].name} and {path.name}, which differ: remove one of them"
            )
    return first


# A file for each class


def _class_files(paths: Sequence[Path]) -> dict[str, Path]:
    """Return the files by class if each holds the images of one, as those of Quick, Draw! do."""
    if len(paths) < 2 or any(_says(path).part or _says(path).role for path in paths):
        return {}
    names = [path.name.split(".npy")[0].removeprefix(_QUICKDRAW) for path in paths]
    return dict(zip(names, paths, strict=True)) if len(set(names)) == len(names) else {}


def _open_classes(named: Mapping[str, Path], options: Options) -> list[Source]:
    names = sorted(named)
    sources = []
    for code, name in enumerate(names):
        for source in open_file(str(named[name]), named[name], options):
            source.read_labels = _constant(code, source.count, names)
            sources.append(source)
    return sources


def _constant(code: int, count: int, names: Sequence[str]) -> Callable[[], LabelColumn]:
    return lambda: of_codes(np.full(count, code), names)
