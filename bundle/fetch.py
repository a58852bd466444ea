"""Fetch a published version from a web server or a bucket: `python -m bundle fetch URL --digest DIGEST`.

The URL is that of the version's directory, with its files below it: any server of static files will do.
Nothing that comes is trusted: the manifest must have the digest that was asked for, which is known from
elsewhere; each file is cut at its limit; and nothing counts until all of it has come and is what every
reader of a bundle asks for (`reading.py`).
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
"""For a connection, and then for each piece that is read."""


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
        FetchError: the URL is none that can be fetched; the server does not answer with the files; the manifest has
            another digest; or a file is not what it says, or such that no reader would take it.
        InvalidBundleError: what came is no manifest, or the version that is there was changed.
        PublishError: the repository cannot be written, or has another version of that number.
    """
    version = _version(url)
    if version is None:
        raise FetchError(f"{url!r} is no address of a version: give https://HOST/PATH/VERSION")
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
                raise FetchError(f"{base} cannot be taken: {error}") from None
        return install(directory, manifest, version)


def _version(url: str) -> int | None:
    """Return the version at the end of a web address; None if it is none."""
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
            f"{path} is there already, with the digest {bundle.manifest.digest}: remove it first"
        )
    bundle.prove()
    return bundle


def _file(url: str, path: Path) -> None:
    try:
        with path.open("wb") as file:
            for chunk in _chunks(url, MAX_BYTES[path.name]):
                file.write(chunk)
    except OSError as error:  # the server's are FetchError by now
        raise PublishError(f"cannot write {path}: {error.strerror}") from None


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
        raise FetchError(f"{url} is answered with {error.code} {one_line(error.reason)}") from None
    # URLError and time-outs are OSErrors; an address that is not ASCII is a ValueError.
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = one_line(getattr(error, "reason", None) or error)
        raise FetchError(f"{url} cannot be fetched: {reason}") from None
