"""Archives of image files: tar (WebDataset) and zip. Members are read by offset, in any order.

Labels and parts come from `.cls` or `.json` members beside the images, a table of names and labels, or the folders
(`layout.py`). Names of members are names and nothing else: nothing is unpacked to where they say.
"""

import bz2
import lzma
import os
import posixpath
import shutil
import struct
import tarfile
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bundle.images.hardening import MAX_FILE_BYTES
from common.atomic_files import sha256_file
from common.errors import one_line
from imagesets.errors import DataError
from imagesets.formats.files import zip_directory
from imagesets.formats.files.layout import (
    IMAGE_ENDINGS,
    Layout,
    Problem,
    classify,
    has_ending,
    is_container,
    is_junk,
    is_sidecar,
    parent,
)
from imagesets.formats.files.listing import (
    Listing,
    ScratchFile,
    display_name,
    file_fingerprint,
    too_large_reason,
)
from imagesets.formats.files.sidecars import label_in, label_in_json, labels_by_key
from imagesets.label_table_files import label_table_of
from imagesets.label_tables import LabelTable, agreeing, match_found, no_table_error
from imagesets.labels import UNKNOWN, LabelColumn, of_codes
from imagesets.lazy_strings import LazyStrings
from imagesets.names.file_names import without_compression
from imagesets.source import PARTS, LabelledSource, Options
from imagesets.streams import READ_ERRORS, is_compressed, opener_of, unreadable_error

LABEL_ENDINGS = (".cls", ".json", ".csv", ".tsv")
"""Members that may have labels."""
MAX_TABLE_BYTES = 1 << 28
"""Largest table of labels in an archive: five million rows."""

NO_TARGET, SPARSE, NO_FILE = -1, -2, -3
REASONS = {
    NO_TARGET: "the file is a link to something that is not in the archive",
    SPARSE: "the file is stored with holes (sparse): pack the archive without --sparse",
    NO_FILE: "it is not a regular file",
}
"""Offset of a member of a tar file that has no content to the reason."""

OFFICE = "[Content_Types].xml"
"""The member that every .xlsx, .docx and .pptx file has (ECMA-376, part 2)."""

_LOCAL_HEADER = 30


@dataclass(frozen=True, slots=True)
class MemberReader:
    """Members of an archive on disk, by offset."""

    source: str
    path: str
    members: list[tuple[bytes, ...]]
    """Name, offset and size; for zip also compressed size, CRC-32 and method."""
    zipped: bool
    most: int = MAX_FILE_BYTES
    """Largest size of a member that is read."""

    @property
    def rows(self) -> LazyStrings:
        """Return the members' names."""
        return LazyStrings([display_name(member[0]) for member in self.members])

    def read(self) -> list[bytes | str]:
        """Read the members."""
        read = _read_zipped if self.zipped else _read_tarred
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            return [_guarded(read, descriptor, self.most, member[1:]) for member in self.members]
        finally:
            os.close(descriptor)


