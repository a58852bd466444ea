"""The model repository on disk: immutable versions in `models/<name>/<version>/`, published atomically.

A version exists once its directory has its final name, an integer. Publishing fills a staging directory, whose name
starts with a dot, flushes it to disk, and renames it. The rename fails if the name is taken, so two publishers never
get the same number, without a lock.
"""

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bundle import reading
from bundle.errors import BundleError, InvalidBundleError, NoBundleError, PublishError
from bundle.manifest import (
    FILES,
    MANIFEST_FILE,
    MAX_BYTES,
    OPTIONAL_FILES,
    SIGNATURE_FILE,
    Manifest,
    ModelMetadata,
    is_complete,
)
from bundle.signing import Signer
from bundle.triton import FIRST_LINE, config_pbtxt
from bundle.version_paths import file_instead_of_directory, is_file, version_of
from common.atomic_files import fsync_path, read_regular, sha256_regular, write_whole
from common.errors import unwritable_reason

STAGING_PREFIX = ".staging-"
STAGING_LEFTOVER_SECONDS = 24 * 3600
CONFIG_FILE = "config.pbtxt"
MAX_CONFIG_BYTES = 1 << 16
MOUNTED_VERSION = 1
"""The number of a version whose directory's name is none."""
RANDOM = "?" * 8
"""Glob of the suffix that `tempfile` gives its names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """A published version: its path and its verified manifest."""

    path: Path
    version: int
    manifest: Manifest

    @classmethod
    def open(cls, path: Path, trusted: Path | None = None, *, mounted: bool = False) -> "Bundle":
        """Read the manifest of the version directory `path` (`models/<name>/<version>`).

        Args:
            path: of the version's directory.
            trusted: file or directory of public keys, by one of which it must be signed; None accepts any version.
            mounted: whether its place may have any name, as where a platform has put it: `/opt/ml/model`. Its version
                is `MOUNTED_VERSION` if the name is no number.

        Raises:
            NoBundleError: there is no such directory, or its name is not a version.
            InvalidBundleError: the manifest is missing, unreadable, changed or too new, or no trusted key signed it.
            TrustedKeysError: the keys cannot be used.
        """
        path = path.absolute()
        if not os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where a name is too long
            raise NoBundleError(file_instead_of_directory(path) or f"there is no directory {path}")
        version = version_of(path.name) or (MOUNTED_VERSION if mounted else None)
        if version is None:
            raise NoBundleError(
                f"{path} is not a version: give models/NAME/VERSION, where VERSION is a positive integer"
            )
        manifest = reading.read_manifest(path, trusted)
        if not mounted and manifest.name != path.parent.name:
            raise InvalidBundleError(
                f"the manifest is of model '{manifest.name}', but the directory is of model '{path.parent.name}'"
            )
        return cls(path=path, version=version, manifest=manifest)

    def named(self, name: str) -> "Bundle":
        """Return the bundle under another name; its digest stays the published one."""
        return replace(self, manifest=self.manifest.model_copy(update={"name": name}))

    def read(self, name: str) -> bytes:
        """Return the content of the file `name`, verified by its SHA-256 and safe to parse.

        The bytes that are hashed are the bytes that are returned, so no file can be swapped in between.

        Raises:
            InvalidBundleError: see `reading.read`.
        """
        return reading.read(self.path, self.manifest, name)

    def prove(self, *names: str) -> dict[str, bytes]:
        """Verify every file of the bundle, and return the content of the named ones.

        Raises:
            InvalidBundleError: see `reading.read`; also for a named file that the bundle does not have.
        """
        for name in sorted({*self.manifest.files} - {*names}):
            reading.check(self.path, self.manifest, name)
        return {name: self.read(name) for name in names}


def versions(model: Path) -> list[int]:
    """Return the published versions in `models/<name>`, ascending; an empty list if it does not exist.

    Raises:
        NoBundleError: the directory exists and cannot be read.
    """
    try:
        with os.scandir(model) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise NoBundleError(f"{model} cannot be read: {error.strerror}") from None
    return sorted(version for name in names if (version := version_of(name)) is not None)


def published(model: Path) -> list[int]:
    """Return the versions to serve, ascending: those in `models/<name>`, or the one that the directory itself is.

    Raises:
        NoBundleError: the directory exists and cannot be read.
    """
    return [MOUNTED_VERSION] if is_file(model / MANIFEST_FILE) else versions(model)


def version_path(model: Path, version: int) -> Path:
    """Return the directory of one of the `published` versions."""
    return model if is_file(model / MANIFEST_FILE) else model / str(version)


def resolve(model: Path, version: int | None = None, trusted: Path | None = None) -> Bundle:
    """Open a version of `models/<name>`, by default the newest; `trusted` as for `Bundle.open`.

    The directory may have any name (`published`).

    Raises:
        NoBundleError: no version is published there, or not this one.
        InvalidBundleError, TrustedKeysError: as `Bundle.open`.
    """
    found = published(model)
    if not found:
        if (wrong := file_instead_of_directory(model)) is not None:
            raise NoBundleError(wrong)
        raise NoBundleError(
            f"no version is published in {model}",
            remedy="train one with 'python -m training fit', or give another directory",
        )
    if version is not None and version not in found:
        raise NoBundleError(f"version {version} is not published in {model}: there are {_listing(found)}")
    return Bundle.open(version_path(model, found[-1] if version is None else version), trusted, mounted=True)


@contextmanager
def staging(models: Path, name: str) -> Iterator[Path]:
    """Yield a staging directory in which to build a bundle; it is removed unless `publish` renamed it.

    It is beside the versions of `name`, on the same file system, under a name that is not a version. Leftovers of
    crashes that are older than a day are removed first.
    """
    model = models / name
    try:
        model.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(model)
        directory = Path(tempfile.mkdtemp(dir=model, prefix=STAGING_PREFIX))
    except OSError as error:
        raise PublishError(f"cannot write in {model}: {unwritable_reason(error)}") from None
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def check_room(models: Path, name: str, *, classes: int, size: int) -> None:
    """Check, before a model is trained, that a version of it could be published.

    Args:
        models: the model repository.
        name: of the model, whose directory is created.
        classes: number of classes of the model.
        size: lower bound on the bytes of the version.

    Raises:
        PublishError: the directory cannot be written or has too little space, its configuration is somebody else's, or
            a published version has another number of classes.
    """
    with staging(models, name) as directory:
        _check_config(directory.parent, classes)
        space = shutil.disk_usage(directory)
        if space.total and space.free < size:  # some network file systems report no sizes
            raise PublishError(
                f"cannot publish in {directory.parent}: the disk has {space.free:,} bytes free, and a version of this "
                f"model has at least {size:,}: make room, or give another --models"
            )


def publish(directory: Path, metadata: ModelMetadata, signer: Signer | None = None) -> Bundle:
    """Make the staging `directory` the next version of its model, atomically and durably.

    Args:
        directory: from `staging`, with all of `FILES`, optionally some of `OPTIONAL_FILES`, and nothing else.
        metadata: the content of the manifest beside the hashes.
        signer: what signs the version; None leaves it unsigned.

    Raises:
        SigningError: the version cannot be signed.
        PublishError: files are missing, unknown or fail verification; the model's versions have another number of
            classes; or the disk cannot be written.
    """
    model = directory.parent
    present = {entry.name for entry in directory.iterdir()}
    if not is_complete(present):
        raise PublishError(
            f"a bundle has exactly the files {', '.join(FILES)}; "
            f"missing: {sorted(set(FILES) - present)}, "
            f"unknown: {sorted(present - {*FILES, *OPTIONAL_FILES})}"
        )
    if metadata.name != model.name:
        raise PublishError(
            f"the metadata is of model '{metadata.name}', but the directory is of model '{model.name}'"
        )
    try:
        files = {name: sha256_regular(directory / name, MAX_BYTES[name]) for name in sorted(present)}
        _finish(directory, Manifest.seal(metadata, files), signer)
        version = _rename_to_next_version(directory, model)
        fsync_path(model)
        fsync_path(model.parent)  # the model's directory may be new as well
    except OSError as error:
        raise PublishError(f"cannot publish in {model}: {unwritable_reason(error)}") from None
    return Bundle.open(model / str(version))


def install(directory: Path, manifest: Manifest, version: int) -> Bundle:
    """Make the staging `directory` the version `version` of its model, atomically and durably.

    This installs a bundle that was published elsewhere, with its manifest.

    Raises:
        PublishError: a file fails verification; the version exists already; the model's versions have another number
            of classes; or the disk cannot be written.
    """
    model = directory.parent
    try:
        _finish(directory, manifest)
        directory.rename(model / str(version))
        fsync_path(model)
        fsync_path(model.parent)
    except OSError as error:
        raise PublishError(f"cannot write version {version} in {model}: {unwritable_reason(error)}") from None
    return Bundle.open(model / str(version))


def sign(path: Path, signer: Signer) -> Bundle:
    """Sign a published version, whose files must be intact; an earlier signature is replaced.

    Raises:
        SigningError: it cannot be signed.
        PublishError: the signature cannot be written.
        NoBundleError, InvalidBundleError: there is no intact version.
    """
    bundle = Bundle.open(path)
    bundle.prove()
    try:
        _write_signature(bundle.path, bundle.manifest, signer)
    except OSError as error:
        raise PublishError(f"cannot write {path / SIGNATURE_FILE}: {unwritable_reason(error)}") from None
    return bundle


def _write_signature(directory: Path, manifest: Manifest, signer: Signer) -> None:
    write_whole(directory / SIGNATURE_FILE, signer.sign(directory, manifest))
    (directory / SIGNATURE_FILE).chmod(0o444)


def _finish(directory: Path, manifest: Manifest, signer: Signer | None = None) -> None:
    """Write the manifest, verify the bundle as its readers will, make the files read-only and flush them to disk."""
    write_whole(directory / MANIFEST_FILE, manifest.to_bytes())
    try:
        reading.read_manifest(directory)
        for name in sorted(manifest.files):
            reading.check(directory, manifest, name)
    except InvalidBundleError as error:
        raise PublishError(f"this version of '{manifest.name}' failed verification: {error}") from None
    _write_config(directory.parent, manifest)
    if signer is not None:
        _write_signature(directory, manifest, signer)
    for name in sorted(entry.name for entry in directory.iterdir()):
        (directory / name).chmod(0o444)
        fsync_path(directory / name)
    directory.chmod(0o755)
    fsync_path(directory)


def _rename_to_next_version(directory: Path, model: Path) -> int:
    version = max(versions(model), default=0) + 1
    while True:
        if version_of(str(version)) is None:
            raise PublishError(f"{model} has version {version - 1}, the largest possible number: remove it")
        try:
            directory.rename(model / str(version))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            version += 1  # another publisher has taken this number
        else:
            return version


def _write_config(model: Path, metadata: ModelMetadata) -> None:
    """Write Triton's configuration, which all versions share, unless that would break one of them."""
    if not has_config(model, metadata):
        _check_config(model, len(metadata.classes))
        config = config_pbtxt(metadata.name, len(metadata.classes)).encode()
        write_whole(model / CONFIG_FILE, config)


