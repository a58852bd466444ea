"""Opens the inputs (folders, files, glob patterns) as a list of sources in a deterministic order.

    a folder      its files, recursively, sorted by name; a file of many images is a source of its own
    a pattern     with *, ? or [, and ** for any depth
    a file        of images, of any kind that is read (`imagesets/opening.py`); other text is a list of paths
    FORM:PATH     a data set, as training takes it (`imagesets/image_set.py`); so is PATH#SET
    -             the standard input: a file

Files beside images (labels, descriptions, hidden files) are skipped, with a message. Any other file that is not an
image becomes a row with an error.
"""

# ruff: noqa: PTH112, PTH116, PTH118, PTH207

import glob
import hashlib
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from common.errors import listing
from imagesets.errors import DataError
from imagesets.formats.arrays.array_source import ArraySource
from imagesets.formats.files.folder import collect, walk
from imagesets.formats.files.listing import FileSource, ScratchFile, display_name
from imagesets.formats.tables.csv_files import has_pixels
from imagesets.image_set import open_set, split_form
from imagesets.label_tables import no_table_error
from imagesets.names.file_names import read_name, without_compression
from imagesets.opening import kind_of, open_file
from imagesets.source import LabelledSource, Options, Part, RawRows, Reader, Source
from imagesets.streams import first_bytes
from serving.scoring.own_output import REPORT, is_output_folder, is_result_file
from serving.scoring.settings import ENDINGS

STDIN = "-"
LIST_ENDINGS = (".txt", ".lst")
TABLE_ENDINGS = (b".csv", b".tsv", b".csv.gz")
RESULT_ENDINGS = tuple(os.fsencode(ending) for ending in (*ENDINGS, REPORT))
ARRAYS = ("image", "idx", "npy", "npz", "mat")
"""Kinds of files without columns that have a name."""
LONGEST_PATH = 4096
"""Bytes: PATH_MAX of Linux."""


def open_inputs(
    inputs: Sequence[str], options: Options, *, part: Part | None = None, stdin: BinaryIO | None = None
) -> list[Source]:
    """Open all inputs in the given order; empty sources are omitted.

    Args:
        inputs: as `ScoreSettings.input`.
        options: how they are read.
        part: the only part of the sets that is scored; None scores all.
        stdin: read for `-`, by default the process's.

    Raises:
        DataError: an input is missing, of an unknown format, or damaged; or there is no image in any input.
    """
    if options.classes is not None and not options.classes.is_file():
        raise DataError(f"{options.classes} is no file: give one with the name of a class in each line")
    sources: list[Source] = []
    for place in inputs:
        sources += _open(place, options, stdin)
        if any(source.needs_decoding and source.count for source in sources):
            options.on_image_files()
    sources = [source for source in sources if source.count]
    if not sources:
        raise DataError(f"no image in {', '.join(inputs)}: give a folder or file that has images")
    if part is None:
        return sources
    if not (found := [source for source in sources if source.part == part]):
        there = sorted({source.part for source in sources if source.part})
        raise DataError(f"{', '.join(inputs)} has no {part} part; it has {listing(there) or 'no parts'}")
    return found


def _open(place: str, options: Options, stdin: BinaryIO | None) -> list[Source]:
    if place == STDIN:
        return _open_stdin(sys.stdin.buffer if stdin is None else stdin, options)
    if os.path.isdir(place):
        root = os.path.join(place, "")
        own = _OwnOutput(os.fsencode(root))
        files, containers = collect(
            place, root, walk(own.root, own.is_folder, options.stat_files), options, own.is_file
        )
        own.tell(place, options)
        return _collected(files, sorted([*containers, *own.tables]), options)
    if os.path.lexists(place):
        return _open_path(place, options)
    if split_form(place)[0] or "#" in place:
        return _opened(open_set(place, options).sources, options)
    if glob.has_magic(place):
        own = _OwnOutput(b"")
        matching = ((name, os.stat(name)) for name in _matches(place))
        files, containers = collect(place, "", matching, options, own.is_file)
        own.tell(place, options)
        return _collected(files, sorted([*containers, *own.tables]), options)
    raise DataError(f"{place} does not exist: give a folder, a file, or a glob pattern in quotes")


def _opened(sources: Sequence[Source], options: Options) -> list[Source]:
    """Return the sources of a data set.

    Raises:
        DataError: a column of labels is asked for, and one is not a table.
    """
    for source in sources:
        path = source.path if isinstance(source, ArraySource) else None
        if options.label_column is not None and path and kind_of(source.name, path) in ARRAYS:
            raise no_table_error(source.name, options.label_column)
    return [*sources]


class _OwnOutput:
    """What earlier jobs of the scorer have written below a folder is not scored; tables of pixels there are."""

    def __init__(self, root: bytes) -> None:
        self.root = root
        self.tables: list[str] = []
        """The tables of pixels, which have the endings of tables of labels."""
        self._count = 0

    def is_folder(self, folder: bytes) -> bool:
        """Tell whether a folder is a job's output; asked once for each, as files are a million."""
        return self._counted(is_output_folder(self.root + folder))

    def is_file(self, path: bytes) -> bool:
        """Tell whether a file is a job's result or report, or a table of pixels, which is kept in `tables`."""
        if self._counted(path.endswith(RESULT_ENDINGS) and is_result_file(self.root + path)):
            return True
        place = os.fsdecode(self.root + path)
        if not path.endswith(TABLE_ENDINGS) or not _is_pixel_table(place):
            return False
        self.tables.append(place)
        return True

    def _counted(self, is_own: bool) -> bool:
        self._count += is_own
        return is_own

    def tell(self, place: str, options: Options) -> None:
        """Say how many were found."""
        if self._count:
            options.say(f"{place}: {self._count} file(s) and folders that the scorer wrote are skipped")