class Members:
    """The members of one archive: the images, and the files beside them that may have labels."""

    def __init__(self, name: str, path: Path, *, zipped: bool, unpacked: ScratchFile | None = None) -> None:
        self.name = name
        self.path = path
        self.zipped = zipped
        self.unpacked = unpacked
        self.left_out = 0
        """Number of members that are not images."""
        self.images = Listing(fields=self._fields)
        self.beside = Listing(fields=self._fields)
        """Members that may have labels."""
        self.links: list[tuple[int, str]] = []
        """Numbers of images in a tar file that are links, and the names that they point to."""
        self.folder_of = array("l")
        """Index in `folders` for each image."""
        self.folders: dict[str, bool] = {}
        """Folders that have images to whether one is an image by its ending."""
        self._places: dict[str, int] = {}

    @property
    def _fields(self) -> int:
        return 6 if self.zipped else 3

    @property
    def place(self) -> str:
        """Return a path of the archive that this process and its children can open."""
        return str(self.path) if self.unpacked is None else self.unpacked.place

    def add(self, name: str, *where: int) -> bool:
        """Add a member; return whether it is an image, and not a sidecar or the system's."""
        fields = (_encoded(name), *(b"%d" % number for number in where))
        if is_sidecar(name) or is_junk(name):
            self.left_out += 1
            if has_ending(name, LABEL_ENDINGS) and not is_junk(name):
                self.beside.append(fields)
            return False
        self.images.append(fields)
        folder = parent(name)
        self.folders[folder] = self.folders.get(folder, False) or has_ending(name, IMAGE_ENDINGS)
        self.folder_of.append(self._places.setdefault(folder, len(self._places)))
        return True

    def names(self) -> list[str]:
        """Return the names of all images."""
        return [os.fsdecode(record[0]) for record in self.images]

    def read(self, record: tuple[bytes, ...], most: int = MAX_FILE_BYTES) -> bytes | str:
        """Return the content of a member, or why it cannot be read."""
        return MemberReader(self.name, self.place, [record], self.zipped, most).read()[0]

    def layout(self) -> Layout:
        """Return what the folders say."""
        every = dict(self.folders)
        for folder in self.folders:
            while folder := parent(folder):
                every.setdefault(folder, False)
        return classify(every)


class ArchiveSource(LabelledSource):
    """A source whose rows are the images of one archive, or of a part of the set in it."""

    needs_decoding = True

    def __init__(self, members: Members, rows: npt.NDArray[np.int64] | None = None) -> None:
        self.name = members.name
        self.path = members.path
        self.left_out = members.left_out
        self.problems: list[Problem] = []
        """Folders in the wrong place, which training reports; their images are rows."""
        self._members = members
        self._listing = members.images if rows is None else _selected(members.images, rows)
        self.count = self._listing.count

    @property
    def place(self) -> str:
        """Return a path of the archive that this process and its children can open."""
        return self._members.place

    def fingerprint(self) -> str:
        """Return a string that changes when the archive does."""
        return f"{file_fingerprint(self.path)}, members {self._listing.sha256()}"

    def sha256(self) -> Mapping[str, str]:
        """Return the hash of the archive, decompressed if it is a compressed tar file."""
        try:
            return {without_compression(self.path.name): sha256_file(Path(self.place))}
        except OSError as error:
            raise unreadable_error(self.path, error) from error

    def take(self, first: int, count: int) -> MemberReader:
        """Return `count` rows from `first` on."""
        return MemberReader(self.name, self.place, self._listing.take(first, count), self._members.zipped)

    def close(self) -> None:
        """Do nothing: other processes may still read the members."""


def open_tar(name: str, path: Path, options: Options) -> list[ArchiveSource]:
    """List a tar file of images; a compressed one is first unpacked into a temporary file.

    Raises:
        DataError: it is not a tar file, or damaged.
    """
    _check_regular(name, path)
    options.on_image_files()
    unpacked: ScratchFile | None = None
    try:
        if is_compressed(path):
            unpacked = ScratchFile()
            with opener_of(path)() as file:
                shutil.copyfileobj(file, unpacked.file, 1 << 20)
            unpacked.file.flush()
        members = Members(name, path, zipped=False, unpacked=unpacked)
        with tarfile.open(members.place, "r:") as archive:
            end = 0
            while (member := archive.next()) is not None:
                vars(archive)["members"] = []  # tarfile keeps every member
                if archive.offset <= end or member.size < 0:  # the sizes in its headers may be negative
                    raise tarfile.ReadError("a size in it is negative")
                end = archive.offset
                _add_tarred(members, member)
        _check_end(path, members.place, archive.offset)
    except (tarfile.TarError, MemoryError, RecursionError, *READ_ERRORS) as error:
        raise unreadable_error(path, error) from error
    if members.links:
        members.images = _with_targets(members)
    return _sources(members, options)


