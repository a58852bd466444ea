"""`python -m bundle`: show, list, verify, push and fetch published bundles, in directories and in object stores.

A URL is one of fsspec: s3://BUCKET/..., gs://BUCKET/..., az://CONTAINER/...; each needs its extra (s3, gcs, azure).

Exit codes: 0 success; 1 the bundle failed verification, or is missing; 2 a wrong command line or URL.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bundle.errors import BundleError
from bundle.fetch import TIMEOUT_SECONDS, fetch
from bundle.manifest import Manifest
from bundle.repository import Bundle, resolve, versions
from bundle.verify import problems
from bundle.version_paths import file_instead_of_directory, split_version
from common.download import shown_url
from common.object_store import ObjectStore, StoreError
from common.store_urls import is_store_url, shown_store_url


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m bundle", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    version, model = "models/NAME/VERSION|URL", "models/NAME|URL"
    verify = commands.add_parser("verify", help="verify every file of a published version")
    verify.add_argument("path", metavar=version)
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
    try:
        if options.command == "fetch":
            print(_fetch(options.url, options.digest, options.models, options.timeout_seconds).path)
            return 0
        if options.command == "push":
            return _push(Path(options.path), options.url)
        run = {"verify": _verify, "show": _show, "list": _list}[options.command]
        return run(options.path)
    except (BundleError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _fetch(url: str, digest: str | None, models: Path, timeout_seconds: float) -> Bundle:
    if is_store_url(url):
        from bundle.remote import fetch_version, resolve

        return fetch_version(resolve(url, digest=digest and digest.lower()), models, timeout_seconds)
    if digest is None:
        raise ValueError(
            "--digest is missing: a web server is not trusted, so give the digest that 'python -m bundle show' prints"
        )
    return fetch(url, digest, models, timeout_seconds)


def _push(path: Path, url: str) -> int:
    from bundle.remote import push

    if not is_store_url(url):
        raise ValueError(
            f"{shown_url(url)} is no URL of an object store: give s3://BUCKET/models, for example"
        )
    pushed = push(resolve(*split_version(path)), url)
    print(f"{pushed.store.url} has digest {pushed.manifest.digest}")
    return 0


def _verify(path: str) -> int:
    if is_store_url(path):
        from bundle.remote import problems as remote_problems

        found = remote_problems(path)
    else:
        found = problems(Path(path))
    for problem in found:
        print(f"error: {problem}", file=sys.stderr)
    if found:
        print(f"{_shown(path)} is NOT intact: {len(found)} problem(s)", file=sys.stderr)
        return 1
    manifest = _manifest(path)
    print(f"{_shown(path)} is intact: {len(manifest.files) + 1} files, digest {manifest.digest}")
    return 0


def _show(path: str) -> int:
    sys.stdout.buffer.write(_manifest(path).to_bytes())  # UTF-8, whatever the locale
    return 0


def _manifest(path: str) -> Manifest:
    if not is_store_url(path):
        return Bundle.open(Path(path)).manifest
    from bundle.remote import resolve as resolve_remote

    return resolve_remote(path).manifest


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
