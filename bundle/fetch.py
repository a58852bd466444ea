"""Fetch a published version from a web server or a bucket: `python -m bundle fetch URL --digest DIGEST`.

The URL is that of the version's directory, with its files below it: any server of static files will do.
Nothing that comes is trusted: the manifest must have the digest that was asked for, which is known from
elsewhere; every other file the SHA-256 that the manifest states. What has a limit of size is cut there,
and nothing counts until all of it has come.
"""

import hashlib
import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from bundle.errors import BundleError, InvalidBundleError, PublishError
from bundle.files import CHUNK_BYTES
from bundle.manifest import FILES, MANIFEST_FILE, OPTIONAL_FILES, Manifest, is_complete
from bundle.repository import Bundle, install, staging

MAX_MANIFEST_BYTES = 4 << 20
"""Settings, hashes and histograms: one of 47 classes has 20 KB."""
MAX_FILE_BYTES = 1 << 30
"""The largest file of the largest preset has 48 MB."""
TIMEOUT_SECONDS = 30.0
"""For a connection, and then for each piece that is read."""

_VERSION = re.compile(r"[1-9][0-9]{0,8}")


class FetchError(BundleError):
    """A version could not be had from where it was asked for; nothing was written that counts."""


def fetch(url: str, digest: str, models: Path) -> Bundle:
    """Make the version at `url` a version of `models`, with the number that the URL ends in.

    It is left as it is if it is there already.

    Args:
        url: of a version's directory, as `https://models.example.com/mnist/3`.
        digest: of its manifest, 64 hexadecimal digits: `python -m bundle show` prints it.
        models: the model repository to write in.

    Raises:
        FetchError: the URL is none that can be fetched, the server does not answer with the files, or
            they are not what the digest says.
        InvalidBundleError: what came is no manifest, or the version that is there was changed.
        PublishError: the repository cannot be written, or has another version of that number.
    """
    address = urlsplit(url)
    version = address.path.rstrip("/").rpartition("/")[2]
    if address.scheme not in ("http", "https") or not address.hostname or not _VERSION.fullmatch(version):
        raise FetchError(f"{url!r} is no address of a version: give https://HOST/PATH/VERSION")
    base = url.rstrip("/")
    manifest = _manifest(f"{base}/{MANIFEST_FILE}", digest)
    if found := _already_there(models / manifest.name / version, digest):
        return found
    with staging(models, manifest.name) as directory:
        for name in sorted(manifest.files, key=(*FILES, *OPTIONAL_FILES).index):
            _file(f"{base}/{name}", directory / name, manifest.files[name])
        return install(directory, manifest, int(version))


def _manifest(url: str, digest: str) -> Manifest:
    data = b"".join(_chunks(url, MAX_MANIFEST_BYTES))
    manifest = Manifest.from_bytes(data)
    if manifest.digest != digest.lower():
        raise FetchError(f"{url} has the digest {manifest.digest}, not {digest}: it is another version")
    if not is_complete(manifest.files):  # other names could lead anywhere
        raise InvalidBundleError(f"{url} lists {sorted(manifest.files)}, a bundle is {sorted(FILES)}")
    return manifest


def _already_there(path: Path, digest: str) -> Bundle | None:
    if not path.exists():
        return None
    bundle = Bundle.open(path)
    if bundle.manifest.digest != digest.lower():
        raise PublishError(
            f"{path} is there already, with the digest {bundle.manifest.digest}: remove it first"
        )
    return bundle


def _file(url: str, path: Path, sha256: str) -> None:
    digest = hashlib.sha256()
    try:
        with path.open("wb") as file:
            for chunk in _chunks(url, MAX_FILE_BYTES):
                digest.update(chunk)
                file.write(chunk)
    except OSError as error:  # the server's are FetchError by now
        raise PublishError(f"cannot write {path}: {error.strerror}") from None
    if digest.hexdigest() != sha256:
        raise FetchError(f"{url} has the SHA-256 {digest.hexdigest()}, the manifest says {sha256}")


def _chunks(url: str, limit: int) -> Iterator[bytes]:
    """Yield what a server answers with, of at most `limit` bytes."""
    with _said_plainly(url):
        request = urllib.request.Request(url, headers={"User-Agent": "glyph"})  # noqa: S310 - `fetch` has looked
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
def _said_plainly(url: str) -> Iterator[None]:
    """Turn what the library raises into a sentence.

    An error of whoever takes the chunks is none of the server's, and never passes through here: a
    generator sees only what is raised in it.
    """
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        raise FetchError(f"{url} is answered with {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
        raise FetchError(f"{url} cannot be fetched: {getattr(error, 'reason', None) or error}") from None
