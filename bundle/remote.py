"""Versions in an object store: `URL/NAME/VERSION/`, written whole or not at all, and fetched like from any server.

A version counts once its manifest is there, and the manifest is written last, when every other file has been written,
read back and hashed. A version's number belongs to one content: whoever pushes first creates `URL/NAME/.claims/VERSION`
with the manifest's digest, by a write that fails where the object exists. So

- two pushers at once get different numbers, or, if they push the same version, write the same bytes;
- a push that was killed finds its claim again, by the digest, and goes on; nothing is pushed twice;
- a version is never overwritten.

Where a store ignores the condition (`ObjectStore.create`), two pushers at the very same moment could take one number.
Then the one whose claim was overwritten takes the next number as soon as it reads the claim again, which it does last
before it writes the manifest; and what it has written meanwhile no reader takes for whole, because hashes differ.

A listing is not trusted: of it only numbers are used, and the names of files are the manifest's.
"""

import contextlib
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bundle import reading
from bundle.errors import BundleError, InvalidBundleError, NoBundleError, PublishError
from bundle.fetch import TIMEOUT_SECONDS, FetchError, install_from, write_chunks
from bundle.manifest import FILES, MANIFEST_FILE, MAX_BYTES, OPTIONAL_FILES, SIGNATURE_FILE, Manifest
from bundle.repository import CONFIG_FILE, Bundle
from bundle.triton import config_pbtxt
from bundle.version_paths import version_of
from common.atomic_files import sha256_regular
from common.object_store import ObjectStore, StoreError

CLAIMS = ".claims"
MAX_CLAIM_BYTES = 1024
WRITE_CHECK = f"{CLAIMS}/write-check"
"""An object without meaning, by which `check_pushable` finds out whether it may write."""
BESIDE = tuple(sorted({*MAX_BYTES} - {MANIFEST_FILE, *FILES, *OPTIONAL_FILES}))
"""Files of a version that no manifest lists, because they are about the manifest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteVersion:
    """A published version in a store."""

    store: ObjectStore
    """Of the version's folder."""
    version: int
    manifest: Manifest


def push(bundle: Bundle, url: str) -> RemoteVersion:
    """Publish a local version in a model repository of a store, under the next free number there.

    A version that is there already, by its manifest's digest, is returned, and one whose push was interrupted is
    completed.

    Args:
        bundle: the version, which is verified first.
        url: of the model repository; the version becomes `URL/NAME/VERSION`.

    Raises:
        InvalidBundleError: the local version was changed.
        PublishError: the store has versions with another number of classes, or something else in this one's place.
        StoreError: the store refused or cannot be reached; the same call goes on.
        ValueError: the URL is not one of a store.
    """
    manifest = bundle.manifest
    bundle.prove()
    model = _model_store(url, manifest.name)
    _check_classes(model, len(manifest.classes))
    while True:
        version = _claimed_number(model, manifest.digest)
        folder = model.below(str(version))
        data = manifest.to_bytes()
        if (written := folder.read(MANIFEST_FILE, MAX_BYTES[MANIFEST_FILE])) is None:
            for name in (*manifest.files, *BESIDE):
                _upload(bundle, folder, name)
            _upload_config(model, manifest)
            if _claim(model, version) != manifest.digest:
                continue  # another pusher has taken the number, in a store that ignores conditions
            folder.create(MANIFEST_FILE, data)
            written = folder.read(MANIFEST_FILE, MAX_BYTES[MANIFEST_FILE])
        if written != data:
            raise PublishError(f"{folder.url}/{MANIFEST_FILE} is another version's: nothing was overwritten")
        return RemoteVersion(store=folder, version=version, manifest=manifest)


def check_pushable(url: str, name: str, classes: int) -> None:
    """Check, before a model is trained, that a version of it could be pushed.

    Args:
        url: of the model repository.
        name: of the model.
        classes: number of its classes.

    Raises:
        PublishError, StoreError, ValueError: as `push`.
    """
    model = _model_store(url, name)
    _check_classes(model, classes)
    model.write(WRITE_CHECK, b"")


