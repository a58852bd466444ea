"""Atomic file writes, whatever happens while they are written."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.atomic_files import CHUNK_BYTES, sha256_bytes, sha256_file, whole_file, write_whole
from tests.conftest import ROOT

OLD, NEW = b"old" * 1000, b"new" * 3_000_000

DYING_WRITER = """
import json, sys
from pathlib import Path
from common.atomic_files import write_whole
from tests.dying import die_everywhere

path = Path(sys.argv[1])
seen = []
deaths = die_everywhere(
    lambda: write_whole(path, b"new" * 3_000_000),
    path.parent,
    lambda _: seen.append({b"old": "old", b"new": "new"}[path.read_bytes()[:3]] + str(path.stat().st_size)),
)
print(json.dumps([deaths, seen]))
"""


@pytest.fixture
def mask() -> Iterator[int]:
    """Set an unusual umask, and the old one again."""
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_hashes_are_those_of_hashlib(tmp_path: Path, size: int) -> None:
    """A file's hash is that of its bytes, at and around the chunk's length."""
    data = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "file").write_bytes(data[:size])
    assert sha256_file(tmp_path / "file") == hashlib.sha256(data[:size]).hexdigest()
    assert sha256_bytes(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_file_is_written_into_directories_that_are_made(tmp_path: Path) -> None:
    """The content is there, nothing else is, and missing directories were made."""
    write_whole(tmp_path / "a" / "b" / "file", NEW)
    assert (tmp_path / "a" / "b" / "file").read_bytes() == NEW
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]


@pytest.mark.parametrize("old", [None, OLD])
def test_a_block_that_raises_changes_nothing(tmp_path: Path, old: bytes | None) -> None:
    """If the block raises, even an exit, the old content stays, or no file, and nothing is left over."""
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)

    def interrupted() -> None:
        with whole_file(path) as file:
            file.write(NEW)
            sys.exit(3)

    with pytest.raises(SystemExit):
        interrupted()
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == ([] if old is None else [old])


def test_the_name_keeps_its_old_content_until_the_block_ends(tmp_path: Path) -> None:
    """A reader during the writing sees the old file."""
    path = tmp_path / "file"
    path.write_bytes(OLD)
    with whole_file(path) as file:
        file.write(NEW)
        file.flush()
        assert path.read_bytes() == OLD
    assert path.read_bytes() == NEW


def test_a_failing_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the flush to the disk fails, the old content stays and nothing is left over."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "file").write_bytes(OLD)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "file", NEW)
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [OLD]


def test_a_writer_killed_anywhere_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    """Killed before each call that touches the disk, the file is wholly old, then wholly new."""
    path = tmp_path / "file"
    path.write_bytes(OLD)
    done = subprocess.run(
        [sys.executable, "-c", DYING_WRITER, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    deaths, seen = json.loads(done.stdout)
    old, new = f"old{len(OLD)}", f"new{len(NEW)}"
    assert deaths >= 5
    assert set(seen) == {old, new}
    assert seen == sorted(seen, reverse=True)


def test_the_data_reach_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is flushed, then renamed, then its directory is flushed: what survives a power cut."""
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        done.append("directory" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "file")
        fsync(descriptor)

    def watched_replace(path: Path, target: Path) -> Path:
        done.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    write_whole(tmp_path / "file", NEW)
    assert done == ["file", "rename", "directory"]


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("taken", ["file", "directory", "broken link", None])
def test_without_overwriting_only_a_free_name_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: str | None, links: bool
) -> None:
    """What has the name when the block ends stays, on a file system without hard links too."""

    def reject(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", reject)
    path = tmp_path / "file"

    def write() -> None:
        with whole_file(path, overwrite=False) as file:
            file.write(NEW)
            if taken == "file":
                path.write_bytes(OLD)
            if taken == "directory":
                path.mkdir()
            if taken == "broken link":
                path.symlink_to("nowhere")

    if taken is None:
        write()
        assert path.read_bytes() == NEW
    else:
        with pytest.raises(FileExistsError):
            write()
        assert path.is_dir() if taken == "directory" else path.is_symlink() or path.read_bytes() == OLD
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.usefixtures("mask")
def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    """Under umask 027 a file is readable by its group and by nobody else, and the umask stays."""
    write_whole(tmp_path / "file", NEW)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert os.umask(0o027) == 0o027