def _check_config(model: Path, classes: int) -> None:
    """Check that Triton's configuration can be written for a model of `classes` classes.

    Raises:
        PublishError: somebody else's file is there, or a published version has another number of classes.
    """
    path = model / CONFIG_FILE
    if os.path.lexists(path) and not _is_own_config(path):
        raise PublishError(
            f"{path} was not written by Glyph and would be overwritten: move it, or publish under another name (--name)"
        )
    for version in versions(model):
        try:
            published = Bundle.open(model / str(version)).manifest
        except BundleError:
            continue  # an unreadable version is no constraint
        if len(published.classes) != classes:
            raise PublishError(
                f"version {version} of '{model.name}' has {len(published.classes)} classes and "
                f"this model has {classes}: publish it under another name (--name)"
            )


def has_config(model: Path, metadata: ModelMetadata) -> bool:
    """Return whether Triton's configuration is the one of this model."""
    try:
        found = read_regular(model / CONFIG_FILE, MAX_CONFIG_BYTES)
    except OSError:
        return False
    return found == config_pbtxt(metadata.name, len(metadata.classes)).encode()


def _is_own_config(path: Path) -> bool:
    """Return whether Glyph wrote this configuration, for any model."""
    try:
        return read_regular(path, MAX_CONFIG_BYTES).startswith(FIRST_LINE.encode())
    except OSError:
        return False


def _clear_leftovers(model: Path) -> None:
    """Remove the leftovers of crashes, matched by the exact names that `tempfile` makes; other hidden files stay."""
    for path in (*model.glob(f"{STAGING_PREFIX}{RANDOM}"), *model.glob(f".{CONFIG_FILE}.{RANDOM}")):
        try:
            if time.time() - path.lstat().st_mtime <= STAGING_LEFTOVER_SECONDS:
                continue
        except FileNotFoundError:
            continue  # its publisher has finished meanwhile
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _listing(published: list[int]) -> str:
    shown = ", ".join(str(version) for version in published[-10:])
    return shown if len(published) <= 10 else f"{shown} and {len(published) - 10} older ones"