def _is_pixel_table(place: str) -> bool:
    """Return whether a file is a table of pixels, and not one of labels or descriptions."""
    try:
        return Path(place).is_file() and has_pixels(place, Path(place))
    except DataError:
        return False


def _matches(pattern: str) -> list[bytes]:
    """Return the files that match a glob pattern, sorted by name."""
    found = sorted(filter(os.path.isfile, glob.iglob(os.fsencode(pattern), recursive=True)))
    if not found:
        raise DataError(f"no file matches {pattern}: check the pattern, and quote it")
    return found


def _collected(files: FileSource, containers: Sequence[str], options: Options) -> list[Source]:
    """Return the image files of a folder, followed by the sources of each file of many images in it."""
    if options.label_column is not None and files.count:
        raise no_table_error(files.name, options.label_column)
    sources: list[Source] = [files]
    for place in containers:
        stem = os.path.splitext(without_compression(place.rpartition("/")[2]))[0]  # noqa: PTH122  no path is needed
        if read_name(stem).role == "labels":
            options.say(f"{place}: labels, not scored")
        else:
            sources += _open_path(place, options)
    return sources


def _open_path(place: str, options: Options) -> list[Source]:
    """Open a file: with its labels, which may be in a file beside it; or a list of paths."""
    path = Path(place)
    kind = kind_of(place, path)
    if is_result_file(os.fsencode(place)):
        raise DataError(f"{place} has predictions of the scorer: give the images")
    if kind == "text" or (kind == "image" and _is_text(place, path)):
        return [_open_list(place, path)]
    if kind == "csv" and not has_pixels(place, path):
        raise DataError(
            f"{place} is a table without pixels: give the folder of the images as --input, and this file as --labels"
        )
    return _opened(open_set(place, options).sources, options)


def _is_text(place: str, path: Path) -> bool:
    """Return whether a list begins with a name such as BMW/1.png, as image files do, and has no NUL as they have."""
    return place.lower().endswith(LIST_ENDINGS) and b"\0" not in first_bytes(path, LONGEST_PATH)


def _open_list(name: str, path: Path) -> FileSource:
    """Open a list of paths, one per line, relative to the working directory as `find` prints them."""
    rows = FileSource(name, b"")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            entry = line.rstrip(b"\r\n")
            if number == 1:
                entry = entry.removeprefix(b"\xef\xbb\xbf")  # a byte order mark is no part of the first name
            if not entry:
                continue
            if b"\0" in entry or len(entry) > LONGEST_PATH:
                raise DataError(
                    f"{name} is not a list of paths: line {number} is '{display_name(entry[:40])}...'; a table of "
                    "pixels is given as a .csv file"
                )
            rows.add(entry)
    rows.read_labels = rows.labels_of_folders
    return rows


def _open_stdin(stdin: BinaryIO, options: Options) -> list[Source]:
    """Copy the standard input into a temporary file, which can be counted and read again, and open that."""
    copy = ScratchFile()
    shutil.copyfileobj(stdin, copy.file, 1 << 20)
    copy.file.flush()
    if copy.file.tell() == 0:
        raise DataError("the standard input is empty: pipe a list of paths or a file into it")
    path = Path(copy.place)
    opened: Sequence[Source]
    match kind_of("the standard input", path):
        case "text":
            opened = [_open_list(STDIN, path)]
        case "image":
            opened = [_OneImage(copy)]
        case _:
            opened = _opened(open_file(STDIN, path, options), options)
    return [_StdinSource(source, copy) for source in opened]


class _OneImage(LabelledSource):
    """An image file on the standard input: one row, whose name is `-`."""

    name = STDIN
    count = 1
    needs_decoding = True

    def __init__(self, copy: ScratchFile) -> None:
        self._copy = copy

    def fingerprint(self) -> str:
        return ""

    def sha256(self) -> Mapping[str, str]:
        return {}

    def take(self, first: int, count: int) -> RawRows:  # noqa: ARG002
        from imagesets.formats.files.listing import read_file
        from imagesets.lazy_strings import LazyStrings

        return RawRows(
            source=STDIN, rows=LazyStrings([STDIN]), files=[read_file(os.fsencode(self._copy.place))]
        )

    def close(self) -> None:
        """Do nothing."""


class _StdinSource(LabelledSource):
    """A source in a temporary file, with a fingerprint of its content: the file's time differs from run to run."""

    def __init__(self, source: Source, copy: ScratchFile) -> None:
        self._source = source
        self._copy = copy
        self.name = source.name
        self.count = source.count
        self.part = source.part
        self.read_labels = source.read_labels
        self.columns: Any = source.columns
        self.needs_decoding = source.needs_decoding

    def take(self, first: int, count: int) -> RawRows | Reader:
        """Return rows of the source."""
        return self._source.take(first, count)

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def sha256(self) -> Mapping[str, str]:
        """Return the hash of the standard input."""
        self._copy.file.seek(0)
        return {STDIN: hashlib.file_digest(self._copy.file, "sha256").hexdigest()}  # type: ignore[arg-type]

    def fingerprint(self) -> str:
        """Return the SHA-256 of the standard input."""
        content = self.sha256()[STDIN]
        # The files of a list are outside of it: their sizes and times count as in any list.
        return (
            f"{content}, files {self._source.fingerprint()}"
            if isinstance(self._source, FileSource)
            else content
        )
