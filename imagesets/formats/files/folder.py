"""Folders of image files, for training and for scoring.

`open_folder` reads a data set: a subfolder for each class, with or without parts (`layout.py`); or images with a table
of labels beside them (`label_tables.py`); or with a `.cls` file beside each, as WebDataset has them. The labels come
from one of these, and where two say different things the set is refused. Deeper folders inside a class are refused
too, and so are parts inside classes (`cat/train/`): nothing says what they are.

`collect` lists everything in a folder, as the scorer takes it.
"""

# Paths are bytes: half the memory of strings, and no encoding errors.
# ruff: noqa: PTH116, PTH208

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bundle.images.hardening import MAX_FILE_BYTES
from imagesets.errors import DataError
from imagesets.formats.files.layout import (
    BESIDE,
    CONTAINER_ENDINGS,
    IMAGE_ENDINGS,
    LABELS_ENDING,
    NESTED,
    Layout,
    Problem,
    classify,
    has_ending,
    in_order,
    is_sidecar,
    parent,
)
from imagesets.formats.files.listing import FileSource, display_name, read_file
from imagesets.formats.files.sidecars import keys_of, label_in, labels_by_key
from imagesets.label_table_files import is_label_table, read_label_table
from imagesets.label_tables import agreeing, match_found, no_table_error
from imagesets.labels import UNKNOWN, LabelColumn, of_codes
from imagesets.names.file_names import is_system_file, part_of_folder, without_compression
from imagesets.source import PARTS, Options, StatFiles

USUAL_ENDINGS = (b".png", b".jpg", b".jpeg")
"""Extensions of image files, tested first because most names have one; other files may be images too."""
DOT = ord(".")
EMPTY = "empty class"
BLOCK, WINDOW = 512, 1 << 14
"""Names that another process is asked about at once, and those that are shared out between the processes."""


@dataclass(kw_only=True, slots=True)
class _Folder:
    """What is directly in a folder."""

    files: dict[str, os.stat_result] = field(default_factory=dict)
    """The files that can be read, by name."""
    problems: list[Problem] = field(default_factory=list)
    hidden: int = 0
    has_folders: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class _Images:
    """The images of a set, sorted by path, with what is known of each."""

    paths: list[str]
    labels: LabelColumn
    parts: npt.NDArray[np.int64]
    """Index in `PARTS`, `UNKNOWN` for none."""


def open_folder(name: str, root: Path, options: Options) -> list[FileSource]:
    """Open a data set in a folder: a source for each part, with the label of each image.

    What training does not take (`Problem`) is in the sources' `problems`, and no row.

    Raises:
        DataError: the folder cannot be listed, its images have no labels or labels that differ, or it has a test part
            and no training part.
    """
    tree = dict(_scan(str(root)))
    layout = classify({folder: _has_images(content.files) for folder, content in tree.items()})
    tables = [
        f"{folder}/{file}".lstrip("/")
        for folder, content in tree.items()
        for file in content.files
        if is_label_table(file) and (layout.places[folder].label is None or not layout.has_classes())
    ]
    if options.label_column is not None and not tables:
        raise no_table_error(name, options.label_column)
    sidecars = any(file.endswith(".cls") for content in tree.values() for file in content.files)
    if sidecars:
        images = _by_sidecars(root, name, tree, layout)
    elif tables and (
        options.label_column or not layout.has_classes() or _parts_by_tables(root, name, tree, layout, tables)
    ):
        images = _by_tables(root, name, tree, tables, options)
    else:
        return _class_sources(name, root, tree, layout, options)
    return _sources(name, root, tree, images, [one for content in tree.values() for one in content.problems])


def _scan(root: str) -> Iterator[tuple[str, _Folder]]:
    """Yield every folder, by its name below the first, with what is directly in it; links are followed but in loops."""
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        folder, above = pending.pop()
        place = os.path.join(root, folder) if folder else root  # noqa: PTH118
        try:
            with os.scandir(place) as found:
                entries = sorted(found, key=lambda entry: entry.name)
            above |= {_identity(os.stat(place))}
            content, below = _listed(folder, entries, above)
        except OSError as error:
            raise DataError(f"{place} cannot be listed: {error.strerror}") from None
        yield folder, content
        pending += [(path, above) for path in reversed(below)]


