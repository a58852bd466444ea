"""A zip's directory is read as `zipfile` reads it, and never held whole."""

import io
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from imagesets.errors import DataError
from imagesets.formats.files.archives import open_zip
from imagesets.formats.files.zip_directory import Entry, entries
from imagesets.source import Options

IMAGES = [bytes([number]) * 99 for number in range(3)]
MANY = 66_000
"""More than the smaller structures can count."""
FAR = 5 << 30
"""More than they can point to."""


def known(path: Path) -> list[Entry]:
    """Return what `zipfile` says of an archive."""
    with zipfile.ZipFile(path) as archive:
        return [
            Entry(
                info.filename,
                info.header_offset,
                info.compress_size,
                info.file_size,
                info.CRC,
                info.compress_type,
                encrypted=bool(info.flag_bits & 1),
            )
            for info in archive.infolist()
        ]


def found(path: Path) -> list[Entry]:
    """Return what is found in its directory."""
    with path.open("rb") as file:
        return [*entries(file)]


def small(path: Path) -> bytes:
    """Write an archive of everything that an entry can have, and return its bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = b"a comment"
        archive.mkdir("folder")
        for name in ("folder/a.png", "数字.png", "caf\xe9.png"):
            info = zipfile.ZipInfo(name)
            info.comment, info.extra = b"of a file", b"\x99\x99\x04\x00four"
            archive.writestr(info, IMAGES[0], zipfile.ZIP_DEFLATED)
        archive.writestr("empty", b"")
    return path.read_bytes()


def test_every_entry_is_what_zipfile_reads(tmp_path: Path) -> None:
    """Names in any script, folders, comments, extra fields, and something before the archive."""
    content = small(tmp_path / "in.zip")
    assert found(tmp_path / "in.zip") == known(tmp_path / "in.zip")
    (tmp_path / "after.zip").write_bytes(b"#!/bin/sh\n" * 9 + content)
    assert found(tmp_path / "after.zip") == known(tmp_path / "after.zip")
    assert len(found(tmp_path / "after.zip")) == 5
    source = open_zip("in", tmp_path / "after.zip", Options())[0]
    names = ["folder/a.png", "数字.png", "caf\xe9.png", "empty"]
    assert [*source.take(0, source.count).rows] == names
    image = IMAGES[0]
    assert source.take(0, 4).read() == [image, image, image, b""]


def test_more_files_than_sixteen_bits_count_take_no_memory(tmp_path: Path) -> None:
    """The larger structures are read; what is held does not grow with the number of files."""
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for number in range(MANY):
            archive.writestr(f"a/folder/with/a/name/{number:06}.png", b"")
    expected = known(tmp_path / "in.zip")
    assert found(tmp_path / "in.zip") == expected
    tracemalloc.start()
    source = open_zip("in", tmp_path / "in.zip", Options())[0]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert source.count == MANY
    assert [*source.take(MANY - 300, 300).rows] == [entry.name for entry in expected[-300:]]
    assert peak < 4 << 20


def test_files_beyond_four_gigabytes_are_found(tmp_path: Path) -> None:
    """Offsets of 64 bits stand in an extra field; the hole before them takes no room on the disk."""
    path = tmp_path / "in.zip"
    with path.open("w+b") as file:
        file.truncate(FAR)
        with zipfile.ZipFile(file, "a") as archive:
            for number in range(3):
                archive.writestr(f"{number}.png", IMAGES[number])
    assert found(path) == known(path)
    assert min(entry.offset for entry in found(path)) >= FAR
    assert open_zip("in", path, Options())[0].take(1, 2).read() == IMAGES[1:]


def test_a_damaged_directory_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    """Cut off anywhere, or with another byte at any place of its end: read, or refused, and nothing else."""
    content = small(tmp_path / "in.zip").partition(b"a comment")[0]
    start = content.index(b"PK\x01\x02")
    refused = 0
    for length in range(len(content)):
        (tmp_path / "cut.zip").write_bytes(content[:length])
        with pytest.raises(DataError, match=r"cut\.zip"):
            open_zip("cut", tmp_path / "cut.zip", Options())
    for place in range(start, len(content)):
        changed = bytearray(content)
        changed[place] ^= 0xFF
        (tmp_path / "cut.zip").write_bytes(changed)
        try:
            open_zip("cut", tmp_path / "cut.zip", Options())
        except DataError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"PK\x05\x06\0\0\0\0", b"PK\x05\x06\1\0\1\0", "one of several volumes"),
        (b"\x05\0\x05\0", b"\x06\0\x06\0", "has 5 files instead of 6"),
        (b"PK\x01\x02", b"PK\x01\x03", "damaged after 0 files"),
    ],
)
def test_each_fault_has_its_message(old: bytes, new: bytes, reason: str, tmp_path: Path) -> None:
    """Pieces of an archive, a file that is missing in the directory, an entry that is none."""
    content = small(tmp_path / "in.zip").partition(b"a comment")[0]
    changed = io.BytesIO(content.replace(old, new, 1))
    with pytest.raises(zipfile.BadZipFile, match=reason):
        list(entries(changed))