def _check_end(path: Path, place: str, end: int) -> None:
    """Check that what comes after the last member of a tar file is its end, and no header that `tarfile` gave up at.

    Raises:
        DataError: the file ends within a member or header, or a header is damaged: the members after it are lost.
    """
    with open(place, "rb") as file:  # noqa: PTH123  the path may be in /proc
        size = os.fstat(file.fileno()).st_size
        block = os.pread(file.fileno(), tarfile.BLOCKSIZE, end)
    if size < end or 0 < len(block) < tarfile.BLOCKSIZE:
        raise DataError(f"{path} is truncated: restore it and run again")
    if any(block):
        raise DataError(
            f"{path} is damaged at byte {end:,}, where a header should be: restore it and run again"
        )


def open_zip(name: str, path: Path, options: Options) -> list[ArchiveSource]:
    """List a zip file of images by its central directory.

    Raises:
        DataError: it is not a zip file, or its directory is damaged.
    """
    _check_regular(name, path)
    options.on_image_files()
    members = Members(name, path, zipped=True)
    try:
        with path.open("rb", buffering=1 << 20) as file:
            for entry in zip_directory.entries(file):
                if entry.name == OFFICE:
                    raise DataError(f"{name} is a spreadsheet or document (Office Open XML): save it as .csv")
                if not entry.name.endswith("/"):
                    method = -1 if entry.encrypted else entry.method
                    members.add(entry.name, entry.offset, entry.packed, entry.size, entry.checksum, method)
    except (MemoryError, *READ_ERRORS) as error:
        raise unreadable_error(path, error) from error
    return _sources(members, options)


def _check_regular(name: str, path: Path) -> None:
    """Check that opening a path does not wait for ever, as that of a named pipe would."""
    if path.exists() and not path.is_file():
        raise DataError(f"{name} is not a regular file: give an archive")


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", errors="surrogateescape").replace(b"\0", b"\\0")


def _add_tarred(members: Members, member: tarfile.TarInfo) -> None:
    """Add a member of a tar file; what is no file but a folder becomes a row, with an error if it has no content."""
    if member.issparse():
        members.add(member.name, SPARSE, 0)
    elif member.isreg():
        members.add(member.name, member.offset_data, member.size)
    elif member.islnk() or member.issym():
        target = member.linkname
        if member.issym():
            target = posixpath.join(parent(member.name), target)
        if members.add(member.name, NO_TARGET, 0):
            members.links.append((members.images.count - 1, posixpath.normpath(target)))
    elif not member.isdir():
        members.add(member.name, NO_FILE, 0)


def _with_targets(members: Members) -> Listing:
    """Return the images with what links point to in their place; a link to a folder is left out of nothing."""
    wanted = {target for _, target in members.links}
    found: dict[str, tuple[bytes, ...]] = {}
    for record in members.images:
        name = posixpath.normpath(os.fsdecode(record[0]))
        if name in wanted and int(record[1]) >= 0:
            found[name] = record[1:]
    targets = dict(members.links)
    resolved = Listing(fields=3)
    for row, record in enumerate(members.images):
        target = targets.get(row)
        resolved.append(record if target not in found else (record[0], *found[target]))
    return resolved


def _selected(listing: Listing, rows: npt.NDArray[np.int64]) -> Listing:
    """Return a listing of some rows, given in order."""
    chosen = Listing(fields=listing.fields)
    wanted = iter(rows.tolist())
    following = next(wanted, None)
    for row, record in enumerate(listing):
        if row == following:
            chosen.append(record)
            following = next(wanted, None)
    return chosen


def _sources(members: Members, options: Options) -> list[ArchiveSource]:
    """Return a source for each part, in the order in which the archive has them, or one if it has no parts."""
    if members.left_out:
        options.say(
            f"{members.name}: {members.left_out} file(s) that are not images are skipped (labels, descriptions, hidden "
            "files)"
        )
    if not members.images.count:
        return [ArchiveSource(members)]
    first = display_name(members.images.take(0, 1)[0][0])
    if not any(members.folders.values()) and is_container(first):
        raise DataError(f"{members.name} has files of many images, such as {one_line(first, 100)}: unpack it")
    layout = members.layout()
    labels = _Labels(members, layout, options)
    parts = labels.parts()
    codes = sorted(set(parts.tolist()), key=lambda code: int(np.argmax(parts == code)))
    sources = []
    for code in codes:
        rows = np.flatnonzero(parts == code) if len(codes) > 1 else None
        source = ArchiveSource(members, rows)
        source.part = None if code == UNKNOWN else PARTS[code]
        if labels.exist:
            source.read_labels = partial(labels.of, rows)
        sources.append(source)
    sources[0].problems = [
        Problem(folder, place.problem) for folder, place in layout.places.items() if place.problem
    ]
    return sources


