"""`python -m bundle`: show, list, verify, sign and fetch published bundles.

Exit codes: 0 success; 1 the bundle failed verification, or is missing; 2 a wrong command line.
"""

import argparse
import os
import sys
from pathlib import Path

from bundle.errors import BundleError
from bundle.fetch import TIMEOUT_SECONDS, fetch
from bundle.manifest import SIGNATURE_FILE
from bundle.repository import Bundle, sign, versions
from bundle.signing import PASSPHRASE, Signer
from bundle.verify import problems
from bundle.version_paths import file_instead_of_directory, split_version
from common.programs import named

TRUSTED_KEYS = "GLYPH_TRUSTED_KEYS"
"""The service's variable, which holds for these commands too."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(prog=named("python -m bundle"), description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser("verify", help="verify every file of a published version")
    verify.add_argument("path", type=Path, metavar="models/NAME/VERSION")
    _add_trusted_keys(verify)
    signer = commands.add_parser("sign", help="sign a published version, for --trusted-keys of its readers")
    signer.add_argument("path", type=Path, metavar="models/NAME/VERSION")
    signer.add_argument("key", type=Path, help=f"PEM file of the private key; {PASSPHRASE} is its passphrase")
    show = commands.add_parser("show", help="print the manifest of a version")
    show.add_argument("path", type=Path, metavar="models/NAME/VERSION")
    lister = commands.add_parser("list", help="list the published versions of a model")
    lister.add_argument("path", type=Path, metavar="models/NAME")
    fetcher = commands.add_parser("fetch", help="download a published version from a web server or a bucket")
    fetcher.add_argument("url", metavar="https://HOST/PATH/VERSION", help="URL of the version's directory")
    fetcher.add_argument("--digest", required=True, help="digest of its manifest, as show prints it")
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
    try:
        if options.command == "fetch":
            trusted = options.trusted_keys
            print(fetch(options.url, options.digest, options.models, options.timeout_seconds, trusted).path)
            return 0
        if options.command == "sign":
            print(sign(options.path, Signer(options.key)).path / SIGNATURE_FILE)
            return 0
        if options.command == "verify":
            return _verify(options.path, options.trusted_keys)
        run = {"show": _show, "list": _list}[options.command]
        return run(options.path)
    except BundleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _add_trusted_keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trusted-keys",
        type=Path,
        default=os.environ.get(TRUSTED_KEYS) or None,
        metavar="PATH",
        help="PEM file of public keys, or directory of such files: refuse a version that none of them signed "
        f"(default: {TRUSTED_KEYS} in the environment)",
    )


def _verify(path: Path, trusted: Path | None) -> int:
    found = problems(path, trusted)
    for problem in found:
        print(f"error: {problem}", file=sys.stderr)
    if found:
        print(f"{path} is NOT intact: {len(found)} problem(s)", file=sys.stderr)
        return 1
    bundle = Bundle.open(path, trusted)
    count = len(bundle.manifest.files) + 1
    signed = "" if trusted is None else ", signed by a trusted key"
    print(f"{path} is intact: {count} files, digest {bundle.manifest.digest}{signed}")
    return 0


def _show(path: Path) -> int:
    sys.stdout.buffer.write(Bundle.open(path).manifest.to_bytes())  # UTF-8, whatever the locale
    return 0


def _list(path: Path) -> int:
    path, version = split_version(path)
    published = versions(path) if version is None else [version]
    for version in published:
        try:
            manifest = Bundle.open(path / str(version)).manifest
            print(
                f"{version}\t{manifest.created}\ttest accuracy {manifest.test.accuracy:.2%}"
                f"\t{manifest.digest[:12]}"
            )
        except BundleError as error:
            print(f"{version}\tunusable: {error}")
    if not published:
        print(file_instead_of_directory(path) or f"no version is published in {path}", file=sys.stderr)
    return 0 if published else 1


if __name__ == "__main__":
    sys.exit(main())