def _listed(
    folder: str, entries: Iterable[os.DirEntry[str]], above: frozenset[tuple[int, int]]
) -> tuple[_Folder, list[str]]:
    """Return what is directly in a folder, and the folders in it that are not `above` it."""
    content = _Folder()
    below = []
    for entry in entries:
        path = f"{folder}/{entry.name}" if folder else entry.name
        if is_system_file(entry.name):
            content.hidden += 1
        elif _is_folder(entry):
            content.has_folders = True
            if _identity(entry.stat()) in above:
                content.problems.append(Problem(path, NESTED))
            else:
                below.append(path)
        elif trouble := _trouble(entry):
            content.problems.append(Problem(path, trouble))
        else:
            content.files[entry.name] = entry.stat()
    return content, below


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _trouble(entry: os.DirEntry[str]) -> str | None:
    """Return why a directory entry cannot be read as an image, or None; reading a FIFO would block for ever."""
    try:
        if not entry.is_file():
            return "broken link" if entry.is_symlink() else "not a regular file"
        large = entry.stat().st_size > MAX_FILE_BYTES
    except OSError:
        return "link to itself" if entry.is_symlink() else "cannot be read"
    beside = is_sidecar(entry.name) or is_label_table(entry.name)
    return "larger than 1 MiB" if large and not beside else None


def _has_images(names: Iterable[str]) -> bool:
    return any(has_ending(name, IMAGE_ENDINGS) for name in names)


def _class_sources(
    name: str, root: Path, tree: Mapping[str, _Folder], layout: Layout, options: Options
) -> list[FileSource]:
    """Return the sources of a set whose folders are the classes."""
    _check_parts(root, tree, layout)
    classes = layout.classes()
    paths: list[str] = []
    codes: list[int] = []
    parts: list[int] = []
    problems: list[Problem] = []
    for folder, content in tree.items():
        place = layout.places[folder]
        if place.label is None:  # a link to nothing, or to a folder above, may have been a class
            problems += [one for one in content.problems if "link" in one.kind or one.kind == NESTED]
        elif place.problem:
            problems.append(Problem(folder, place.problem))
        else:
            problems += content.problems
            if not content.files and not content.has_folders:
                problems.append(Problem(folder, EMPTY))
            paths += [f"{folder}/{file}" for file in content.files]
            codes += [classes.index(place.label)] * len(content.files)
            parts += [UNKNOWN if place.part is None else PARTS.index(place.part)] * len(content.files)
    _say_skipped(root, tree, layout, options)
    labels = of_codes(np.array(codes, dtype=np.int64), classes)
    images = _Images(paths=paths, labels=labels, parts=np.array(parts, dtype=np.int64))
    return _sources(name, root, tree, images, problems)


def _check_parts(root: Path, tree: Mapping[str, _Folder], layout: Layout) -> None:
    """Check that there are class folders, for training and in every part.

    Raises:
        DataError: there are none.
    """
    top = root / layout.top
    if not tree[layout.top.rstrip("/")].has_folders:
        raise DataError(
            f"{top} has no subfolders: create one for each class, with its images, or add a CSV file of the images' "
            "names and labels"
        )
    if layout.parts and "training" not in layout.parts:
        folder = next(iter(layout.parts.values()))
        raise DataError(f"{top} has {folder}/ but no train/ with a subfolder for each class")
    for folder, place in layout.places.items():
        below = folder.removeprefix(layout.top)
        if place.problem == BESIDE and place.part is not None and "/" not in below:
            raise DataError(
                f"{root / folder} has no class folders: add them, or remove {below}/ to have a test set held out"
            )


def _say_skipped(root: Path, tree: Mapping[str, _Folder], layout: Layout, options: Options) -> None:
    """Say how many files are beside the class folders of each part, and how many are hidden in them."""
    beside: Counter[str] = Counter()
    hidden: Counter[str] = Counter()
    for folder, content in tree.items():
        place = layout.places[folder]
        part = f"{layout.top}{layout.parts.get(place.part, '') if place.part else ''}".rstrip("/")
        if place.label is None:
            beside[part] += len(content.files) + sum(one.kind != NESTED for one in content.problems)
        else:
            hidden[part] += content.hidden
    for what, counts in (("file(s) beside the class folders of", beside), ("hidden file(s) in", hidden)):
        for part, count in counts.items():
            if count:
                options.say(f"skipped {count} {what} {root / part}")


def _images_of(tree: Mapping[str, _Folder]) -> list[str]:
    """Return the paths of all images."""
    return [
        f"{folder}/{file}".lstrip("/")
        for folder, content in tree.items()
        for file in content.files
        if not is_sidecar(file) and not is_label_table(file)
    ]


