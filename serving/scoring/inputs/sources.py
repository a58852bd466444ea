"""Opens the inputs (folders, files, glob patterns) as a list of sources in a deterministic order.

    a folder      its files, recursively, sorted by name; a file of many images is a source of its own
    a pattern     with *, ? or [, and ** for any depth
    a file        an image, IDX, .npy, .npz, .parquet, .tar or .zip, by extension or first bytes;
                  any other text is a list of paths, one per line
    -             the standard input: any of these except a folder

Files beside images (labels, descriptions, hidden files) are skipped, with a message. Any other file that is not an
image becomes a row with an error.
"""

# Paths are bytes: half the memory of strings, and no encoding errors.
# ruff: noqa: PTH110, PTH112, PTH116, PTH118, PTH207, PTH208

import glob
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

from bundle.images.decoding import sniff
from serving.scoring.errors import InputError
from serving.scoring.inputs.archives import is_sidecar, open_tar, open_zip
from serving.scoring.inputs.arrays import open_idx, open_npy, open_npz
from serving.scoring.inputs.listing import FileSource, Reader, ScratchFile, display_name
from serving.scoring.inputs.tables import ParquetSource
from serving.scoring.records import RawRows

Kind = Literal["image", "idx", "labels", "npy", "npz", "parquet", "tar", "zip", "list"]

STDIN = "-"
SNIFFED = 512

ENDINGS: tuple[tuple[str, Kind], ...] = (
    ("idx3-ubyte", "idx"),
    ("idx1-ubyte", "labels"),
    (".idx3", "idx"),
    (".npy", "npy"),
    (".npz", "npz"),
    (".parquet", "parquet"),
    (".tar", "tar"),
    (".tgz", "tar"),
    (".zip", "zip"),
    (".txt", "list"),
    (".lst", "list"),
)
"""File extension to format, without `.gz`."""
USUAL_ENDINGS = (b".png", b".jpg", b".jpeg")
"""Extensions of image files, tested first because most names have one; other files may be images too."""
DOT = ord(".")


class Source(Protocol):
    """Rows from one input. `take` is called by one thread, mostly in order."""

    @property
    def name(self) -> str:
        """Return the rows' source."""
        ...

    @property
    def count(self) -> int:
        """Return the number of rows."""
        ...

    @property
    def columns(self) -> Any:
        """Return the `pyarrow.Schema` of the passed-through columns, None if there are none."""
        ...

    @property
    def needs_decoding(self) -> bool:
        """Return whether the rows are image files, which must be decoded."""
        ...

    def fingerprint(self) -> str:
        """Return a string that changes when the rows do."""
        ...

    def take(self, first: int, count: int) -> RawRows | Reader:
        """Return rows: read, or a Reader for the decoding process."""
        ...

    def close(self) -> None:
        """Close open files; `take` may be called again."""
        ...


def open_inputs(
    inputs: Sequence[str],
    *,
    column: str | None,
    say: Callable[[str], None],
    on_image_files: Callable[[], None] = lambda: None,
    stdin: BinaryIO | None = None,
) -> list[Source]:
    """Open all inputs in the given order; empty sources are omitted.

    Args:
        inputs: as `ScoreSettings.input`.
        column: of the images in Parquet files, if it cannot be detected.
        say: shows the user a line about skipped files.
        on_image_files: called as soon as an image file is found, possibly more than once, so that the decoding
            processes start while the rest is listed.
        stdin: read for `-`, by default the process's.

    Raises:
        InputError: an input is missing, of an unknown format, or damaged; or there is no image in any input.
    """
    options = _Options(column, say, on_image_files)
    sources: list[Source] = []
    for place in inputs:
        sources += _open(place, options, stdin)
        if any(source.needs_decoding and source.count for source in sources):
            on_image_files()
    sources = [source for source in sources if source.count]
    if not sources:
        raise InputError(f"no image in {', '.join(inputs)}: give a folder or file that has images")
    return sources


@dataclass(frozen=True, slots=True)
class _Options:
    """The other arguments of `open_inputs`."""

    column: str | None
    say: Callable[[str], None]
    on_image_files: Callable[[], None]


def _open(place: str, options: _Options, stdin: BinaryIO | None) -> list[Source]:
    if place == STDIN:
        return _open_stdin(sys.stdin.buffer if stdin is None else stdin, options)
    if os.path.isdir(place):
        root = os.path.join(place, "")
        return _collect(place, root, _walk(os.fsencode(root)), options)
    if not os.path.exists(place):
        if glob.has_magic(place):
            found = ((name, os.stat(name)) for name in _matches(place))
            return _collect(place, "", found, options)
        raise InputError(f"{place} does not exist: give a folder, a file, or a glob pattern in quotes")
    return _open_file(place, Path(place), options)


def _matches(pattern: str) -> list[bytes]:
    """Return the files that match a glob pattern, sorted by name."""
    found = sorted(filter(os.path.isfile, glob.iglob(os.fsencode(pattern), recursive=True)))
    if not found:
        raise InputError(f"no file matches {pattern}: check the pattern, and quote it")
    return found


