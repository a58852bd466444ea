"""`python -m bundle`: show, list, verify, sign, push and fetch published bundles, in directories and in object stores.

A URL is one of fsspec: s3://BUCKET/..., gs://BUCKET/..., az://CONTAINER/...; each needs its extra (s3, gcs, azure).

Exit codes: 0 success; 1 the bundle failed verification, or is missing; 2 a wrong command line or URL.
"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bundle.errors import BundleError
from bundle.fetch import TIMEOUT_SECONDS, fetch
from bundle.manifest import SIGNATURE_FILE, Manifest
from bundle.repository import Bundle, resolve, sign, versions
from bundle.signing import PASSPHRASE, Signer
from bundle.verify import problems
from bundle.version_paths import file_instead_of_directory, split_version
from common.download import shown_url
from common.object_store import ObjectStore, StoreError
from common.programs import named
from common.store_urls import is_store_url, shown_store_url

TRUSTED_KEYS = "GLYPH_TRUSTED_KEYS"
"""The service's variable, which holds for these commands too."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(prog=named("python -m bundle"), description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    version, model = "models/NAME/VERSION|URL", "models/NAME|URL"
    verify = commands.add_parser("verify", help="verify every file of a published version")
    verify.add_argument("path", metavar=version)
    _add_trusted_keys(verify)
    signer = commands.add_parser("sign", help="sign a published version, for --trusted-keys of its readers")
    signer.add_argument("path", type=Path, metavar="models/NAME/VERSION")
    signer.add_argument("key", type=Path, help=f"PEM file of the private key; {PASSPHRASE} is its passphrase")
    show = commands.add_parser("show", help="print the manifest of a version")
    show.add_argument("path", metavar=version)
    lister = commands.add_parser("list", help="list the published versions of a model")
    lister.add_argument("path", metavar=model)
    pusher = commands.add_parser(
        "push", help="publish a version in an object store too, under its next free number"
    )
    pusher.add_argument("path", metavar="models/NAME[/VERSION]", help="a version, or the newest of a model")
    pusher.add_argument(
        "url", metavar="URL", help="of the model repository; it becomes URL/NAME/VERSION there"
    )
    fetcher = commands.add_parser(
        "fetch", help="download a published version from a web server or an object store"
    )
    fetcher.add_argument(
        "url",
        metavar="URL",
        help="of a version's directory, https://HOST/PATH/VERSION or s3://BUCKET/PATH/VERSION; of an object store also "
        "of a model, whose newest version is fetched",
    )
    fetcher.add_argument(
        "--digest", help="digest of its manifest, as show prints it; a web server's version needs one"
    )
    _add_trusted_keys(fetcher)
    fetcher.add_argument(
        "--models", type=Path, default=Path("models"), help="model repository to write to (default: models)"
    )
    fetcher.add_argument(
        "--timeout-seconds",
        type=float,
        default=TIMEOUT_SECONDS,
        help=f"time in which all files have to arrive (default: {TIMEOUT_SECONDS:.0f})",
    )
    options = parser.parse_args(arguments)
    runs: dict[str, Callable[[], int]] = {
        "verify": lambda: _verify(options.path, options.trusted_keys),
        "sign": lambda: _sign(options.path, options.key),
        "show": lambda: _show(options.path),
        "list": lambda: _list(options.path),
        "push": lambda: _push(Path(options.path), options.url),
        "fetch": lambda: _fetch(options),
    }
    try:
        return runs[options.command]()
    except (BundleError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _add_trusted_keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trusted-keys",
        type=Path,
        default=os.environ.get(TRUSTED_KEYS) or None,
        metavar="PATH",
        help="PEM file of public keys, or directory of such files: refuse a version that none of them signed "
        f"(default: {TRUSTED_KEYS} in the environment)",
    )


def _sign(path: Path, key: Path) -> int:
    print(sign(path, Signer(key)).path / SIGNATURE_FILE)
    return 0


def _fetch(options: argparse.Namespace) -> int:
    print(_fetched(options).path)
    return 0


def _fetched(options: argparse.Namespace) -> Bundle:
    url, digest, trusted = options.url, options.digest, options.trusted_keys
    if is_store_url(url):
        from bundle.remote import fetch_version
        from bundle.remote import resolve as resolve_remote

        found = resolve_remote(url, digest=digest and digest.lower(), trusted=trusted)
        return fetch_version(found, options.models, options.timeout_seconds, trusted)
    if digest is None:
        raise ValueError(
            "--digest is missing: a web server is not trusted, so give the digest that 'python -m bundle show' prints"
        )
    return fetch(url, digest, options.models, options.timeout_seconds, trusted)


def _push(path: Path, url: str) -> int:
    from bundle.remote import push

    if not is_store_url(url):
        raise ValueError(
            f"{shown_url(url)} is no URL of an object store: give s3://BUCKET/models, for example"
        )
    pushed = push(resolve(*split_version(path)), url)
    print(f"{pushed.store.url} has digest {pushed.manifest.digest}")
    return 0


def _verify(path: str, trusted: Path | None) -> int:
    if is_store_url(path):
        from bundle.remote import problems as remote_problems

        found = remote_problems(path, trusted=trusted)
    else:
        found = problems(Path(path), trusted)
    for problem in found:
        print(f"error: {problem}", file=sys.stderr)
    if found:
        print(f"{_shown(path)} is NOT intact: {len(found)} problem(s)", file=sys.stderr)
        return 1
    manifest = _manifest(path, trusted)
    signed = "" if trusted is None else ", signed by a trusted key"
    print(f"{_shown(path)} is intact: {len(manifest.files) + 1} files, digest {manifest.digest}{signed}")
    return 0


def _show(path: str) -> int:
    sys.stdout.buffer.write(_manifest(path).to_bytes())  # UTF-8, whatever the locale
    return 0


def _manifest(path: str, trusted: Path | None = None) -> Manifest:
    if not is_store_url(path):
        return Bundle.open(Path(path), trusted).manifest
    from bundle.remote import resolve as resolve_remote

    return resolve_remote(path, trusted=trusted).manifest


def _stored_manifest(model: ObjectStore, version: int) -> Manifest:
    from bundle.remote import open_version

    return open_version(model, version).manifest


def _list(path: str) -> int:
    if is_store_url(path):
        from bundle.remote import numbers, split_url

        store, version = split_url(path)
        there = numbers(store) if version is None else [version]
        empty = f"no version is published in {store.url}"
        found = [_line(number, partial(_stored_manifest, store, number)) for number in there]
    else:
        model, version = split_version(Path(path))
        there = versions(model) if version is None else [version]
        empty = file_instead_of_directory(model) or f"no version is published in {model}"
        found = [_line(number, partial(_manifest, str(model / str(number)))) for number in there]
    for line in found:
        print(line)
    if not there:
        print(empty, file=sys.stderr)
    return 0 if there else 1


def _line(version: int, manifest_of: Callable[[], Manifest]) -> str:
    try:
        manifest = manifest_of()
    except BundleError as error:
        return f"{version}\tunusable: {error}"
    return (
        f"{version}\t{manifest.created}\ttest accuracy {manifest.test.accuracy:.2%}\t{manifest.digest[:12]}"
    )


def _shown(path: str) -> str:
    return shown_store_url(path) if is_store_url(path) else path


if __name__ == "__main__":
    sys.exit(main())