def _model_store(url: str, name: str) -> ObjectStore:
    repository = ObjectStore.open(url)
    if CLAIMS in (there := repository.folders()) and any(map(version_of, there)):
        raise PublishError(
            f"{repository.url} is a model, not a model repository: give the URL above, below which the version becomes "
            f"{name}/VERSION"
        )
    return repository.below(name)


def _claimed_number(model: ObjectStore, digest: str) -> int:
    """Return the number that a version has in the store, which is claimed if it has none."""
    claimed = {number for name in model.names(CLAIMS) if (number := version_of(name))}
    taken = claimed | {*numbers(model)}
    for number in sorted(taken, reverse=True):
        if (_claim(model, number) if number in claimed else _published_digest(model, number)) == digest:
            return number
    number = max(taken, default=0) + 1
    while True:
        if version_of(str(number)) is None:
            raise PublishError(
                f"{model.url} has version {number - 1}, the largest possible number: remove it"
            )
        model.create(f"{CLAIMS}/{number}", digest.encode())
        if _claim(model, number) == digest:
            return number
        number += 1


def _claim(model: ObjectStore, number: int) -> str:
    return (model.read(f"{CLAIMS}/{number}", MAX_CLAIM_BYTES) or b"").decode("ascii", "replace").strip()


def _published_digest(model: ObjectStore, number: int) -> str:
    """Return the digest of a version that was copied there by other means; it has no claim."""
    try:
        return open_version(model, number).manifest.digest
    except BundleError:
        return ""


def _upload(bundle: Bundle, folder: ObjectStore, name: str) -> None:
    """Write a file, unless it is there, and read it back."""
    path = bundle.path / name
    if name in BESIDE:
        if not path.exists():
            return
        expected = sha256_regular(path, MAX_BYTES[name])
    else:
        expected = bundle.manifest.files[name]
    if _hash(folder, name) == expected:
        return
    folder.upload(path, name)
    if _hash(folder, name) != expected:
        raise StoreError(
            f"{folder.url}/{name} is not what was written: another process writes there, or the file has changed; "
            "push again"
        )


def _upload_config(model: ObjectStore, manifest: Manifest) -> None:
    """Write Triton's configuration, which all versions share; an existing one stays."""
    model.create(CONFIG_FILE, config_pbtxt(manifest.name, len(manifest.classes)).encode())


def _hash(folder: ObjectStore, name: str) -> str | None:
    """Return the SHA-256 of an object; None if there is none, or it is too large for its name."""
    size = folder.size(name)
    if size is None or size > MAX_BYTES[name]:
        return None
    digest = hashlib.sha256()
    for chunk in folder.chunks(name, MAX_BYTES[name]):
        digest.update(chunk)
    return digest.hexdigest()


def _check_classes(model: ObjectStore, classes: int) -> None:
    """Check the number of classes against the newest version's, which was checked against the one before."""
    newest = next(published(model), None)
    if newest is not None and (there := len(newest.manifest.classes)) != classes:
        raise PublishError(
            f"version {newest.version} of {model.url} has {there} classes and this model has {classes}: publish it "
            "under another name (--name)"
        )


def numbers(model: ObjectStore) -> list[int]:
    """Return the numbers of the versions in a store, ascending; some may not be published yet."""
    return sorted(number for name in model.folders() if (number := version_of(name)) is not None)


def published(model: ObjectStore, trusted: Path | None = None) -> Iterator[RemoteVersion]:
    """Yield the versions that have a valid manifest, the newest first; `trusted` as for `open_version`."""
    for number in reversed(numbers(model)):
        with contextlib.suppress(InvalidBundleError, NoBundleError):
            yield open_version(model, number, trusted)


def open_version(model: ObjectStore, number: int, trusted: Path | None = None) -> RemoteVersion:
    """Read the manifest of a version.

    Args:
        model: the store of the model.
        number: of the version.
        trusted: public keys, by one of which it must be signed; None accepts any version.

    Raises:
        NoBundleError: it has none, so it is not published.
        InvalidBundleError: it is invalid, or another model's, or no trusted key signed it.
        TrustedKeysError: the keys cannot be used.
        StoreError: the store cannot be read.
    """
    store = model.below(str(number))
    data = store.read(MANIFEST_FILE, MAX_BYTES[MANIFEST_FILE])
    if data is None:
        raise NoBundleError(f"{store.url} has no {MANIFEST_FILE}, so it is not published")
    signature = None if trusted is None else store.read(SIGNATURE_FILE, MAX_BYTES[SIGNATURE_FILE])
    manifest = reading.parse_manifest(data, signature, trusted)
    if manifest.name != (name := model.url.rpartition("/")[2]):
        raise InvalidBundleError(f"the manifest is of model '{manifest.name}', but the folder is of '{name}'")
    return RemoteVersion(store=store, version=number, manifest=manifest)


