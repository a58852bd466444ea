"""The model repository on disk: `models/<name>/<version>/`, published atomically, never changed.

A version exists when its directory has its final name, an integer. Publishing fills a directory
whose name starts with a dot, flushes it, and renames it; rename fails on a name that is taken, so
two publishers never get the same number, without a lock.
"""

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bundle import reading
from bundle.errors import BundleError, InvalidBundleError, NoBundleError, PublishError
from bundle.manifest import (
    FILES,
    MANIFEST_FILE,
    MAX_BYTES,
    OPTIONAL_FILES,
    Manifest,
    ModelMetadata,
    is_complete,
)
from bundle.triton import FIRST_LINE, config_pbtxt
from common.atomic_files import fsync_path, read_regular, sha256_regular, write_whole

STAGING_PREFIX = ".staging-"
STAGING_LEFTOVER_SECONDS = 24 * 3600
CONFIG_FILE = "config.pbtxt"
MAX_CONFIG_BYTES = 1 << 16
RANDOM = "?" * 8
"""What `tempfile` ends its names with."""
MAX_VERSION_DIGITS = 18
"""What int64 holds, which is what JSON's readers hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """One published version: where it is, and its manifest, already proven unchanged."""

    path: Path
    version: int
    manifest: Manifest

    @classmethod
    def open(cls, path: Path) -> "Bundle":
        """Read the manifest of the version directory `path` (`models/<name>/<version>`).

        Raises:
            NoBundleError: there is no such directory, or its name is not a version.
            InvalidBundleError: the manifest is missing, unreadable, changed or too new.
        """
        path = path.absolute()
        if not os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where a name is too long
            raise NoBundleError(f"there is no directory {path}")
        version = version_of(path.name)
        if version is None:
            raise NoBundleError(
                f"{path} is not a version: give models/NAME/VERSION, where VERSION is an integer"
            )
        manifest = reading.read_manifest(path)
        if manifest.name != path.parent.name:
            raise InvalidBundleError(
                f"the manifest is of model '{manifest.name}', the directory of '{path.parent.name}'"
            )
        return cls(path=path, version=version, manifest=manifest)

    def read(self, name: str) -> bytes:
        """Return the content of the file `name`, proven to be what was published, and safe to parse.

        What is hashed is what is returned, so nothing can be swapped in between.

        Raises:
            InvalidBundleError: see `reading.read`.
        """
        return reading.read(self.path, self.manifest, name)

    def prove(self, *names: str) -> dict[str, bytes]:
        """Prove every file to be what was published, and return the content of those that are named.

        Raises:
            InvalidBundleError: see `reading.read`; also of a file that is named and that the bundle has not.
        """
        for name in sorted({*self.manifest.files} - {*names}):
            reading.check(self.path, self.manifest, name)
        return {name: self.read(name) for name in names}


def versions(model: Path) -> list[int]:
    """Return the published versions in `models/<name>`, ascending; none if it does not exist.

    Raises:
        NoBundleError: the directory is there and cannot be read.
    """
    try:
        with os.scandir(model) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise NoBundleError(f"{model} cannot be read: {error.strerror}") from None
    return sorted(version for name in names if (version := version_of(name)) is not None)


def resolve(model: Path, version: int | None = None) -> Bundle:
    """Open one version of `models/<name>`, the newest if none is asked for.

    Raises:
        NoBundleError: nothing is published there, or not that version.
        InvalidBundleError: the manifest is missing, unreadable, changed or too new.
    """
    published = versions(model)
    if not published:
        raise NoBundleError(
            f"no version is published in {model}: train one with 'python -m training fit', "
            "or name another place"
        )
    if version is not None and version not in published:
        raise NoBundleError(f"version {version} is not published in {model}: there are {_listing(published)}")
    return Bundle.open(model / str(published[-1] if version is None else version))


@contextmanager
def staging(models: Path, name: str) -> Iterator[Path]:
    """Give a directory in which to build a bundle; it is removed unless `publish` took it.

    It lies beside the versions of `name`, on the same file system, under a name that is no
    version. What a crash left there more than a day ago is cleared away first.
    """
    model = models / name
    try:
        model.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(model)
        directory = Path(tempfile.mkdtemp(dir=model, prefix=STAGING_PREFIX))
    except OSError as error:
        raise PublishError(f"cannot write in {model}: {error.strerror}") from None
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def publish(directory: Path, metadata: ModelMetadata) -> Bundle:
    """Make the staged `directory` the next version of its model, atomically and durably.

    Args:
        directory: from `staging`, holding every file of `FILES`, maybe of `OPTIONAL_FILES`, and nothing else.
        metadata: what the manifest says beside the hashes.

    Raises:
        PublishError: files are missing, unknown, or such that no reader would take them; the class count differs
            from what the model's versions have; or the disk refused.
    """
    model = directory.parent
    present = {entry.name for entry in directory.iterdir()}
    if not is_complete(present):
        raise PublishError(
            f"a bundle is exactly {', '.join(FILES)}; "
            f"missing: {sorted(set(FILES) - present)}, "
            f"unknown: {sorted(present - {*FILES, *OPTIONAL_FILES})}"
        )
    if metadata.name != model.name:
        raise PublishError(f"the metadata are of model '{metadata.name}', the place of '{model.name}'")
    try:
        files = {name: sha256_regular(directory / name, MAX_BYTES[name]) for name in sorted(present)}
        _finish(directory, Manifest.seal(metadata, files))
        version = _rename_to_next_version(directory, model)
        fsync_path(model)
        fsync_path(model.parent)  # the model's own name may be new, too
    except OSError as error:
        raise PublishError(f"cannot publish in {model}: {error.strerror}") from None
    return Bundle.open(model / str(version))


def install(directory: Path, manifest: Manifest, version: int) -> Bundle:
    """Make the staged `directory` the version `version` of its model, atomically and durably.

    For a bundle that was published elsewhere, whose manifest is known.

    Raises:
        PublishError: a file is not what the manifest says, or such that no reader would take it; the version is
            there already; the class count differs from what the model's versions have; or the disk refused.
    """
    model = directory.parent
    try:
        _finish(directory, manifest)
        directory.rename(model / str(version))
        fsync_path(model)
        fsync_path(model.parent)
    except OSError as error:
        raise PublishError(f"cannot write version {version} in {model}: {error.strerror}") from None
    return Bundle.open(model / str(version))


def _finish(directory: Path, manifest: Manifest) -> None:
    """Write the manifest, prove all by what a reader will prove, and let nothing be lost or changed from here on."""
    write_whole(directory / MANIFEST_FILE, manifest.to_bytes())
    try:
        reading.read_manifest(directory)
        for name in sorted(manifest.files):
            reading.check(directory, manifest, name)
    except InvalidBundleError as error:
        raise PublishError(f"no reader would take this version of '{manifest.name}': {error}") from None
    _write_config(directory.parent, manifest)
    for name in (*manifest.files, MANIFEST_FILE):
        (directory / name).chmod(0o444)
        fsync_path(directory / name)
    directory.chmod(0o755)
    fsync_path(directory)


def _rename_to_next_version(directory: Path, model: Path) -> int:
    version = max(versions(model), default=0) + 1
    while True:
        if version_of(str(version)) is None:
            raise PublishError(
                f"{model} has version {version - 1}, after which there is no number: remove it"
            )
        try:
            directory.rename(model / str(version))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            version += 1  # another publisher took it between the look and the rename
        else:
            return version


def _write_config(model: Path, metadata: ModelMetadata) -> None:
    """Write Triton's configuration, which all versions share; refuse what would break them."""
    if has_config(model, metadata):
        return
    config = config_pbtxt(metadata.name, len(metadata.classes)).encode()
    path = model / CONFIG_FILE
    if os.path.lexists(path) and not _is_own_config(path):
        raise PublishError(
            f"{path} was not written by Glyph, and would be overwritten: "
            "move it, or publish under another name (--name)"
        )
    for version in versions(model):
        try:
            published = Bundle.open(model / str(version)).manifest
        except BundleError:
            continue  # what cannot be read constrains nothing
        if len(published.classes) != len(metadata.classes):
            raise PublishError(
                f"version {version} of '{metadata.name}' has {len(published.classes)} classes and "
                f"this model has {len(metadata.classes)}: publish it under another name (--name)"
            )
    write_whole(path, config)


