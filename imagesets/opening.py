"""Opens one file of images: what it is, and the sources in it.

What a file is, its first bytes say, decompressed; its name decides only where text may be several things. A kind that
is not read is refused with the way round.
"""

import os
import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from bundle.images.decoding import guess_format, sniff
from imagesets.errors import DataError
from imagesets.formats.arrays.idx import open_idx
from imagesets.formats.arrays.mat import open_mat
from imagesets.formats.arrays.numpy_files import open_npy, open_npz
from imagesets.formats.files import zip_directory
from imagesets.formats.files.archives import open_tar, open_zip
from imagesets.formats.files.listing import FileSource
from imagesets.formats.tables.csv_files import open_csv
from imagesets.formats.tables.parquet import open_parquet
from imagesets.names.file_names import without_compression
from imagesets.names.known_sets import known_by_name
from imagesets.source import Options, Source
from imagesets.streams import READ_ERRORS, first_bytes

Kind = Literal["image", "idx", "npy", "npz", "mat", "csv", "parquet", "tar", "zip", "text"]

SUPPORTED = "give IDX, .npy, .npz, .mat, .csv, .parquet, .tar, .zip, or image files"
SNIFFED = 1 << 12
MAGIC: tuple[tuple[bytes, Kind], ...] = (
    *((bytes([0, 0, type_, axes]), "idx") for type_ in (8, 9, 11, 12, 13, 14) for axes in (1, 2, 3, 4)),
    (b"\x93NUMPY", "npy"),
    (b"PAR1", "parquet"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"MATLAB 5.0 MAT-file", "mat"),
)
REFUSED: tuple[tuple[bytes, str], ...] = (
    (
        b"\x80",
        (
            "a Python pickle, which can run any program when it is loaded: load it where you trust it, and save its "
            "arrays with numpy.savez(FILE, x_train=..., y_train=..., x_test=..., y_test=...)"
        ),
    ),
    (b"\x89HDF\r\n\x1a\n", "HDF5: save its arrays with numpy.savez"),
    (b"MATLAB 7.3", "MATLAB 7.3, which is HDF5: save it with save(FILE, ..., '-v7')"),
    (b"ARROW1", "an Arrow file: write it as Parquet"),
    (b"SQLite format 3", "an SQLite database: export it as CSV or Parquet"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: unpack it, or pack it as .zip"),
    (b"Rar!", "a RAR archive: unpack it, or pack it as .zip"),
    (b"\x28\xb5\x2f\xfd", "compressed by Zstandard: decompress it, or compress it with gzip"),
    (b"@relation", "an ARFF file: export it as CSV"),
    (b"{", "JSON: write the images as CSV, .npy or .npz"),
    (b"[", "JSON: write the images as CSV, .npy or .npz"),
)
"""First bytes to what such a file is and the way round."""
_SPARSE = re.compile(rb"[-+]?[\d.]+( \d+:[-+\d.eE]+)+ ?\r?(\n|$)", re.ASCII)
"""A row: the label, and the numbers of the pixels that are not zero, each with its value. It may be cut."""
CSV_ENDINGS = (".csv", ".tsv", ".amat")
PACKED_ENDINGS = (".gz", ".xz", ".bz2", ".npy", ".npz", ".mat", ".csv", ".parquet", ".tar", ".zip", "-ubyte")
_CONTROL = re.compile(rb"[\0-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""Bytes that no text has, and no usual name of a file."""
MANY_CELLS = 100
"""A first line with so many cells is a table of pixels, whatever the file's name."""

Opener = Callable[[str, Path, Options], Sequence[Source]]


def open_file(name: str, path: Path, options: Options) -> list[Source]:
    """Open one file of images as its sources, upright if its name is that of a set that is stored transposed.

    Args:
        name: of the sources, and in messages.
        path: the file.
        options: how it is read.

    Raises:
        DataError: it is of a kind that is not read, is no regular file, or is damaged.
    """
    kind = kind_of(name, path)
    if kind == "text":
        raise DataError(f"{name} is text, and no table of pixels: {_TEXT_REMEDY}")
    if kind == "image":
        image = FileSource(name, b"")
        image.add(os.fsencode(path))
        return [image]
    sources = [*OPENERS[kind](name, path, options)]
    if kind in ("tar", "zip"):
        _check_members(name, sources)
    known = known_by_name(options.chosen) or known_by_name(path.name)
    for source in sources:
        source.transposed |= known is not None and known.transposed
    return sources


def _check_members(name: str, sources: Sequence[Source]) -> None:
    """Check that an archive's members are not files of many images, which are not read within an archive."""
    members = [row for source in sources for row in source.take(0, min(source.count, 100)).rows]
    if members and all(member.lower().endswith(PACKED_ENDINGS) for member in members):
        raise DataError(
            f"{name} holds {members[0]} and the like, no image files: unpack it, and give the folder or "
            "one of its files"
        )


def kind_of(name: str, path: Path) -> Kind:
    """Return what a file is.

    Raises:
        DataError: it is not a regular file, cannot be read, or is of no kind that is read.
    """
    try:
        if not path.is_file():  # opening a named pipe would wait for ever
            raise DataError(f"{name} is not a regular file: give a file, or a folder")
        start = first_bytes(path, SNIFFED)
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror}") from error
    kind = kind_of_bytes(start)
    if kind == "zip" and _is_npz(path):
        return "npz"
    if kind == "text" and without_compression(name).lower().endswith(CSV_ENDINGS):
        return "csv"
    if kind is not None:
        return kind
    raise DataError(f"{name} {_why_not(start)}")


def kind_of_bytes(start: bytes) -> Kind | None:
    """Return the kind of a file by its first bytes, None if it is not one that is read."""
    if sniff(start) is not None:
        return "image"
    for magic, kind in MAGIC:
        if start.startswith(magic):
            return kind
    if start[257:262] == b"ustar" or _is_old_tar(start):
        return "tar"
    if _refused(start) or _CONTROL.search(start) or not start:
        return None
    line = start.split(b"\n")[0]
    return "csv" if max(map(line.count, (b",", b"\t", b";", b" "))) >= MANY_CELLS else "text"


OPENERS: dict[Kind, Opener] = {
    "idx": open_idx,
    "npy": open_npy,
    "npz": open_npz,
    "mat": open_mat,
    "csv": open_csv,
    "parquet": open_parquet,
    "tar": open_tar,
    "zip": open_zip,
}
_TEXT_REMEDY = (
    "a table has a row for each image, with a label and 784 pixels, or 784 pixels alone, separated by commas; a list "
    "of files is given as it is to the batch scorer (--input FILE.txt)"
)


def _is_old_tar(start: bytes) -> bool:
    """Return whether bytes are the header of a tar file from before POSIX: its checksum is right."""
    try:
        return len(start) >= tarfile.BLOCKSIZE and bool(
            tarfile.TarInfo.frombuf(start[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape").name
        )
    except (tarfile.HeaderError, ValueError):
        return False


def _is_npz(path: Path) -> bool:
    """Return whether a zip file is NumPy's: all members are arrays."""
    try:
        with path.open("rb", buffering=1 << 20) as file:
            first = next(zip_directory.entries(file), None)
    except READ_ERRORS:
        return False
    return first is not None and first.name.endswith(".npy")


def _why_not(start: bytes) -> str:
    """Return why a file of no known kind is refused, and the way round."""
    if not start:
        return "is empty"
    if named := _refused(start):
        return f"is {named}"
    return f"looks like {guess_format(start)}, which is not read: {SUPPORTED}"


def _refused(start: bytes) -> str | None:
    """Return what a file is that is known and not read, and the way round."""
    if _SPARSE.match(start):
        return "LIBSVM's sparse text: write a table of 784 columns, of zeros too, and the label"
    return next((what for magic, what in REFUSED if start.lower().startswith(magic.lower())), None)
