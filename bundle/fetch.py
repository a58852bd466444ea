"""Download a published version from a web server or a bucket: `python -m bundle fetch URL --digest DIGEST`.

The URL is that of the version's directory, with its files below it, so any static file server will do. The server
is not trusted: the manifest must have the digest that the caller knows from elsewhere, downloads are limited in
size, and the version is installed only after all files have passed the checks of `reading.py`.
"""

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from bundle import reading
from bundle.errors import BundleError, InvalidBundleError, PublishError
from bundle.manifest import FILES, MANIFEST_FILE, MAX_BYTES, OPTIONAL_FILES, Manifest
from bundle.repository import Bundle, install, staging, version_of
from common.atomic_files import CHUNK_BYTES
from common.errors import one_line

TIMEOUT_SECONDS = 30.0
"""Timeout of the connection, and of each read."""


class FetchError(BundleError):
    """A version could not be downloaded; nothing was installed."""


def fetch(url: str, digest: str, models: Path) -> Bundle:
    """Download the version at `url` and install it in `models`, under the number at the end of the URL.

    If that version is installed already, it is verified and returned.

    Args:
        url: of a version's directory, such as `https://models.example.com/mnist/3`.
        digest: the manifest's digest, 64 hexadecimal digits, as `python -m bundle show` prints it.
        models: the model repository to write to.

    Raises:
        FetchError: the URL is not one of a version; the server does not return the files; the manifest has another
            digest; or a file fails verification.
        InvalidBundleError: the downloaded manifest is invalid, or the installed version was changed.
        PublishError: the repository cannot be written, or has another version of that number.
    """
    version = _version(url)
    if version is None:
        raise FetchError(f"{url!r} is not the URL of a version: give https://HOST/PATH/VERSION")
    base = url.rstrip("/")
    manifest = _manifest(f"{base}/{MANIFEST_FILE}", digest)
    if found := _already_there(models / manifest.name / str(version), digest):
        return found
    with staging(models, manifest.name) as directory:
        for name in sorted(manifest.files, key=(*FILES, *OPTIONAL_FILES).index):
            _file(f"{base}/{name}", directory / name)
            try:
                reading.check(directory, manifest, name)
            except InvalidBundleError as error:
                raise FetchError(f"{base} failed verification: {error}") from None
        return install(directory, manifest, version)


def _version(url: str) -> int | None:
    """Return the version number at the end of an HTTP URL; None if it has none."""
    try:
        address = urlsplit(url)
    except ValueError:  # half of an IPv6 address
        return None
    is_web = address.scheme in ("http", "https") and address.hostname
    return version_of(address.path.rstrip("/").rpartition("/")[2]) if is_web else None


def _manifest(url: str, digest: str) -> Manifest:
    manifest = Manifest.from_bytes(b"".join(_chunks(url, MAX_BYTES[MANIFEST_FILE])))
    if manifest.digest != digest.lower():
        raise FetchError(f"{url} has the digest {manifest.digest}, not {digest}: it is another version")
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


def _file(url: str, path: Path) -> None:
    try:
        with path.open("wb") as file:
            for chunk in _chunks(url, MAX_BYTES[path.name]):
                file.write(chunk)
    except OSError as error:  # of the disk: the server's have become FetchError
        raise PublishError(f"cannot write {path}: {error.strerror}") from None


def _chunks(url: str, limit: int) -> Iterator[bytes]:
    """Yield the body of a response of at most `limit` bytes."""
    with _errors_as_fetch_errors(url):
        request = urllib.request.Request(url, headers={"User-Agent": "glyph"})  # noqa: S310 - `_version` checked it
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310 - as above
            expected, received = response.length, 0
            while chunk := response.read(CHUNK_BYTES):
                received += len(chunk)
                if received > limit:
                    raise FetchError(f"{url} has more than {limit} bytes")
                yield chunk
            if expected is not None and received != expected:
                raise FetchError(f"{url} ended after {received} of {expected} bytes")


@contextmanager
def _errors_as_fetch_errors(url: str) -> Iterator[None]:
    """Turn the HTTP client's exceptions into `FetchError`.

    Exceptions of the code that consumes the chunks do not pass through here: a generator sees only those that are
    raised in it.
    """
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        raise FetchError(f"{url} returned {error.code} {one_line(error.reason)}") from None
    # URLError and time-outs are OSErrors; an address that is not ASCII is a ValueError.
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = one_line(getattr(error, "reason", None) or error)
        raise FetchError(f"{url} cannot be fetched: {reason}") from None