def split_url(url: str) -> tuple[ObjectStore, int | None]:
    """Return the model's store, and the version if the URL is one's: `URL/NAME/VERSION`, with a manifest.

    Raises:
        StoreError: the store cannot be read.
        ValueError: the URL is not one of a store.
    """
    store = ObjectStore.open(url)
    above, _, name = url.rstrip("/").rpartition("/")
    number = version_of(name)
    if number is None or store.size(MANIFEST_FILE) is None:
        return store, None
    return ObjectStore.open(above), number


def resolve(
    url: str, *, version: int | None = None, digest: str | None = None, trusted: Path | None = None
) -> RemoteVersion:
    """Return the version that a URL names, of a model by default the newest.

    Args:
        url: of a model, `URL/NAME`, or of a version, `URL/NAME/VERSION`.
        version: of the model.
        digest: of the version's manifest; of a model, the version that has it.
        trusted: as for `open_version`; of a model, versions that none of the keys signed are passed over.

    Raises:
        NoBundleError: there is no such version.
        InvalidBundleError, TrustedKeysError: as `open_version`.
        StoreError, ValueError: as `split_url`.
    """
    model, number = split_url(url)
    number = number or version
    if number is not None:
        found = open_version(model, number, trusted)
        if digest is not None and found.manifest.digest != digest:
            raise NoBundleError(
                f"{found.store.url} has the digest {found.manifest.digest}, not {digest}: it is another version"
            )
        return found
    for found in published(model, trusted):
        if digest in (None, found.manifest.digest):
            return found
    what = "no version" if digest is None else f"no version with the digest {digest}"
    raise NoBundleError(f"{what} is published in {model.url}", remedy="push one with 'python -m bundle push'")


def total_bytes(version: RemoteVersion) -> int:
    """Return the bytes of a version's files, which are known before any is fetched.

    Raises:
        FetchError: a file is missing, or larger than its limit.
    """
    total = 0
    for name in version.manifest.files:
        size = version.store.size(name)
        if size is None or size > MAX_BYTES[name]:
            raise FetchError(
                f"{version.store.url}/{name} "
                + (
                    "is missing"
                    if size is None
                    else f"has {size:,} bytes; at most {MAX_BYTES[name]:,} are fetched"
                )
            )
        total += size
    return total


def fetch_version(
    version: RemoteVersion,
    models: Path,
    timeout_seconds: float = TIMEOUT_SECONDS,
    trusted: Path | None = None,
) -> Bundle:
    """Download a version into `models/NAME/VERSION`, as `bundle.fetch.fetch` does from a web server.

    Raises:
        FetchError: a file is missing, too large or fails verification.
        InvalidBundleError, PublishError: as `bundle.fetch.fetch`.
        StoreError: the store refused, or did not send everything in time.
    """
    deadline = time.monotonic() + timeout_seconds
    total_bytes(version)
    store = version.store

    def copy(name: str, path: Path) -> None:
        write_chunks(store.chunks(name, MAX_BYTES[name], deadline), path)

    def signature() -> bytes | None:
        return store.read(SIGNATURE_FILE, MAX_BYTES[SIGNATURE_FILE])

    return install_from(
        version.manifest, version.version, models, copy, signature, shown=store.url, trusted=trusted
    )


def problems(url: str, *, version: int | None = None, trusted: Path | None = None) -> list[str]:
    """Return all problems of a version in a store, whose every file is read and hashed."""
    try:
        found = resolve(url, version=version, trusted=trusted)
    except BundleError as error:
        return [str(error)]
    return [
        f"{found.store.url}/{name} is missing, or was changed after it was published"
        for name, expected in sorted(found.manifest.files.items())
        if _hash(found.store, name) != expected
    ]
