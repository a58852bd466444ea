"""Archives of image files: tar (WebDataset) and zip. Members are read by offset, in any order."""

import gzip
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from bundle.images.hardening import MAX_FILE_BYTES
from serving.scoring.errors import InputError
from serving.scoring.inputs import zip_directory
from serving.scoring.inputs.arrays import READ_ERRORS, is_gzip, unreadable_error
from serving.scoring.inputs.listing import (
    Listing,
    ScratchFile,
    display_name,
    file_fingerprint,
    too_large_reason,
)
from serving.scoring.lazy_strings import LazyStrings

SIDECARS = frozenset(
    {".cls", ".cls2", ".csv", ".id", ".idx", ".index", ".json", ".md", ".tsv", ".txt", ".xml"}
)
"""Extensions of files beside images in archives and folders, such as labels and descriptions; not scored."""

_DEFLATED = 8
_LOCAL_HEADER = 30


def is_sidecar(name: str) -> bool:
    """Return whether a member or file is not an image: it is hidden or has a sidecar's extension."""
    base = name.rpartition("/")[2]
    return (
        base.startswith(".")
        or base.lower() in ("thumbs.db", "desktop.ini")
        or (
            os.path.splitext(base)[1].lower() in SIDECARS  # noqa: PTH122  a member's name is not a path here
        )
    )


@dataclass(frozen=True, slots=True)
class MemberReader:
    """Members of an archive on disk, by offset."""

    source: str
    path: str
    members: list[tuple[bytes, ...]]
    """Name, offset and size; for zip also compressed size, CRC-32 and method."""
    zipped: bool

    @property
    def rows(self) -> LazyStrings:
        """Return the members' names."""
        return LazyStrings([display_name(member[0]) for member in self.members])

    def read(self) -> list[bytes | str]:
        """Read the members."""
        read = _read_zipped if self.zipped else _read_tarred
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            return [read(descriptor, *map(int, member[1:])) for member in self.members]
        finally:
            os.close(descriptor)


class ArchiveSource:
    """A source whose rows are the members of one archive."""

    columns = None
    needs_decoding = True

    def __init__(self, name: str, path: Path, *, zipped: bool, unpacked: ScratchFile | None = None) -> None:
        self.name = name
        self.path = path
        self.left_out = 0
        """Number of members that are not images."""
        self._zipped = zipped
        self._unpacked = unpacked
        self._listing = Listing(fields=6 if zipped else 3)

    @property
    def count(self) -> int:
        """Return the number of rows."""
        return self._listing.count

    @property
    def place(self) -> str:
        """Return a path of the archive that this process and its children can open."""
        return str(self.path) if self._unpacked is None else self._unpacked.place

    def add(self, name: str, *where: int) -> None:
        """Add a member unless it is a sidecar."""
        if is_sidecar(name):
            self.left_out += 1
        else:
            encoded = name.encode("utf-8", errors="surrogateescape").replace(b"\0", b"\\0")
            self._listing.append((encoded, *(b"%d" % number for number in where)))

    def fingerprint(self) -> str:
        """Return a string that changes when the archive does."""
        return f"{file_fingerprint(self.path)}, members {self._listing.sha256()}"

    def take(self, first: int, count: int) -> MemberReader:
        """Return `count` rows from `first` on."""
        return MemberReader(self.name, self.place, self._listing.take(first, count), zipped=self._zipped)

    def close(self) -> None:
        """Do nothing: other processes may still read the members."""


def open_tar(name: str, path: Path) -> ArchiveSource:
    """List a tar file of images; a compressed one is first unpacked into a temporary file.

    Raises:
        InputError: it is not a tar file, or damaged.
    """
    unpacked: ScratchFile | None = None
    try:
        if is_gzip(path):
            unpacked = ScratchFile()
            with gzip.open(path) as file:
                shutil.copyfileobj(file, unpacked.file, 1 << 20)
            unpacked.file.flush()
        source = ArchiveSource(name, path, zipped=False, unpacked=unpacked)
        with tarfile.open(source.place, "r:") as archive:
            while (member := archive.next()) is not None:
                vars(archive)["members"] = []  # tarfile keeps every member
                if member.isreg() and not member.issparse():
                    source.add(member.name, member.offset_data, member.size)
            end = archive.offset
        if os.stat(source.place).st_size < end:  # noqa: PTH116  the path may be in /proc
            raise InputError(f"{path} is truncated: restore it and run again")
    except (tarfile.TarError, *READ_ERRORS) as error:
        raise unreadable_error(path, error) from error
    return source


def open_zip(name: str, path: Path) -> ArchiveSource:
    """List a zip file of images by its central directory.

    Raises:
        InputError: it is not a zip file, or its directory is damaged.
    """
    source = ArchiveSource(name, path, zipped=True)
    try:
        with path.open("rb", buffering=1 << 20) as file:
            for entry in zip_directory.entries(file):
                if not entry.name.endswith("/"):
                    method = -1 if entry.encrypted else entry.method
                    source.add(entry.name, entry.offset, entry.packed, entry.size, entry.checksum, method)
    except READ_ERRORS as error:
        raise unreadable_error(path, error) from error
    return source


def _read_tarred(descriptor: int, offset: int, size: int) -> bytes | str:
    if size > MAX_FILE_BYTES:
        return too_large_reason(size)
    data = os.pread(descriptor, size, offset)
    return data if len(data) == size else "the archive ends within this file"


def _read_zipped(
    descriptor: int, offset: int, packed: int, size: int, checksum: int, method: int
) -> bytes | str:
    """Read a member after its local header (PKWARE APPNOTE.TXT, section 4.3.7)."""
    if size > MAX_FILE_BYTES or packed > 2 * MAX_FILE_BYTES:
        return too_large_reason(max(size, packed))
    if method not in (zipfile.ZIP_STORED, _DEFLATED):
        how = "encrypted" if method < 0 else f"compressed by method {method}"
        return f"the file is {how}; only stored and deflated files are supported"
    header = os.pread(descriptor, _LOCAL_HEADER, offset)
    if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
        return "the archive is damaged: the directory's offset of this file has no header"
    name, extra = struct.unpack_from("<HH", header, 26)
    data = os.pread(descriptor, packed, offset + _LOCAL_HEADER + name + extra)
    if method == _DEFLATED:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
        except zlib.error as error:
            return f"the archive is damaged at this file: {error}"
    if len(data) != size or zlib.crc32(data) != checksum:
        return "the archive is damaged at this file: its checksum does not match"
    return data
