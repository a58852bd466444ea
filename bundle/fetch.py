"""Download a published version from a web server or a bucket: `python -m bundle fetch URL --digest DIGEST`.

The URL is that of the version's directory, with its files below it, so any static file server will do. The server
is not trusted: the manifest must have the digest that the caller knows from elsewhere, downloads are limited in
size and time, and the version is installed only after all files have passed the checks of `reading.py`.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from bundle import reading
from bundle.errors import BundleError, InvalidBundleError, PublishError
from bundle.manifest import FILES, MANIFEST_FILE, MAX_BYTES, OPTIONAL_FILES, Manifest
from bundle.repository import Bundle, install, staging
from bundle.version_paths import version_of
from common.download import DownloadError, below, download, shown_url
from common.errors import unwritable_reason

TIMEOUT_SECONDS = 600.0
"""Default time in which a version has to arrive."""


class FetchError(BundleError):
    """A version could not be downloaded; nothing was installed."""


def fetch(url: str, digest: str, models: Path, timeout_seconds: float = TIMEOUT_SECONDS) -> Bundle:
    """Download the version at `url` and install it in `models`, under the number at the end of the URL.

    If that version is installed already, it is verified and returned.

    Args:
        url: of a version's directory, such as `https://models.example.com/mnist/3`.
        digest: the manifest's digest, 64 hexadecimal digits, as `python -m bundle show` prints it.
        models: the model repository to write to.
        timeout_seconds: time in which all files have to arrive.

    Raises:
        FetchError: the URL is not one of a version; the server does not return the files, or not in time; the manifest
            has another digest; or a file fails verification. No message has the URL's user name, password or query.
        InvalidBundleError: the downloaded manifest is invalid, or the installed version was changed.
        PublishError: the repository cannot be written, or has another version of that number.
    """
    version = _version(url)
    if version is None:
        raise FetchError(f"{shown_url(url)!r} is not the URL of a version: give https://HOST/PATH/VERSION")
    deadline = time.monotonic() + timeout_seconds
    manifest = _manifest(below(url, MANIFEST_FILE), digest, deadline)
    return install_from(
        manifest,
        version,
        models,
        lambda name, path: _file(below(url, name), path, deadline),
        shown_url(url),
    )


def install_from(
    manifest: Manifest,
    version: int,
    models: Path,
    copy: Callable[[str, Path], None],
    shown: str,
    beside: Sequence[str] = (),
) -> Bundle:
    """Install a version whose files `copy` writes, each after its check; if it is installed already, verify it.

    Args:
        manifest: of the version. It decides which files are copied.
        version: the number to install it as.
        models: the model repository to write to.
        copy: writes the file of a name to a path.
        shown: the version's URL in messages.
        beside: names of files that the manifest does not list and that are copied too.

    Raises:
        FetchError: a file fails verification.
        InvalidBundleError, PublishError: as `fetch`.
    """
    if found := _already_there(models / manifest.name / str(version), manifest.digest):
        return found
    with staging(models, manifest.name) as directory:
        for name in sorted(manifest.files, key=(*FILES, *OPTIONAL_FILES).index):
            copy(name, directory / name)
            try:
                reading.check(directory, manifest, name)
            except InvalidBundleError as error:
                raise FetchError(f"{shown} failed verification: {error}") from None
        for name in beside:
            copy(name, directory / name)
        return install(directory, manifest, version)


def _version(url: str) -> int | None:
    """Return the version number at the end of an HTTP URL; None if it has none."""
    try:
        address = urlsplit(url)
        address.port  # noqa: B018 - it is parsed when it is read
    except ValueError:  # half of an IPv6 address, or a port that is no number
        return None
    is_web = address.scheme in ("http", "https") and address.hostname
    return version_of(address.path.rstrip("/").rpartition("/")[2]) if is_web else None


def _manifest(url: str, digest: str, deadline: float) -> Manifest:
    manifest = Manifest.from_bytes(b"".join(_chunks(url, MAX_BYTES[MANIFEST_FILE], deadline)))
    if manifest.digest != digest.lower():
        raise FetchError(
            f"{shown_url(url)} has the digest {manifest.digest}, not {digest}: it is another version"
        )
    return manifest


def _already_there(path: Path, digest: str) -> Bundle | None:
    if not path.exists():
        return None
    bundle = Bundle.open(path)
    if bundle.manifest.digest != digest.lower():
        raise PublishError(
            f"{path} exists already, with the digest {bundle.manifest.digest}: remove it first"
        )
    bundle.prove()
    return bundle


def write_chunks(chunks: Iterable[bytes], path: Path) -> None:
    """Write a file as its chunks arrive.

    Raises:
        PublishError: the disk is full, or cannot be written.
    """
    try:
        with path.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
    except OSError as error:  # of the disk: the server's have become FetchError
        raise PublishError(f"cannot write {path}: {unwritable_reason(error)}") from None


def _file(url: str, path: Path, deadline: float) -> None:
    write_chunks(_chunks(url, MAX_BYTES[path.name], deadline), path)


def _chunks(url: str, limit: int, deadline: float) -> Iterator[bytes]:
    """Yield the body of a response of at most `limit` bytes."""
    try:
        yield from download(url, limit=limit, deadline=deadline).chunks
    except DownloadError as error:
        raise FetchError(str(error)) from None