def _walk(
    root: bytes, prefix: bytes = b"", above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield the files of a folder (name with a slash), recursively, sorted by name, with `prefix` before each name."""
    try:
        names = sorted(os.listdir(root))
        here = os.stat(root)
    except OSError as error:
        raise InputError(f"the folder {display_name(root)} cannot be read: {error.strerror}") from error
    above |= {(here.st_dev, here.st_ino)}
    for name in names:
        path = root + name
        try:
            found = os.stat(path)
        except OSError:
            yield prefix + name, os.lstat(path)  # a broken link: its row has the error
            continue
        if not stat.S_ISDIR(found.st_mode):
            yield prefix + name, found
        elif (found.st_dev, found.st_ino) not in above and not name.startswith(b"."):
            yield from _walk(path + b"/", prefix + name + b"/", above)


def _collect(
    name: str, root: str, found: Iterator[tuple[bytes, os.stat_result]], options: _Options
) -> list[Source]:
    """Return the image files as one source, followed by a source for each file of many images."""
    files = FileSource(name, os.fsencode(root))
    containers: list[str] = []
    left_out = 0
    for path, status in found:
        if path.endswith(USUAL_ENDINGS) and path[path.rfind(b"/") + 1] != DOT:  # the fast path for most names
            files.add_known(path, status)
            if files.count == 1:
                options.on_image_files()
            continue
        text = os.fsdecode(path)
        kind = _kind_by_ending(text)
        if kind == "labels" or is_sidecar(text):
            left_out += 1
        elif kind in (None, "list"):
            files.add_known(path, status)
        else:
            containers.append(root + text)
    _say_left_out(name, left_out, options.say)
    sources: list[Source] = [files]
    for container in containers:
        sources += _open_file(container, Path(container), options)
    return sources


def _kind_by_ending(name: str) -> Kind | None:
    name = name.lower().removesuffix(".gz")
    return next((kind for ending, kind in ENDINGS if name.endswith(ending)), None)


def _open_file(name: str, path: Path, options: _Options) -> list[Source]:
    try:
        with path.open("rb") as file:
            start = file.read(SNIFFED)
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror}") from error
    match _kind_by_ending(name) or _kind_by_content(start):
        case "idx" | "labels" | "npy" as kind:
            return [(open_npy if kind == "npy" else open_idx)(name, path)]
        case "npz":
            return [*open_npz(name, path)]
        case "parquet":
            return [ParquetSource(name, path, options.column)]
        case "tar" | "zip" as kind:
            options.on_image_files()
            archive = (open_tar if kind == "tar" else open_zip)(name, path)
            _say_left_out(name, archive.left_out, options.say)
            return [archive]
        case "image":
            image = FileSource(name, b"")
            image.add(os.fsencode(path))
            return [image]
        case "list":
            return [_open_list(name, path)]
    raise InputError(
        f"{name} has an unknown format; supported are image files, IDX, .npy, .npz, .parquet, .tar, .zip, "
        "and text with a path on each line"
    )


def _say_left_out(name: str, count: int, say: Callable[[str], None]) -> None:
    if count:
        say(f"{name}: {count} file(s) that are not images are skipped (labels, descriptions, hidden files)")


def _kind_by_content(start: bytes) -> Kind | None:
    """Return the format by a file's first bytes."""
    if sniff(start) is not None:
        return "image"
    kinds: tuple[tuple[bytes, Kind], ...] = (
        (b"\0\0\x08", "idx"),
        (b"\x93NUMPY", "npy"),
        (b"PAR1", "parquet"),
        (b"PK\x03\x04", "zip"),
        (b"PK\x05\x06", "zip"),
    )
    for magic, kind in kinds:
        if start.startswith(magic):
            return kind
    if start[257:262] == b"ustar":
        return "tar"
    if start.startswith(b"\x1f\x8b"):
        return _kind_in_gzip(start)
    return "list" if b"\0" not in start else None


def _kind_in_gzip(start: bytes) -> Kind | None:
    import zlib

    try:
        inside = zlib.decompressobj(wbits=31).decompress(start, SNIFFED)
    except zlib.error:
        return None
    kind = _kind_by_content(inside) if not inside.startswith(b"\x1f\x8b") else None
    # So few bytes may hold little more than a tar file's first name.
    return kind if kind in ("idx", "npy", "tar") else "tar"


def _open_list(name: str, path: Path) -> FileSource:
    """Open a list of paths, one per line, relative to the working directory as `find` prints them."""
    rows = FileSource(name, b"")
    with path.open("rb") as file:
        for line in file:
            if entry := line.rstrip(b"\r\n"):
                if b"\0" in entry:
                    raise InputError(
                        f"{name} is not a list of paths: it has NUL bytes ('{display_name(entry[:40])}')"
                    )
                rows.add(entry)
    return rows


def _open_stdin(stdin: BinaryIO, options: _Options) -> list[Source]:
    """Copy the standard input into a temporary file, which can be counted and read again, and open that.

    The fingerprint has its content's hash, because the temporary file's time differs from run to run.
    """
    copy = ScratchFile()
    shutil.copyfileobj(stdin, copy.file, 1 << 20)
    copy.file.flush()
    if copy.file.tell() == 0:
        raise InputError("the standard input is empty: pipe a list of paths or a file into it")
    return [_StdinSource(source, copy) for source in _open_file(STDIN, Path(copy.place), options)]


class _StdinSource:
    """A source in a temporary file, with a fingerprint of its content."""

    def __init__(self, source: Source, copy: ScratchFile) -> None:
        self._source = source
        self._copy = copy
        self.name = source.name
        self.count = source.count
        self.columns = source.columns
        self.needs_decoding = source.needs_decoding
        self.take = source.take
        self.close = source.close

    def fingerprint(self) -> str:
        """Return the SHA-256 of the standard input."""
        import hashlib

        self._copy.file.seek(0)
        content = hashlib.file_digest(self._copy.file, "sha256").hexdigest()  # type: ignore[arg-type]
        # The files of a list are outside of it: their sizes and times count as in any list.
        return (
            f"{content}, files {self._source.fingerprint()}"
            if isinstance(self._source, FileSource)
            else content
        )