def has_config(model: Path, metadata: ModelMetadata) -> bool:
    """Tell whether Triton's configuration is what every version of this model needs."""
    try:
        found = read_regular(model / CONFIG_FILE, MAX_CONFIG_BYTES)
    except OSError:
        return False
    return found == config_pbtxt(metadata.name, len(metadata.classes)).encode()


def _is_own_config(path: Path) -> bool:
    """Tell whether some Glyph wrote this configuration, for whatever model."""
    try:
        return read_regular(path, MAX_CONFIG_BYTES).startswith(FIRST_LINE.encode())
    except OSError:
        return False


def _clear_leftovers(model: Path) -> None:
    """Remove what crashes left behind, by the exact names that `tempfile` makes: others' hidden files stay."""
    for path in (*model.glob(f"{STAGING_PREFIX}{RANDOM}"), *model.glob(f".{CONFIG_FILE}.{RANDOM}")):
        try:
            if time.time() - path.lstat().st_mtime <= STAGING_LEFTOVER_SECONDS:
                continue
        except FileNotFoundError:
            continue  # its publisher finished meanwhile
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def version_of(name: str) -> int | None:
    """Return the version that a directory name stands for: a positive integer without leading 0."""
    digits = name.isascii() and name.isdigit() and len(name) <= MAX_VERSION_DIGITS
    return int(name) if digits and name[0] != "0" else None


def _listing(published: list[int]) -> str:
    shown = ", ".join(str(version) for version in published[-10:])
    return shown if len(published) <= 10 else f"{shown} and {len(published) - 10} older ones"
