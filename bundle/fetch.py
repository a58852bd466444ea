"""Download a published version from a web server or a bucket: `python -m bundle fetch URL --digest DIGEST`.

The URL is that of the version's directory, with its files below it, so any static file server will do. The server
is not trusted: the manifest must have the digest that the caller knows from elsewhere, downloads are limited in
size and time, and the version is installed only after all files have passed the checks of `reading.py`. With trusted
keys, its signature is verified before anything else of it is parsed; a signature comes along in any case.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from bundle import reading
from bundle.errors import BundleError, InvalidBundleError, PublishError
from bundle.manifest import FILES, MANIFEST_FILE, MAX_BYTES, OPTIONAL_FILES, SIGNATURE_FILE, Manifest
from bundle.repository import Bundle, install, staging
from bundle.version_paths import version_of
from common.download import DownloadError, NotThereError, below, download, shown_url
from common.errors import unwritable_reason

TIMEOUT_SECONDS = 600.0
"""Default time in which a version has to arrive."""


class FetchError(BundleError):
    """A version could not be downloaded; nothing was installed."""


def fetch(
    url: str,
    digest: str,
    models: Path,
    timeout_seconds: float = TIMEOUT_SECONDS,
    trusted: Path | None = None,
) -> Bundle:
    """Download the version at `url` and install it in `models`, under the number at the end of the URL.

    If that version is installed already, it is verified and returned.

    Args:
        url: of a version's directory, such as `https://models.example.com/mnist/3`.
        digest: the manifest's digest, 64 hexadecimal digits, as `python -m bundle show` prints it.
        models: the model repository to write to.
        timeout_seconds: time in which all files have to arrive.
        trusted: public keys, by one of which the version must be signed; None accepts any version.

    Raises:
        FetchError: the URL is not one of a version; the server does not return the files, or not in time; the manifest
            has another digest; or a file fails verification. No message has the URL's user name, password or query.
        InvalidBundleError: no trusted key signed the version, its manifest is invalid, or the installed version was
            changed.
        TrustedKeysError: the keys cannot be used.
        PublishError: the repository cannot be written, or has another version of that number.
    """
    version = _version(url)
    if version is None:
        raise FetchError(f"{shown_url(url)!r} is not the URL of a version: give https://HOST/PATH/VERSION")
    deadline = time.monotonic() + timeout_seconds
    signed = below(url, SIGNATURE_FILE)
    signature = None if trusted is None else _signature(signed, deadline)
    manifest = _manifest(below(url, MANIFEST_FILE), digest, deadline, signature, trusted)
    return install_from(
        manifest,
        version,
        models,
        lambda name, path: write_chunks(_chunks(below(url, name), MAX_BYTES[name], deadline), path),
        lambda: _signature(signed, deadline) if trusted is None else signature,
        shown=shown_url(url),
        trusted=trusted,
    )


def install_from(
    manifest: Manifest,
    version: int,
    models: Path,
    copy: Callable[[str, Path], None],
    signature: Callable[[], bytes | None],
    *,
    shown: str,
    trusted: Path | None,
) -> Bundle:
    """Install a version whose files `copy` writes, each after its check; if it is installed already, verify it.

    Args:
        manifest: of the version. It decides which files are copied.
        version: the number to install it as.
        models: the model repository to write to.
        copy: writes the file of a name to a path.
        signature: returns the content of `model.sig`, which comes along; None if there is none.
        shown: the version's URL in messages.
        trusted: as for `Bundle.open`, of what is installed already.

    Raises:
        FetchError: a file fails verification.
        InvalidBundleError, PublishError: as `fetch`.
    """
    if found := _already_there(models / manifest.name / str(version), manifest.digest, trusted):
        return found
    with staging(models, manifest.name) as directory:
        if (sealed := signature()) is not None:
            write_chunks([sealed], directory / SIGNATURE_FILE)
        for name in sorted(manifest.files, key=(*FILES, *OPTIONAL_FILES).index):
            copy(name, directory / name)
            try:
                reading.check(directory, manifest, name)
            except InvalidBundleError as error:
                raise FetchError(f"{shown} failed verification: {error}") from None
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


def _signature(url: str, deadline: float) -> bytes | None:
    """Return `model.sig`, or None where the server says that there is none."""
    try:
        return b"".join(download(url, limit=MAX_BYTES[SIGNATURE_FILE], deadline=deadline).chunks)
    except NotThereError:
        return None
    except DownloadError as error:
        raise FetchError(str(error)) from None


def _manifest(
    url: str, digest: str, deadline: float, signature: bytes | None, trusted: Path | None
) -> Manifest:
    data = b"".join(_chunks(url, MAX_BYTES[MANIFEST_FILE], deadline))
    manifest = reading.parse_manifest(data, signature, trusted)
    if manifest.digest != digest.lower():
        raise FetchError(
            f"{shown_url(url)} has the digest {manifest.digest}, not {digest}: it is another version"
        )
    return manifest


def _already_there(path: Path, digest: str, trusted: Path | None) -> Bundle | None:
    if not path.exists():
        return None
    bundle = Bundle.open(path, trusted)
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
            file.writelines(chunks)
    except OSError as error:  # of the disk: the server's have become FetchError
        raise PublishError(f"cannot write {path}: {unwritable_reason(error)}") from None


def _chunks(url: str, limit: int, deadline: float) -> Iterator[bytes]:
    """Yield the body of a response of at most `limit` bytes."""
    try:
        yield from download(url, limit=limit, deadline=deadline).chunks
    except DownloadError as error:
        raise FetchError(str(error)) from None