class _Labels:
    """The labels and parts of the images of an archive, read when they are asked for."""

    def __init__(self, members: Members, layout: Layout, options: Options) -> None:
        self._members = members
        self._layout = layout
        self._options = options
        self._found: LabelColumn | None = None
        beside = [os.fsdecode(record[0]) for record in members.beside]
        self._classed = any(has_ending(name, (".cls",)) for name in beside)
        self._tables = any(has_ending(name, (".csv", ".tsv")) for name in beside)
        self._json = any(has_ending(name, (".json",)) for name in beside)
        self.exist = bool(beside) or any(place.label for place in layout.places.values())
        self._table_parts: npt.NDArray[np.int64] | None = None
        self._by_tables = self._tables and (options.label_column is not None or not layout.has_classes())
        if self._by_tables and not self._classed:
            with suppress(DataError):  # said when the labels are asked for
                self._found, self._table_parts = self._match_tables()

    def parts(self) -> npt.NDArray[np.int64]:
        """Return the index in `PARTS` of each image, `UNKNOWN` for none."""
        if self._table_parts is not None:
            return self._table_parts
        of_folder = []
        for folder in self._members.folders:
            part = self._layout.places[folder].part
            of_folder.append(UNKNOWN if part is None else PARTS.index(part))
        codes: npt.NDArray[np.int64] = np.array(of_folder, dtype=np.int64)[np.array(self._members.folder_of)]
        return codes

    def of(self, rows: npt.NDArray[np.int64] | None) -> LabelColumn | None:
        """Return the labels of some images, of all if `rows` is None."""
        if self._found is None:
            self._found = self._read()
        return self._found if self._found is None or rows is None else self._found.take(rows)

    def _read(self) -> LabelColumn | None:
        members = self._members
        if self._options.label_column is not None and not self._tables:
            raise no_table_error(members.name, self._options.label_column)
        if self._classed:
            names = members.names()
            return labels_by_key(names, dict(self._of_cls()), members.name)
        if self._json and (labels := dict(self._of_json())):
            return labels_by_key(members.names(), labels, members.name)
        if self._by_tables:
            return self._match_tables()[0]
        if self._tables:
            self._check_tables()
        return self._of_folders()

    def _match_tables(self) -> tuple[LabelColumn, npt.NDArray[np.int64]]:
        tables = [self._table(record) for record in self._members.beside if _is_table(record)]
        names = self._members.names()
        return match_found(tables, names, self._members.name, label_column=self._options.label_column)

    def _check_tables(self) -> None:
        """Check that tables beside class folders say the same, if they are of the images."""
        try:
            labels, _ = self._match_tables()
        except DataError:
            return
        folders = [self._layout.places[parent(name)].label for name in self._members.names()]
        agreeing(labels, folders, f"the table in {self._members.path}")

    def _table(self, record: tuple[bytes, ...]) -> LabelTable:
        where = f"{self._members.path}: {display_name(record[0])}"
        if isinstance(data := self._members.read(record, MAX_TABLE_BYTES), str):
            raise DataError(f"{where}: {data}")
        return label_table_of(data, where)

    def _of_cls(self) -> Iterator[tuple[str, str]]:
        for record in self._members.beside:
            name = os.fsdecode(record[0])
            if has_ending(name, (".cls",)):
                where = f"{self._members.path}: {display_name(record[0])}"
                yield name[: -len(".cls")], label_in(self._members.read(record), where)

    def _of_json(self) -> Iterator[tuple[str, str]]:
        for record in self._members.beside:
            name = os.fsdecode(record[0])
            if has_ending(name, (".json",)) and (label := label_in_json(self._members.read(record))):
                yield name[: -len(".json")], label

    def _of_folders(self) -> LabelColumn | None:
        """Return the names of the images' folders: the classes, then those of folders in the wrong place."""
        places = [self._layout.places[folder] for folder in self._members.folders]
        names = self._layout.classes()
        names += sorted({place.label for place in places if place.label} - {*names})
        if not names:
            return None
        codes = [names.index(place.label) if place.label else UNKNOWN for place in places]
        return of_codes(np.array(codes)[np.array(self._members.folder_of)], names)