def _parts_by_tables(
    root: Path, name: str, tree: Mapping[str, _Folder], layout: Layout, tables: Iterable[str]
) -> bool:
    """Return whether tables beside class folders say the parts, which the folders do not.

    Raises:
        DataError: a table has labels of the images, and the folders say something else.
    """
    paths = _images_of(tree)
    try:
        labels, parts = match_found([read_label_table(root / table) for table in tables], paths, name)
    except DataError:  # a table of something else
        return False
    agreeing(labels, [layout.places[parent(path)].label for path in paths], f"{root}: {', '.join(tables)}")
    return not layout.parts and bool((parts != UNKNOWN).any())


def _by_tables(
    root: Path, name: str, tree: Mapping[str, _Folder], tables: Sequence[str], options: Options
) -> _Images:
    """Return the images with the labels of tables.

    Raises:
        DataError: no table fits.
    """
    paths = _images_of(tree)
    labels, parts = match_found(
        [read_label_table(root / table) for table in tables], paths, name, label_column=options.label_column
    )
    known = labels.codes != UNKNOWN
    if not known.all():
        options.say(
            f"skipped {int((~known).sum())} file(s) of {root} that {', '.join(tables)} have no label of"
        )
    options.say(f"labels of {root} are read from {', '.join(tables)}")
    return _Images(
        paths=[path for path, kept in zip(paths, known.tolist(), strict=True) if kept],
        labels=labels.take(np.flatnonzero(known)),
        parts=parts[known],
    )


def _by_sidecars(root: Path, name: str, tree: Mapping[str, _Folder], layout: Layout) -> _Images:
    """Return the images with the labels of the `.cls` files beside them."""
    paths = _images_of(tree)
    contents = {
        f"{folder}/{file}".lstrip("/").removesuffix(".cls"): read_file(os.fsencode(root / folder / file))
        for folder, content in tree.items()
        for file in content.files
        if file.endswith(".cls")
    }
    labels = labels_by_key(
        paths, {key: label_in(data, f"{root / key}.cls") for key, data in contents.items()}, name
    )
    if (labels.codes == UNKNOWN).any():
        path = paths[int(np.flatnonzero(labels.codes == UNKNOWN)[0])]
        raise DataError(f"{root / path} has no .cls file beside it: add one, with its label")
    parts = [part_of_folder(path.removeprefix(layout.top).split("/")[0]) for path in paths]
    codes = [UNKNOWN if part is None else PARTS.index(part) for part in parts]
    return _Images(paths=paths, labels=labels, parts=np.array(codes, dtype=np.int64))


def _sources(
    name: str, root: Path, tree: Mapping[str, _Folder], images: _Images, problems: list[Problem]
) -> list[FileSource]:
    """Return a source for each part that has images, in the order of parts."""
    place = {part: code for code, part in enumerate(PARTS)}
    found = {PARTS[code] if code != UNKNOWN else None for code in images.parts.tolist()} or {None}
    sources = []
    for part in in_order(found):
        source = FileSource(name, os.path.join(os.fsencode(root), b""))  # noqa: PTH118
        source.part = part
        rows = np.flatnonzero(images.parts == (UNKNOWN if part is None else place[part]))
        for row in rows.tolist():
            folder, _, file = images.paths[row].rpartition("/")
            source.add_known(os.fsencode(images.paths[row]), tree[folder].files[file])
        source.read_labels = partial(images.labels.take, rows)
        sources.append(source)
    sources[0].problems = problems
    return sources


def _none(_: bytes) -> bool:
    return False


def _here(*_: object) -> None:
    return None


def walk(
    root: bytes,
    is_left_out: Callable[[bytes], bool] = _none,
    stat_files: StatFiles = _here,
) -> Iterator[tuple[bytes, os.stat_result | bytes | None]]:
    """Yield the files of a folder (name with a slash), recursively, sorted by name; names are relative to it.

    With each comes its `stat` result, or the line that `listing.stat_fields` has of it. A folder that cannot be listed
    is yielded itself, with a slash at its end; a file whose `stat` fails has None. Links to a folder that one is in are
    not followed.

    Args:
        root: the folder.
        is_left_out: whether all that is in a folder is left out, by its name below `root`.
        stat_files: see `Options.stat_files`.

    Raises:
        DataError: the folder itself cannot be listed.
    """
    try:
        names = _known_names(root, sorted(os.listdir(root)), stat_files)
        pending = [(b"", names, frozenset({_identity(os.stat(root))}))]
    except OSError as error:
        raise DataError(f"the folder {display_name(root)} cannot be read: {error.strerror}") from error
    if is_left_out(b""):
        return
    while pending:
        prefix, names, above = pending[-1]
        for name, known in names:
            path = prefix + name
            if known:
                yield path, known
                continue
            try:
                found = os.stat(root + path)
            except OSError:
                yield path, _status_of_link(root + path)  # a broken link: its row has the error
                continue
            if not stat.S_ISDIR(found.st_mode):
                yield path, found
            elif _identity(found) not in above and not name.startswith(b".") and not is_left_out(path):
                if (below := _names_in(root + path)) is None:
                    yield path + b"/", found
                    continue
                path += b"/"
                names = _known_names(root + path, below, stat_files)
                pending.append((path, names, above | {_identity(found)}))
                break
        else:
            pending.pop()