def _is_table(record: tuple[bytes, ...]) -> bool:
    return has_ending(os.fsdecode(record[0]), (".csv", ".tsv"))


def _read_tarred(descriptor: int, most: int, offset: int, size: int) -> bytes | str:
    if offset in REASONS:
        return REASONS[offset]
    if size > most:
        return too_large_reason(size)
    data = os.pread(descriptor, size, offset)
    return data if len(data) == size else "the archive ends within this file"


def _read_zipped(
    descriptor: int, most: int, offset: int, packed: int, size: int, checksum: int, method: int
) -> bytes | str:
    """Read a member after its local header (PKWARE APPNOTE.TXT, section 4.3.7)."""
    if size > most or packed > 2 * most:
        return too_large_reason(max(size, packed))
    if method not in _METHODS:
        how = "encrypted" if method < 0 else f"compressed by method {method}"
        return f"the file is {how}; stored, deflated, bzip2 and LZMA files are read"
    header = os.pread(descriptor, _LOCAL_HEADER, offset)
    if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
        return "the archive is damaged: the directory's offset of this file has no header"
    name, extra = struct.unpack_from("<HH", header, 26)
    data = os.pread(descriptor, packed, offset + _LOCAL_HEADER + name + extra)
    try:
        data = _METHODS[method](data, size)
    except READ_ERRORS as error:
        return f"the archive is damaged at this file: {error}"
    if len(data) != size or zlib.crc32(data) != checksum:
        return "the archive is damaged at this file: its checksum does not match"
    return data


def _stored(data: bytes, _: int) -> bytes:
    return data


def _inflated(data: bytes, size: int) -> bytes:
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)


def _from_bzip2(data: bytes, size: int) -> bytes:
    return bz2.BZ2Decompressor().decompress(data, size + 1)


def _from_lzma(data: bytes, size: int) -> bytes:
    """Decompress LZMA of a zip file (section 5.8.8): version, length of the properties, properties, stream.

    The dictionary that the properties ask for, up to 4 GiB, is never larger than what is read.
    """
    (length,) = struct.unpack_from("<H", data, 2)
    packed, dictionary = struct.unpack_from("<BL", data, 4)
    rest, literal_context = divmod(packed, 9)
    position, literal_position = divmod(rest, 5)
    filters = {
        "id": lzma.FILTER_LZMA1,
        "dict_size": min(max(dictionary, 1 << 12), max(size, 1 << 12)),
        "lc": literal_context,
        "lp": literal_position,
        "pb": position,
    }
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[filters]).decompress(data[4 + length :], size + 1)


_METHODS = {
    zipfile.ZIP_STORED: _stored,
    zipfile.ZIP_DEFLATED: _inflated,
    zipfile.ZIP_BZIP2: _from_bzip2,
    zipfile.ZIP_LZMA: _from_lzma,
}


def _guarded(
    read: Callable[..., bytes | str], descriptor: int, most: int, where: Iterable[bytes]
) -> bytes | str:
    """Read a member; numbers that no file can have (an offset of 2**63) are an error of this member alone."""
    try:
        return read(descriptor, most, *map(int, where))
    except (OSError, OverflowError, MemoryError) as error:
        return f"the archive is damaged at this file: {getattr(error, 'strerror', None) or error}"