def _names_in(folder: bytes) -> list[bytes] | None:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return None


def _known_names(
    folder: bytes,
    names: Sequence[bytes],
    stat_files: StatFiles,
) -> Iterator[tuple[bytes, bytes]]:
    """Return an iterator over names, each with what another process found out of it, empty if nothing.

    `stat` takes most of the time of listing a folder. Others begin with the last names of a window, this process with
    the first, and where they meet, the window ends.
    """
    windows = (names[at : at + WINDOW] for at in range(0, len(names), WINDOW))
    return chain.from_iterable(chain.from_iterable(_window(folder, names, stat_files) for names in windows))


def _window(
    folder: bytes,
    names: Sequence[bytes],
    stat_files: StatFiles,
) -> Iterator[Iterable[tuple[bytes, bytes]]]:
    blocks = [names[at : at + BLOCK] for at in range(0, len(names), BLOCK)]
    others = [stat_files(folder, block) if len(blocks) > 1 else None for block in reversed(blocks)]
    for block, other in zip(blocks, reversed(others), strict=True):
        if other is None or other.cancel():
            yield zip(block, repeat(b""), strict=False)
        else:
            yield zip(block, other.result().split(b"\n"), strict=True)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _status_of_link(path: bytes) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None


def collect(
    name: str,
    root: str,
    found: Iterator[tuple[bytes, os.stat_result | bytes | None]],
    options: Options,
    is_left_out: Callable[[bytes], bool] = _none,
) -> tuple[FileSource, list[str]]:
    """Return the image files of a folder or pattern as a source, and the paths of the files of many images in it.

    The labels are those of `.cls` files beside the images if there are any, else the names of the images' folders.

    Args:
        name: of the source.
        root: the folder with a slash at its end, or empty.
        found: the files below it, as `walk` yields them.
        options: whom to tell what is skipped and found.
        is_left_out: whether a file is neither image nor anything else; it is not asked about .png and .jpg files.
    """
    files = FileSource(name, os.fsencode(root))
    containers: list[str] = []
    left_out = 0
    files.read_labels = files.labels_of_folders
    for path, status in found:
        if path.endswith(USUAL_ENDINGS) and path[path.rfind(b"/") + 1] != DOT:  # the fast path for most names
            files.add_known(path, status)
            if files.count == 1:
                options.on_image_files()
            continue
        if is_left_out(path):
            continue
        text = os.fsdecode(path)
        ending = without_compression(text).lower()
        if ending.endswith(LABELS_ENDING) or is_sidecar(text):
            left_out += 1
            if text.endswith(".cls"):
                files.read_labels = lambda: _labels_of_sidecars(files)
        elif ending.endswith(CONTAINER_ENDINGS) and _is_regular(status):
            containers.append(root + text)
        else:
            files.add_known(path, status)
    if left_out:
        options.say(
            f"{name}: {left_out} file(s) that are not images are skipped (labels, descriptions, hidden files)"
        )
    return files, containers


def _is_regular(status: os.stat_result | bytes | None) -> bool:
    return isinstance(status, bytes) or (status is not None and stat.S_ISREG(status.st_mode))


def _labels_of_sidecars(files: FileSource) -> LabelColumn:
    """Return the labels in the `.cls` files beside the images; an image without one has no label."""
    paths = [os.fsdecode(path) for path in files.paths()]
    keys = {key for path in paths for key in keys_of(path)}
    labels = {}
    for key in keys:
        data = read_file(files.root + os.fsencode(f"{key}.cls"))
        if isinstance(data, bytes):
            labels[key] = label_in(data, f"{display_name(files.root)}{key}.cls")
    return labels_by_key(paths, labels, files.name)
